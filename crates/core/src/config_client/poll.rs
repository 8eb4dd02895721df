//! Keeps one key fresh by long polls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::file::LastGood;
use super::remote::{Answer, Remote};
use super::{Known, Origin, rest};
use crate::error::chain;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Least time between polls that answer at once.
const LEAST_INTERVAL: Duration = Duration::from_millis(20);
/// Pause when the service gives no index to poll after.
const WITHOUT_INDEX: Duration = Duration::from_secs(5);

pub(super) struct Poll {
    pub key: String,
    pub remote: Arc<Remote>,
    pub last_good: Option<Arc<LastGood>>,
    pub wait: Duration,
    pub known: watch::Sender<Option<Known>>,
}

impl Poll {
    pub(super) async fn run(self) {
        let mut index = 0;
        let mut failures = 0u32;
        loop {
            let started = Instant::now();
            let after = (index > 0).then_some((index, self.wait));
            match self.remote.get(&self.key, after).await {
                Ok(answer) => {
                    failures = 0;
                    // Backwards: the service reads from a store that was replaced; begin anew.
                    index = if answer.index < index { 0 } else { answer.index };
                    let least = if answer.index == 0 { WITHOUT_INDEX } else { LEAST_INTERVAL };
                    self.learn(answer).await;
                    tokio::time::sleep(rest(started, least)).await;
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(key = %self.key, error = %chain(&error), "configuration cannot be read now; the last known value stays");
                    }
                    failures = failures.saturating_add(1);
                    index = 0;
                    self.doubt();
                    tokio::time::sleep(pause_after(failures)).await;
                }
            }
        }
    }

    async fn learn(&self, answer: Answer) {
        let known = Known { item: answer.item, origin: Origin::Live };
        let changed = self.known.borrow().as_ref().is_none_or(|before| before.item != known.item);
        if changed
            && let Some(file) = &self.last_good
            && let Err(error) = file.put(&self.key, known.item.clone()).await
        {
            tracing::warn!(error = %chain(&error), "the last-good file cannot be written");
        }
        self.known.send_if_modified(|current| {
            let differs = current.as_ref() != Some(&known);
            if differs {
                *current = Some(known);
            }
            differs
        });
    }

    fn doubt(&self) {
        let kept = self.last_good.as_ref().and_then(|file| file.get(&self.key));
        self.known.send_if_modified(|current| match current {
            Some(known) if known.origin == Origin::Live => {
                known.origin = Origin::Stale;
                true
            }
            Some(_) => false,
            None => match kept {
                Some(item) => {
                    *current = Some(Known { item, origin: Origin::File });
                    true
                }
                None => false,
            },
        });
    }
}

fn pause_after(failures: u32) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
    full.mul_f64(0.5 + 0.5 * fastrand::f64())
}
