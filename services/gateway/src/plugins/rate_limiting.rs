//! rate-limiting: so many requests per second, minute, hour, day, month, year.

mod headers;
mod identifier;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue, StatusCode, header};
use plinth_kong::{OnRedisFailure, Period, Policy, RateLimitingConfig, WindowType};
use prometheus::{IntCounter, IntCounterVec, Opts};
use redis::{Pipeline, pipe};

use super::limits::{Limit, Limits, Scope, Usage, Window};
use super::redis::{Client, Pools, Question, Synced, Unavailable};
use crate::context::{EarlyResponse, RequestContext};
pub(super) use headers::number;
pub(super) use identifier::By;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
/// What this gateway does while Redis does not answer; only where `on_redis_failure` is set.
const FALLBACK: HeaderName = HeaderName::from_static("x-ratelimit-fallback");
/// This gateway's part of the limits while it counts alone.
const SHARE: f64 = 0.5;

/// Checks all limits and counts in all of them or none; sliding windows, in one round trip.
/// KEYS: the window and the one before, for each limit. ARGV: limit, weight of the window before, seconds to keep.
const SLIDING: &str = "local used, within = {}, true
for i = 1, #KEYS / 2 do
  local now = tonumber(redis.call('GET', KEYS[2 * i - 1]) or 0)
  local before = tonumber(redis.call('GET', KEYS[2 * i]) or 0)
  used[i] = now + math.floor(before * tonumber(ARGV[3 * i - 1]))
  within = within and used[i] < tonumber(ARGV[3 * i - 2])
end
if within then
  for i = 1, #KEYS / 2 do
    redis.call('INCR', KEYS[2 * i - 1])
    redis.call('EXPIRE', KEYS[2 * i - 1], ARGV[3 * i])
  end
end
return used";

/// What outlives a configuration.
#[derive(Debug)]
pub(super) struct Shared {
    limits: Arc<Limits>,
    fallbacks: IntCounterVec,
}

impl Shared {
    pub fn new(limits: Arc<Limits>, registry: &prometheus::Registry) -> Result<Shared, prometheus::Error> {
        let fallbacks = IntCounterVec::new(
            Opts::new(
                "gateway_rate_limiting_fallback_total",
                "Requests decided without the Redis that counts them, by what was done: open, closed, local.",
            ),
            &["redis", "policy"],
        )?;
        registry.register(Box::new(fallbacks.clone()))?;
        Ok(Shared { limits, fallbacks })
    }
}

#[derive(Debug)]
pub(super) struct RateLimiting {
    limits: Shown,
    scope: Scope,
    by: By,
    hide_headers: bool,
    sliding: bool,
    status: StatusCode,
    message: Arc<str>,
    counting: Counting,
}

/// Limits, and each as the value of its header.
#[derive(Debug)]
struct Shown {
    limits: Box<[Limit]>,
    values: Box<[HeaderValue]>,
}

impl FromIterator<Limit> for Shown {
    fn from_iter<I: IntoIterator<Item = Limit>>(limits: I) -> Shown {
        let limits: Box<[Limit]> = limits.into_iter().collect();
        Shown { values: limits.iter().map(|limit| number(limit.most)).collect(), limits }
    }
}

impl std::ops::Deref for Shown {
    type Target = [Limit];

    fn deref(&self) -> &[Limit] {
        &self.limits
    }
}

#[derive(Debug)]
enum Counting {
    Local(Arc<Limits>),
    Redis { client: Arc<Client>, fallback: Fallback },
    Synced(Arc<Synced>),
}

/// While Redis does not answer.
#[derive(Debug)]
struct Fallback {
    policy: OnRedisFailure,
    /// The policy was chosen; else it is Kong's `fault_tolerant`, which says nothing to the client.
    stated: bool,
    /// This gateway's share of the limits, and where it counts alone.
    share: Shown,
    limits: Arc<Limits>,
    metric: IntCounter,
}

/// How the access phase goes on.
pub(super) enum Access {
    Done(Option<EarlyResponse>),
    /// Redis has to be asked.
    Ask(Asked),
}

/// A question to Redis: a counter for each limit.
pub(super) enum Asked {
    Counters(Question<Vec<u64>>),
    /// The script's one answer.
    Script(Question<Vec<Vec<u64>>>),
}

