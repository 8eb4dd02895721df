//! response-ratelimiting: the upstream says what a request cost, in as many currencies as it likes.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, response};
use plinth_kong::{Period, Policy, ResponseRateLimitingConfig};
use redis::pipe;

use super::limits::{Limit, Limits, Scope, Window};
use super::rate_limiting::{By, number};
use super::redis::{Client, Pools, Question, Unavailable};
use crate::context::{EarlyResponse, RequestContext};

#[derive(Debug)]
pub(super) struct ResponseRateLimiting {
    header: HeaderName,
    limits: Vec<Named>,
    scope: Scope,
    by: By,
    fault_tolerant: bool,
    block_on_first_violation: bool,
    hide_headers: bool,
    counting: Counting,
}

/// One currency.
#[derive(Debug)]
struct Named {
    name: String,
    /// Shortest period first.
    limits: Vec<Limit>,
    /// `X-RateLimit-Limit-<name>-<period>` and `X-RateLimit-Remaining-…`, beside `limits`.
    headers: Vec<(HeaderName, HeaderName)>,
    /// `X-RateLimit-Remaining-<name>`, for the upstream.
    remaining: HeaderName,
}

#[derive(Debug)]
enum Counting {
    Local(Arc<Limits>),
    Redis(Arc<Client>),
}

/// What was used before this request, for each currency and period.
#[derive(Clone, Debug)]
struct Used {
    counts: Vec<Vec<u64>>,
    who: String,
}

/// How the access phase goes on.
pub(super) enum Access {
    Done(Option<EarlyResponse>),
    /// Redis has to be asked.
    Ask(Question<Vec<Option<u64>>>),
}

impl ResponseRateLimiting {
    pub fn new(
        config: &ResponseRateLimitingConfig,
        scope: Scope,
        limits: &Arc<Limits>,
        pools: &Pools,
    ) -> Result<ResponseRateLimiting, String> {
        let named = config.limits.iter().map(|(name, periods)| {
            let limits: Vec<Limit> = periods.iter().map(|(period, most)| Limit::new(period, most)).collect();
            let headers = limits.iter().map(|limit| {
                let period = limit.period.as_str();
                Ok((
                    header(&format!("limit-{name}-{period}"))?,
                    header(&format!("remaining-{name}-{period}"))?,
                ))
            });
            Ok(Named {
                headers: headers.collect::<Result<_, String>>()?,
                remaining: header(&format!("remaining-{name}"))?,
                name: name.clone(),
                limits,
            })
        });
        Ok(ResponseRateLimiting {
            header: HeaderName::from_bytes(config.header_name.as_bytes())
                .map_err(|_| "invalid header_name".to_owned())?,
            limits: named.collect::<Result<_, String>>()?,
            scope,
            by: By::new(config.limit_by, None, None)?,
            fault_tolerant: config.fault_tolerant,
            block_on_first_violation: config.block_on_first_violation,
            hide_headers: config.hide_client_headers,
            counting: match config.policy {
                Policy::Local => Counting::Local(Arc::clone(limits)),
                Policy::Redis => Counting::Redis(pools.client(&config.redis)?),
            },
        })
    }

    pub fn access(&self, ctx: &mut RequestContext) -> Access {
        let now = ctx.timing.started_at;
        match &self.counting {
            Counting::Local(limits) => {
                let who = self.by.of(ctx).as_str().to_owned();
                let used = self.limits.iter().map(|named| {
                    let usage = limits.used(self.scope, &named.local_key(&who), &named.limits, now);
                    named.limits.iter().map(|limit| usage[limit.period as usize]).collect()
                });
                let counts = used.collect();
                Access::Done(self.decide(ctx, Used { counts, who }))
            }
            Counting::Redis(client) => {
                let who = self.by.of(ctx);
                let mut pipeline = pipe();
                for named in &self.limits {
                    for limit in &named.limits {
                        pipeline.cmd("GET").arg(self.key(named, who.as_str(), limit.period, now));
                    }
                }
                match client.ask(pipeline) {
                    Ok(question) => Access::Ask(question),
                    Err(Unavailable) => Access::Done(self.without_redis()),
                }
            }
        }
    }

    /// After Redis answered, or did not.
    pub fn resume(
        &self,
        ctx: &mut RequestContext,
        answer: Result<Vec<Option<u64>>, Unavailable>,
    ) -> Option<EarlyResponse> {
        let Ok(counts) = answer else { return self.without_redis() };
        let mut counts = counts.into_iter().map(Option::unwrap_or_default);
        let used =
            self.limits.iter().map(|named| counts.by_ref().take(named.limits.len()).collect()).collect();
        let who = self.by.of(ctx).as_str().to_owned();
        self.decide(ctx, Used { counts: used, who })
    }

