//! ip-restriction: which addresses may pass.

use std::borrow::Cow;
use std::net::IpAddr;

use http::StatusCode;
use plinth_kong::{IpRestrictionConfig, Network};

use crate::context::{EarlyResponse, RequestContext};

#[derive(Debug)]
pub(super) struct IpRestriction {
    allow: Vec<Network>,
    deny: Vec<Network>,
    status: StatusCode,
    message: Option<String>,
}

impl IpRestriction {
    pub fn new(config: &IpRestrictionConfig) -> Result<IpRestriction, String> {
        let networks = |list: &[String]| {
            let parsed = list.iter().map(|range| range.parse::<Network>().map_err(|error| error.to_string()));
            parsed.collect::<Result<Vec<_>, _>>()
        };
        Ok(IpRestriction {
            allow: networks(&config.allow)?,
            deny: networks(&config.deny)?,
            status: StatusCode::from_u16(config.status.unwrap_or(403))
                .map_err(|_| "invalid status".to_owned())?,
            message: config.message.clone(),
        })
    }

    /// Denied ranges first; a list of allowed ones keeps out everybody else.
    pub fn access(&self, ctx: &RequestContext) -> Option<EarlyResponse> {
        let client: IpAddr = ctx.client_ip;
        let within = |list: &[Network]| list.iter().any(|network| network.contains(client));
        if !within(&self.deny) && (self.allow.is_empty() || within(&self.allow)) {
            return None;
        }
        let message = match &self.message {
            Some(message) => Cow::Owned(message.clone()),
            None => Cow::Owned(format!("IP address not allowed: {}", client.to_canonical())),
        };
        Some(EarlyResponse::error(self.status, message))
    }
}