impl Asked {
    pub async fn answer(self) -> Result<Vec<u64>, Unavailable> {
        match self {
            Asked::Counters(question) => question.answer().await,
            Asked::Script(question) => Ok(question.answer().await?.pop().unwrap_or_default()),
        }
    }
}

impl RateLimiting {
    pub fn new(
        config: &RateLimitingConfig,
        scope: Scope,
        shared: &Shared,
        pools: &Pools,
    ) -> Result<RateLimiting, String> {
        let rate = config.sync_rate.filter(|rate| *rate > 0.0).map(Duration::try_from_secs_f64);
        let counting = match (config.policy, rate) {
            (Policy::Local, _) => Counting::Local(Arc::clone(&shared.limits)),
            (Policy::Redis, Some(rate)) => {
                let rate = rate.map_err(|_| "sync_rate is too large".to_owned())?;
                Counting::Synced(pools.synced(&config.redis, rate)?)
            }
            (Policy::Redis, None) => {
                let client = pools.client(&config.redis)?;
                let fallback = Fallback::new(config, shared, client.name());
                Counting::Redis { client, fallback }
            }
        };
        Ok(RateLimiting {
            limits: config.limits().map(|(period, most)| Limit::new(period, most)).collect(),
            scope,
            by: By::new(config.limit_by, config.header_name.as_deref(), config.path.as_deref())?,
            hide_headers: config.hide_client_headers,
            sliding: config.window_type == Some(WindowType::Sliding),
            status: StatusCode::from_u16(config.error_code).map_err(|_| "invalid error_code".to_owned())?,
            message: config.error_message.as_str().into(),
            counting,
        })
    }

    pub fn access(&self, ctx: &mut RequestContext) -> Access {
        let now = ctx.timing.started_at;
        match &self.counting {
            Counting::Local(limits) => {
                let who = self.by.of(ctx);
                let usage = limits.take(self.scope, who.as_str(), &self.limits, self.sliding, now);
                Access::Done(self.decide(ctx, &self.limits, usage, now))
            }
            Counting::Synced(synced) => {
                let usage = synced.take(self.scope, self.by.of(ctx).as_str(), &self.limits, now);
                Access::Done(self.decide(ctx, &self.limits, usage, now))
            }
            Counting::Redis { client, fallback } => {
                let pipeline = self.pipeline(self.by.of(ctx).as_str(), now);
                let asked = if self.sliding {
                    client.ask(pipeline).map(Asked::Script)
                } else {
                    client.ask(pipeline).map(Asked::Counters)
                };
                match asked {
                    Ok(asked) => Access::Ask(asked),
                    Err(Unavailable) => Access::Done(self.without_redis(ctx, fallback)),
                }
            }
        }
    }

    /// After Redis answered, or did not.
    pub fn resume(
        &self,
        ctx: &mut RequestContext,
        answer: Result<Vec<u64>, Unavailable>,
    ) -> Option<EarlyResponse> {
        match (answer, &self.counting) {
            (Ok(counts), _) => {
                let mut usage = Usage::default();
                for (limit, count) in self.limits.iter().zip(counts) {
                    // INCR has counted this request already, the script has not.
                    usage[limit.period as usize] = if self.sliding { count } else { count.saturating_sub(1) };
                }
                self.decide(ctx, &self.limits, usage, ctx.timing.started_at)
            }
            (Err(Unavailable), Counting::Redis { fallback, .. }) => self.without_redis(ctx, fallback),
            (Err(Unavailable), _) => None,
        }
    }

    /// One round trip: the request counts in every window, refused or not, as in Kong; in sliding ones only when it passes, else a client that
    /// keeps asking would never get in again.
    fn pipeline(&self, who: &str, now: SystemTime) -> Pipeline {
        let mut pipeline = pipe();
        if !self.sliding {
            for limit in &*self.limits {
                let window = Window::of(limit.period, now);
                let key = redis_key(self.scope, who, window, limit.period);
                pipeline.cmd("INCR").arg(&key);
                pipeline.cmd("EXPIRE").arg(&key).arg(window.length).ignore();
            }
            return pipeline;
        }
        let script = pipeline.cmd("EVAL").arg(SLIDING).arg(2 * self.limits.len());
        for limit in &*self.limits {
            let window = Window::of(limit.period, now);
            script.arg(redis_key(self.scope, who, window, limit.period));
            script.arg(redis_key(self.scope, who, window.before(limit.period), limit.period));
        }
        for limit in &*self.limits {
            let window = Window::of(limit.period, now);
            script.arg(limit.most).arg(window.weight_of_before(now)).arg(2 * window.length);
        }
        pipeline
    }

