//! Blocking queries as an endless stream.

use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;

use super::{Client, Consistency, Read, Reply};
use crate::Error;

/// How long one query blocks. Short, because an abandoned query keeps its connection at the server until then.
const WAIT: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Least time between two queries' starts: a burst of writes is taken in a few steps instead of one by one.
const LEAST_INTERVAL: Duration = Duration::from_millis(10);
/// Pause after an answer with index 0, which cannot be blocked on.
const WITHOUT_INDEX: Duration = Duration::from_secs(1);
/// Spreads watches that wake together when the server is back.
const RECOVERY_SPREAD: Duration = Duration::from_millis(50);

/// Runs `query` for ever and yields every answer, unchanged ones included (compare the index), and every error.
///
/// Consul's rules: the first query does not block; an index that went backwards, an index of 0 and any error make the next
/// query a plain one, so that a restarted server with lower indexes is noticed. An unchanged answer long before its
/// wait is over counts as an error here: so does a server end its queries when it stops. A plain query of a [`Consistency::Default`]
/// watch asks consistently, and so is an answer whose index went backwards asked for again: a server that has just become
/// leader answers default reads while it still replays its log, as if what it has not come to yet did not exist. After an error the stream pauses, 100 ms
/// doubling up to 5 s with jitter, and less as soon as any other request of this client succeeds. A watch that finds no place for
/// a blocking query (see [`super::Settings::max_blocking`]) polls about once per request timeout until there is one.
pub fn watch<T, F, Fut>(client: &Client, read: Read, query: F) -> BoxStream<'static, Result<Reply<T>, Error>>
where
    T: Send + 'static,
    F: Fn(Client, Read) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Reply<T>, Error>> + Send + 'static,
{
    watch_from(client, read, 0, query)
}

/// Like [`watch`], but the first query already blocks after `index` (0: it does not), for who has the state up to there.
pub fn watch_from<T, F, Fut>(
    client: &Client,
    read: Read,
    index: u64,
    query: F,
) -> BoxStream<'static, Result<Reply<T>, Error>>
where
    T: Send + 'static,
    F: Fn(Client, Read) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Reply<T>, Error>> + Send + 'static,
{
    let wait = read.wait.unwrap_or(WAIT);
    let state = State {
        client: client.clone(),
        read,
        wait,
        cursor: Cursor { index, failures: 0, polls: false },
        last_start: None,
    };
    futures_util::stream::unfold((state, query), |(mut state, query)| async move {
        let item = state.next(&query).await;
        Some((item, (state, query)))
    })
    .boxed()
}

struct State {
    client: Client,
    read: Read,
    wait: Duration,
    cursor: Cursor,
    last_start: Option<Instant>,
}

impl State {
    async fn next<T, F, Fut>(&mut self, query: &F) -> Result<Reply<T>, Error>
    where
        F: Fn(Client, Read) -> Fut,
        Fut: Future<Output = Result<Reply<T>, Error>>,
    {
        self.pause().await;
        self.last_start = Some(Instant::now());
        let (after, wait) = (self.cursor.index, self.wait.mul_f64(0.9 + 0.2 * fastrand::f64()));
        let read = match after {
            0 => self.plain(),
            index => Read { index, wait: Some(wait), ..self.read.clone() },
        };
        let asked = tokio::time::Instant::now();
        let mut result = query(self.client.clone(), read).await;
        let unchanged = after > 0 && result.as_ref().is_ok_and(|reply| reply.index == after);
        let cut_short = unchanged && asked.elapsed() < wait / 2;
        if let Ok(reply) = &result
            && reply.index < self.cursor.index
            && self.read.consistency == Consistency::Default
        {
            self.cursor.index = 0;
            result = query(self.client.clone(), self.plain()).await;
        }
        if matches!(result, Err(Error::Saturated { .. })) {
            // No place to block in: this round becomes a poll, which is late but no failure.
            result = query(self.client.clone(), Read { index: 0, ..self.read.clone() }).await;
        }
        match &result {
            // The server stops, or its state was replaced. What comes after it may begin with lower indexes, and would let a
            // query wait for the old one.
            Ok(_) if cut_short => self.cursor.failed(),
            Ok(reply) => self.cursor.answered(reply.index),
            Err(_) => self.cursor.failed(),
        }
        result
    }

    /// A query that does not block, answered by a leader that has come to the end of its log.
    fn plain(&self) -> Read {
        let consistency = match self.read.consistency {
            Consistency::Default => Consistency::Consistent,
            other => other,
        };
        Read { index: 0, consistency, ..self.read.clone() }
    }

    async fn pause(&self) {
        if let Some(pause) = self.cursor.backoff(fastrand::f64()) {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.client.recovered() => {
                    tokio::time::sleep(RECOVERY_SPREAD.mul_f64(fastrand::f64()).min(pause)).await;
                }
            }
        } else if let Some(last) = self.last_start
            && let Some(rest) = self.cursor.least_interval().checked_sub(last.elapsed())
        {
            tokio::time::sleep(rest).await;
        }
    }
}

/// Where a watch stands: the pure part of the rules.
#[derive(Debug, PartialEq, Eq)]
struct Cursor {
    /// Index to block after; 0: do not block.
    index: u64,
    failures: u32,
    /// The server gives no index, so the next query cannot block.
    polls: bool,
}

impl Cursor {
    fn answered(&mut self, index: u64) {
        self.failures = 0;
        self.polls = index == 0;
        self.index = if index < self.index { 0 } else { index };
    }

    fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.index = 0;
    }

    fn least_interval(&self) -> Duration {
        if self.polls { WITHOUT_INDEX } else { LEAST_INTERVAL }
    }

    /// `jitter` in 0..1. Between half and the whole of the doubled pause.
    fn backoff(&self, jitter: f64) -> Option<Duration> {
        let doublings = self.failures.checked_sub(1)?.min(16);
        let full = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
        Some(full.mul_f64(0.5 + 0.5 * jitter))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use futures_util::StreamExt as _;
    use proptest::prelude::*;

    use super::{Cursor, FIRST_PAUSE, LONGEST_PAUSE, watch};
    use crate::Error;
    use crate::consul::{Client, Consistency, Read, Reply, Settings};

    /// What a watch of `read` asks while the server answers with `indexes` (none: an error), and the indexes it yields.
    async fn asked(read: Read, indexes: &[Option<u64>]) -> (Vec<(u64, Consistency)>, Vec<Option<u64>>) {
        let client = Client::new(Settings::http(([127, 0, 0, 1], 1).into())).unwrap();
        let left = Arc::new(Mutex::new(indexes.iter().copied().collect::<VecDeque<_>>()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answers, log) = (Arc::clone(&left), Arc::clone(&asked));
        let mut replies = watch(&client, read, move |_, read| {
            log.lock().unwrap().push((read.index, read.consistency));
            let next = answers.lock().unwrap().pop_front().unwrap();
            async move {
                let reply =
                    |index| Reply { value: (), index, known_leader: true, last_contact: Default::default() };
                next.map(reply).ok_or(Error::LeaseLost { service_id: "none".to_owned() })
            }
        });
        let mut yielded = Vec::new();
        while !left.lock().unwrap().is_empty() {
            yielded.push(replies.next().await.unwrap().ok().map(|reply| reply.index));
        }
        let asked = asked.lock().unwrap().clone();
        (asked, yielded)
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_block_asks_a_leader_that_has_replayed_its_log() {
        use Consistency::{Consistent, Default};
        let (asked, yielded) = asked(Read::default(), &[Some(9), Some(10), None, Some(10), Some(11)]).await;
        assert_eq!(asked, [(0, Consistent), (9, Default), (10, Default), (0, Consistent), (10, Default)]);
        assert_eq!(yielded, [Some(9), Some(10), None, Some(10), Some(11)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_from_the_past_is_asked_for_again_before_it_is_believed() {
        use Consistency::{Consistent, Default};
        let (asked, yielded) = asked(Read::default(), &[Some(9), Some(3), Some(9), Some(10)]).await;
        assert_eq!(asked, [(0, Consistent), (9, Default), (0, Consistent), (9, Default)]);
        assert_eq!(
            yielded,
            [Some(9), Some(9), Some(10)],
            "3 is what the server had before its log was replayed"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_unchanged_answer_that_did_not_wait_is_the_end_of_a_server() {
        use Consistency::{Consistent, Default};
        let (asked, yielded) = asked(Read::default(), &[Some(9), Some(9), Some(2), Some(3)]).await;
        assert_eq!(asked, [(0, Consistent), (9, Default), (0, Consistent), (2, Default)]);
        assert_eq!(
            yielded,
            [Some(9), Some(9), Some(2), Some(3)],
            "2 is of the next one, which has lost its data"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_stale_watch_stays_stale() {
        use Consistency::Stale;
        let (asked, yielded) = asked(Read::stale(), &[Some(9), Some(3), Some(3)]).await;
        assert_eq!(asked, [(0, Stale), (9, Stale), (0, Stale)]);
        assert_eq!(yielded, [Some(9), Some(3), Some(3)]);
    }

    #[test]
    fn an_index_that_goes_backwards_resets() {
        let mut cursor = Cursor { index: 0, failures: 0, polls: false };
        cursor.answered(10);
        assert_eq!(cursor.index, 10);
        cursor.answered(10);
        assert_eq!(cursor.index, 10);
        cursor.answered(9);
        assert_eq!(cursor.index, 0);
        cursor.answered(9);
        assert_eq!(cursor.index, 9);
    }

    #[test]
    fn an_error_makes_the_next_query_a_plain_one() {
        let mut cursor = Cursor { index: 7, failures: 0, polls: false };
        assert_eq!(cursor.backoff(0.0), None);
        cursor.failed();
        assert_eq!(cursor, Cursor { index: 0, failures: 1, polls: false });
        assert_eq!(cursor.backoff(1.0), Some(FIRST_PAUSE));
        cursor.answered(3);
        assert_eq!(cursor, Cursor { index: 3, failures: 0, polls: false });
    }

    proptest! {
        #[test]
        fn the_pause_stays_in_its_bounds(failures in 1u32..1000, jitter in 0.0f64..1.0) {
            let pause = Cursor { index: 0, failures, polls: false }.backoff(jitter).unwrap();
            prop_assert!(pause >= FIRST_PAUSE / 2 && pause <= LONGEST_PAUSE);
        }

        #[test]
        fn it_never_blocks_after_an_index_that_was_not_the_last_answer(indexes in prop::collection::vec(0u64..5, 1..50)) {
            let mut cursor = Cursor { index: 0, failures: 0, polls: false };
            for index in indexes {
                cursor.answered(index);
                prop_assert!(cursor.index == 0 || cursor.index == index);
            }
        }
    }
}
