//! correlation-id: one name for a request across services.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::UNIX_EPOCH;

use http::{HeaderName, HeaderValue};
use plinth_kong::{CorrelationIdConfig, Generator};
use uuid::Uuid;

use crate::context::RequestContext;

/// The name of this process and how many ids it gave out.
#[derive(Debug)]
pub(super) struct Source {
    process: Uuid,
    count: AtomicU64,
}

impl Default for Source {
    fn default() -> Self {
        Source { process: Uuid::new_v4(), count: AtomicU64::new(0) }
    }
}

#[derive(Debug)]
pub(super) struct CorrelationId {
    header: HeaderName,
    generator: Generator,
    echo: bool,
    source: Arc<Source>,
}

impl CorrelationId {
    pub fn new(config: &CorrelationIdConfig, source: Arc<Source>) -> Result<CorrelationId, String> {
        let header = HeaderName::from_bytes(config.header_name.as_bytes());
        Ok(CorrelationId {
            header: header.map_err(|_| "invalid header_name".to_owned())?,
            generator: config.generator,
            echo: config.echo_downstream,
            source,
        })
    }

    /// The client's own id is kept; an empty one counts as none.
    pub fn access(&self, ctx: &mut RequestContext) {
        let sent = ctx.head.headers.get(&self.header).filter(|value| !value.is_empty()).cloned();
        let value = match sent {
            Some(value) => value,
            None => {
                let Ok(value) = HeaderValue::from_str(&self.next(ctx)) else { return };
                ctx.head.headers.insert(self.header.clone(), value.clone());
                value
            }
        };
        if self.echo {
            ctx.reply_headers.insert(self.header.clone(), value);
        }
    }

    fn next(&self, ctx: &RequestContext) -> String {
        if self.generator == Generator::Uuid {
            return Uuid::new_v4().to_string();
        }
        let count = self.source.count.fetch_add(1, Relaxed) + 1;
        match self.generator {
            Generator::UuidCounter | Generator::Uuid => format!("{}#{count}", self.source.process),
            Generator::Tracker => {
                let time = ctx.timing.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
                let client = &ctx.client;
                let (process, port) = (std::process::id(), client.local_port);
                let peer = client.peer;
                format!("{}-{port}-{process}-{}-{count}-{:.3}", peer.ip(), peer.port(), time.as_secs_f64())
            }
        }
    }
}
