//! rate-limiting: so many requests per second, minute, hour, day, month, year.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue, StatusCode, header};
use plinth_kong::{LimitBy, Period, Policy, RateLimitingConfig};

use super::limits::{Limit, Limits, Scope, Usage, Window};
use super::redis::{Client, Pools, Question, Unavailable};
use crate::context::{EarlyResponse, RequestContext};

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// What one period says.
#[derive(Debug)]
struct Headers {
    limit: HeaderName,
    remaining: HeaderName,
    value: HeaderValue,
}

#[derive(Debug)]
pub(super) struct RateLimiting {
    limits: Arc<[Limit]>,
    /// Beside `limits`.
    headers: Vec<Headers>,
    scope: Scope,
    limit_by: LimitBy,
    header_name: Option<HeaderName>,
    path: Option<String>,
    hide_headers: bool,
    fault_tolerant: bool,
    status: StatusCode,
    message: String,
    counting: Counting,
}

#[derive(Debug)]
enum Counting {
    Local(Arc<Limits>),
    Redis(Arc<Client>),
}

/// How the access phase goes on.
pub(super) enum Access {
    Done(Option<EarlyResponse>),
    /// Redis has to be asked.
    Ask(Question),
}

impl RateLimiting {
    pub fn new(
        config: &RateLimitingConfig,
        scope: Scope,
        limits: &Arc<Limits>,
        pools: &Pools,
    ) -> Result<RateLimiting, String> {
        // Used < 2.5 admits three requests, so a fraction rounds up.
        let list: Vec<Limit> =
            config.limits().map(|(period, most)| Limit { period, most: most.ceil() as u64 }).collect();
        let headers = list.iter().map(headers).collect::<Result<_, _>>()?;
        let header_name = config.header_name.as_ref().map(|name| HeaderName::from_bytes(name.as_bytes()));
        Ok(RateLimiting {
            limits: list.into(),
            headers,
            scope,
            limit_by: config.limit_by,
            header_name: header_name.transpose().map_err(|_| "invalid header_name".to_owned())?,
            path: config.path.clone(),
            hide_headers: config.hide_client_headers,
            fault_tolerant: config.fault_tolerant,
            status: StatusCode::from_u16(config.error_code).map_err(|_| "invalid error_code".to_owned())?,
            message: config.error_message.clone(),
            counting: match config.policy {
                Policy::Local => Counting::Local(Arc::clone(limits)),
                Policy::Redis => Counting::Redis(pools.client(&config.redis)?),
            },
        })
    }

    pub fn access(&self, ctx: &mut RequestContext) -> Access {
        let now = ctx.timing.started_at;
        let who = self.identifier(ctx);
        match &self.counting {
            Counting::Local(limits) => {
                let usage = limits.take(self.scope, &who, &self.limits, now);
                Access::Done(self.decide(ctx, usage, now))
            }
            Counting::Redis(client) => match client.question(self.scope, &who, &self.limits, now) {
                Ok(question) => Access::Ask(question),
                Err(Unavailable) => Access::Done(self.without_redis()),
            },
        }
    }

    /// After Redis answered, or did not.
    pub fn resume(
        &self,
        ctx: &mut RequestContext,
        answer: Result<Usage, Unavailable>,
    ) -> Option<EarlyResponse> {
        match answer {
            Ok(usage) => self.decide(ctx, usage, ctx.timing.started_at),
            Err(Unavailable) => self.without_redis(),
        }
    }

    fn without_redis(&self) -> Option<EarlyResponse> {
        let failed =
            || EarlyResponse::error(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred");
        (!self.fault_tolerant).then(failed)
    }

    /// Whose requests are counted together.
    fn identifier(&self, ctx: &RequestContext) -> String {
        let credential = || ctx.credential.as_ref().map(|credential| credential.id.to_string());
        let found = match self.limit_by {
            LimitBy::Consumer => {
                ctx.consumer.as_ref().map(|consumer| consumer.id.to_string()).or_else(credential)
            }
            LimitBy::Credential => credential(),
            LimitBy::Ip => None,
            LimitBy::Service => ctx.service().map(|entry| entry.service.id.to_string()),
            LimitBy::Header => self.header_name.as_ref().and_then(|name| ctx.header(name)).map(str::to_owned),
            LimitBy::Path => {
                self.path.as_deref().filter(|path| *path == ctx.head.uri.path()).map(str::to_owned)
            }
        };
        found.unwrap_or_else(|| ctx.client_ip.to_string())
    }

    /// Sets the headers and refuses when a limit was used up before this request.
    fn decide(&self, ctx: &mut RequestContext, usage: Usage, now: SystemTime) -> Option<EarlyResponse> {
        let used_up = |limit: &Limit| usage[limit.period as usize] >= limit.most;
        let refused = self.limits.iter().any(used_up);
        let mut tightest: Option<(u64, u64, Window)> = None;
        for (limit, names) in self.limits.iter().zip(&self.headers) {
            let left = limit.most.saturating_sub(usage[limit.period as usize]);
            let left = if refused { left } else { left.saturating_sub(1) };
            // The longer period wins a tie; they come shortest first.
            if tightest.is_none_or(|(least, ..)| left <= least) {
                tightest = Some((left, limit.most, Window::of(limit.period, now)));
            }
            if !self.hide_headers {
                ctx.reply_headers.insert(names.limit.clone(), names.value.clone());
                ctx.reply_headers.insert(names.remaining.clone(), HeaderValue::from(left));
            }
        }
        let reset = tightest.map(|(.., window)| window.reset(now)).unwrap_or(1);
        if let Some((left, most, _)) = tightest.filter(|_| !self.hide_headers) {
            ctx.reply_headers.insert(LIMIT, HeaderValue::from(most));
            ctx.reply_headers.insert(REMAINING, HeaderValue::from(left));
            ctx.reply_headers.insert(RESET, HeaderValue::from(reset));
        }
        if !refused {
            return None;
        }
        let refusal = EarlyResponse::error(self.status, self.message.clone());
        Some(if self.hide_headers {
            refusal
        } else {
            refusal.with(header::RETRY_AFTER, HeaderValue::from(reset))
        })
    }
}

fn headers(limit: &Limit) -> Result<Headers, String> {
    let name = |kind: &str| {
        HeaderName::from_bytes(format!("x-ratelimit-{kind}-{}", limit.period.as_str()).as_bytes())
            .map_err(|error| error.to_string())
    };
    Ok(Headers { limit: name("limit")?, remaining: name("remaining")?, value: HeaderValue::from(limit.most) })
}

/// Kong's key of a counter.
pub(super) fn redis_key(scope: Scope, who: &str, window: Window, period: Period) -> String {
    let route = scope.route.unwrap_or_default();
    let service = scope.service.unwrap_or_default();
    format!("ratelimit:{route}:{service}:{who}:{}:{}", window.start * 1000, period.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kongs() {
        let window = Window { start: 1_700_000_040, length: 60 };
        let scope = Scope { route: None, service: None };
        assert_eq!(
            redis_key(scope, "1.2.3.4", window, Period::Minute),
            "ratelimit:00000000-0000-0000-0000-000000000000:00000000-0000-0000-0000-000000000000:1.2.3.4:1700000040000:minute"
        );
    }
}
