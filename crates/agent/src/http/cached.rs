//! `?cached`: reads that may be answered from the agent's cache. The agent is its own server, so what a cache would
//! hold is the state itself and is never stale; what is kept here is which questions were asked lately, for the
//! headers that tell a client whether it was the first to ask.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use http::{HeaderMap, header};
use parking_lot::Mutex;

use super::reply::{Handled, Reply};

/// How long an entry lives after it was last asked for (Consul's, for all types this agent has).
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3 * 24 * 3600);
/// Most questions remembered: they are the client's to invent.
const MOST: usize = 16 * 1024;

#[derive(Debug, Default)]
pub struct Asked {
    questions: Mutex<HashMap<String, Instant>>,
}

impl Asked {
    /// `MISS` for the first who asks, `HIT` with an age for the others. The background refresh of a real cache is always
    /// connected here, so the age is 0.
    pub fn mark(&self, question: String, reply: Reply) -> Reply {
        if self.known(question) {
            reply.with_header("x-cache", "HIT").with_header("age", "0")
        } else {
            reply.with_header("x-cache", "MISS")
        }
    }

    fn known(&self, question: String) -> bool {
        let now = Instant::now();
        let mut questions = self.questions.lock();
        if questions.len() >= MOST {
            questions.retain(|_, at| now - *at < FORGOTTEN_AFTER);
            if questions.len() >= MOST {
                questions.clear();
            }
        }
        questions.insert(question, now).is_some_and(|at| now - at < FORGOTTEN_AFTER)
    }
}

/// `Cache-Control` of a read, whether it asks for the cache or not: numbers must be numbers.
pub fn check_header(headers: &HeaderMap) -> Result<(), Reply> {
    let Some(value) = headers.get(header::CACHE_CONTROL) else { return Ok(()) };
    let text = value.to_str().unwrap_or_default().to_ascii_lowercase();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let number = match part.split_once('=') {
            Some(("max-age" | "stale-if-error", number)) => number,
            _ => continue,
        };
        if number.parse::<i64>().is_err() {
            return Err(Reply::bad("Invalid Cache-Control header."));
        }
    }
    Ok(())
}

impl super::Server {
    /// Marks an answer of an endpoint that knows `?cached`, when the request asks for it.
    pub(super) fn cached(
        &self,
        call: &super::Call<'_>,
        question: impl FnOnce() -> String,
        reply: Reply,
    ) -> Handled {
        if !call.query.has("cached") {
            return Ok(reply);
        }
        Ok(self.asked.mark(question(), reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_misses_and_memory_is_bounded() {
        let asked = Asked::default();
        let header = |question: &str| {
            let reply = asked.mark(question.to_owned(), Reply::ok());
            reply.headers.get("x-cache").map(|v| v.to_str().unwrap().to_owned())
        };
        assert_eq!(header("a").as_deref(), Some("MISS"));
        assert_eq!(header("a").as_deref(), Some("HIT"));
        for n in 0..2 * MOST {
            header(&n.to_string());
        }
        assert!(asked.questions.lock().len() <= MOST);
    }
}