    fn without_redis(&self) -> Option<EarlyResponse> {
        let failed =
            || EarlyResponse::error(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred");
        (!self.fault_tolerant).then(failed)
    }

    /// Tells the upstream what is left; refuses when told to do so before the upstream is asked.
    fn decide(&self, ctx: &mut RequestContext, used: Used) -> Option<EarlyResponse> {
        for (named, counts) in self.limits.iter().zip(&used.counts) {
            let left =
                named.limits.iter().zip(counts).map(|(limit, used)| limit.most.saturating_sub(*used)).min();
            let left = left.unwrap_or_default();
            if self.block_on_first_violation && left == 0 {
                let message = format!("API rate limit exceeded for '{}'", named.name);
                return Some(EarlyResponse::error(StatusCode::TOO_MANY_REQUESTS, message));
            }
            ctx.head.headers.insert(named.remaining.clone(), number(left));
        }
        ctx.carried.insert(used);
        None
    }

    /// Takes the upstream's word for what it cost. What is used up already ends in a 429, which costs nothing.
    pub fn header(&self, ctx: &mut RequestContext, head: &mut response::Parts) {
        let costs = self.costs(&head.headers);
        head.headers.remove(&self.header);
        let Some(used) = ctx.carried.remove::<Used>() else { return };
        let mut stop = false;
        for ((named, counts), cost) in self.limits.iter().zip(&used.counts).zip(&costs) {
            for ((limit, used), (of_limit, of_rest)) in named.limits.iter().zip(counts).zip(&named.headers) {
                let left = limit.most.saturating_sub(*used);
                stop |= *cost > 0 && left == 0;
                if !self.hide_headers {
                    head.headers.insert(of_limit.clone(), number(limit.most));
                    head.headers.insert(of_rest.clone(), number(left.saturating_sub(*cost)));
                }
            }
        }
        if stop {
            head.status = StatusCode::TOO_MANY_REQUESTS;
            ctx.bodies.reply = Some(Bytes::new());
            return;
        }
        self.count(&used.who, &costs, ctx.timing.started_at);
    }

    /// `video=1, image=2`, beside `limits`; what is no number costs nothing.
    fn costs(&self, headers: &HeaderMap) -> Vec<u64> {
        let mut costs = vec![0; self.limits.len()];
        let lines = headers.get_all(&self.header).iter().filter_map(|line| line.to_str().ok());
        for (name, cost) in lines.flat_map(|line| line.split(',')).filter_map(|part| part.split_once('=')) {
            let at = self.limits.iter().position(|named| named.name == name.trim());
            if let (Some(at), Ok(cost)) = (at, cost.trim().parse::<u64>()) {
                costs[at] = cost;
            }
        }
        costs
    }

    fn count(&self, who: &str, costs: &[u64], now: SystemTime) {
        let mut pipeline = pipe();
        for (named, cost) in self.limits.iter().zip(costs).filter(|(_, cost)| **cost > 0) {
            match &self.counting {
                Counting::Local(limits) => {
                    limits.add(self.scope, &named.local_key(who), &named.limits, *cost, now);
                }
                Counting::Redis(_) => {
                    for limit in &named.limits {
                        let key = self.key(named, who, limit.period, now);
                        pipeline.cmd("INCRBY").arg(&key).arg(*cost).ignore();
                        let length = Window::of(limit.period, now).length;
                        pipeline.cmd("EXPIRE").arg(&key).arg(length).ignore();
                    }
                }
            }
        }
        if let Counting::Redis(client) = &self.counting
            && !pipeline.is_empty()
        {
            client.tell(pipeline);
        }
    }

    /// Kong's key of a counter.
    fn key(&self, named: &Named, who: &str, period: Period, now: SystemTime) -> String {
        let route = self.scope.route.unwrap_or_default();
        let service = self.scope.service.unwrap_or_default();
        let start = Window::of(period, now).start * 1000;
        format!("response-ratelimit:{route}:{service}:{who}:{start}:{}:{}", named.name, period.as_str())
    }
}

impl Named {
    /// Not to be mixed up with the counters of rate-limiting.
    fn local_key(&self, who: &str) -> String {
        format!("response:{}:{who}", self.name)
    }
}

fn header(rest: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(format!("x-ratelimit-{rest}").as_bytes())
        .map_err(|_| format!("'{rest}' cannot be part of a header's name"))
}

#[cfg(test)]
mod tests;
