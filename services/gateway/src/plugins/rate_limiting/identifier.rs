//! Whose requests are counted together, as text without an allocation.

use std::io::Write as _;
use std::net::IpAddr;

use http::HeaderName;
use plinth_kong::LimitBy;
use uuid::Uuid;

use crate::context::RequestContext;

/// What is looked at; the client's address wherever it is not there.
#[derive(Debug)]
pub(in crate::plugins) enum By {
    /// The consumer, else the credential.
    Consumer,
    Credential,
    Ip,
    Service,
    Header(HeaderName),
    Path(String),
}

/// Longer than an address or a UUID.
const ROOM: usize = 64;

pub(in crate::plugins) enum Who<'c> {
    Text(&'c str),
    Written([u8; ROOM], usize),
}

impl Who<'_> {
    pub fn as_str(&self) -> &str {
        match self {
            Who::Text(text) => text,
            Who::Written(text, length) => {
                text.get(..*length).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
            }
        }
    }

    fn written(what: impl std::fmt::Display) -> Who<'static> {
        let mut text = [0; ROOM];
        let mut rest = &mut text[..];
        // It always fits.
        let _ = write!(rest, "{what}");
        let length = ROOM - rest.len();
        Who::Written(text, length)
    }

    fn id(id: Uuid) -> Who<'static> {
        Who::written(id.as_hyphenated())
    }

    fn address(address: IpAddr) -> Who<'static> {
        Who::written(address)
    }
}

impl By {
    pub fn new(by: LimitBy, header: Option<&str>, path: Option<&str>) -> Result<By, String> {
        Ok(match by {
            LimitBy::Consumer => By::Consumer,
            LimitBy::Credential => By::Credential,
            LimitBy::Ip => By::Ip,
            LimitBy::Service => By::Service,
            LimitBy::Header => {
                let name = HeaderName::from_bytes(header.unwrap_or_default().as_bytes());
                By::Header(name.map_err(|_| "invalid header_name".to_owned())?)
            }
            LimitBy::Path => By::Path(path.unwrap_or_default().to_owned()),
        })
    }

    pub fn of<'c>(&'c self, ctx: &'c RequestContext) -> Who<'c> {
        let credential = || ctx.credential.as_ref().map(|credential| Who::Text(&credential.id));
        let found = match self {
            By::Consumer => ctx.consumer.as_ref().map(|consumer| Who::id(consumer.id)).or_else(credential),
            By::Credential => credential(),
            By::Ip => None,
            By::Service => ctx.service().map(|entry| Who::id(entry.service.id)),
            By::Header(name) => ctx.header(name).map(Who::Text),
            By::Path(path) => (path == ctx.head.uri.path()).then_some(Who::Text(path)),
        };
        found.unwrap_or_else(|| Who::address(ctx.client_ip))
    }
}