    fn without_redis(&self, ctx: &mut RequestContext, fallback: &Fallback) -> Option<EarlyResponse> {
        fallback.metric.inc();
        if fallback.stated {
            let said = HeaderValue::from_static(name(fallback.policy));
            ctx.reply_headers.insert(FALLBACK, said);
        }
        match fallback.policy {
            OnRedisFailure::Open => None,
            OnRedisFailure::Closed if fallback.stated => {
                let message = "The rate limit cannot be checked";
                Some(EarlyResponse::error(StatusCode::SERVICE_UNAVAILABLE, message))
            }
            OnRedisFailure::Closed => {
                Some(EarlyResponse::error(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred"))
            }
            OnRedisFailure::Local => {
                let now = ctx.timing.started_at;
                let who = self.by.of(ctx);
                let usage =
                    fallback.limits.take(self.scope, who.as_str(), &fallback.share, self.sliding, now);
                self.decide(ctx, &fallback.share, usage, now)
            }
        }
    }

    /// Sets the headers and refuses when a limit was used up before this request.
    fn decide(
        &self,
        ctx: &mut RequestContext,
        limits: &Shown,
        usage: Usage,
        now: SystemTime,
    ) -> Option<EarlyResponse> {
        let used_up = |limit: &Limit| usage[limit.period as usize] >= limit.most;
        let refused = limits.iter().any(used_up);
        let headers = &mut ctx.reply_headers;
        if !self.hide_headers {
            headers.reserve(2 * limits.len() + 3);
        }
        let mut tightest: Option<(u64, Period, HeaderValue, HeaderValue)> = None;
        for (limit, most) in limits.iter().zip(&limits.values) {
            let left = limit.most.saturating_sub(usage[limit.period as usize]);
            let left = if refused { left } else { left.saturating_sub(1) };
            let rest = number(left);
            if !self.hide_headers {
                let (of_limit, of_rest) = headers::names(limit.period);
                headers.insert(of_limit, most.clone());
                headers.insert(of_rest, rest.clone());
            }
            // The longer period wins a tie; they come shortest first.
            if tightest.as_ref().is_none_or(|(least, ..)| left <= *least) {
                tightest = Some((left, limit.period, most.clone(), rest));
            }
        }
        let mut reset = 1;
        if let Some((_, period, most, rest)) = tightest {
            reset = Window::of(period, now).reset(now);
            if !self.hide_headers {
                headers.insert(LIMIT, most);
                headers.insert(REMAINING, rest);
                headers.insert(RESET, number(reset));
            }
        }
        if !refused {
            return None;
        }
        let refusal = EarlyResponse::error(self.status, self.message.to_string());
        Some(if self.hide_headers { refusal } else { refusal.with(header::RETRY_AFTER, number(reset)) })
    }
}

impl Fallback {
    fn new(config: &RateLimitingConfig, shared: &Shared, redis: &str) -> Fallback {
        let kongs = if config.fault_tolerant { OnRedisFailure::Open } else { OnRedisFailure::Closed };
        let policy = config.on_redis_failure.unwrap_or(kongs);
        let share = config.local_share.unwrap_or(SHARE);
        Fallback {
            policy,
            stated: config.on_redis_failure.is_some(),
            share: config
                .limits()
                .map(|(period, most)| Limit::new(period, (most * share).max(1.0)))
                .collect(),
            limits: Arc::clone(&shared.limits),
            metric: shared.fallbacks.with_label_values(&[redis, name(policy)]),
        }
    }
}

fn name(policy: OnRedisFailure) -> &'static str {
    match policy {
        OnRedisFailure::Open => "open",
        OnRedisFailure::Closed => "closed",
        OnRedisFailure::Local => "local",
    }
}

/// Kong's key of a counter.
pub(super) fn redis_key(scope: Scope, who: &str, window: Window, period: Period) -> String {
    let route = scope.route.unwrap_or_default();
    let service = scope.service.unwrap_or_default();
    format!("ratelimit:{route}:{service}:{who}:{}:{}", window.start * 1000, period.as_str())
}

#[cfg(test)]
mod tests;
