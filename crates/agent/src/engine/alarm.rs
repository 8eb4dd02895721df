//! Tells that a part which has to run for ever has ended by a panic. An agent that answers reads and refuses writes for
//! ever, or that never ends a session again, is worse than none: whoever runs it ends it, and a supervisor starts it
//! anew from what is on disk.

use tokio::sync::watch;

/// Rings once, for good. Clones are the same alarm.
#[derive(Clone, Debug)]
pub(crate) struct Alarm(watch::Sender<Option<&'static str>>);

impl Default for Alarm {
    fn default() -> Self {
        Alarm(watch::Sender::new(None))
    }
}

impl Alarm {
    /// Held by the part while it runs; rings when it is dropped by a panic.
    pub fn guard(&self, part: &'static str) -> Guard {
        Guard { part, alarm: self.clone() }
    }

    /// Waits until it rings; gives the part that ended.
    pub async fn rung(&self) -> &'static str {
        let mut listening = self.0.subscribe();
        // the sender lives as long as `self`
        let rung = listening.wait_for(Option::is_some).await;
        rung.ok().and_then(|part| *part).unwrap_or("a part")
    }
}

/// See [`Alarm::guard`].
#[derive(Debug)]
pub(crate) struct Guard {
    part: &'static str,
    alarm: Alarm,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.alarm.0.send_modify(|rung| *rung = rung.or(Some(self.part)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rings_for_a_panic_and_not_for_an_end() {
        let alarm = Alarm::default();
        let (ends, panics) = (alarm.guard("one"), alarm.guard("other"));
        std::thread::spawn(move || drop(ends)).join().unwrap();
        let task = tokio::spawn(async move {
            let _panics = panics;
            panic!("on purpose");
        });
        assert!(task.await.unwrap_err().is_panic());
        assert_eq!(alarm.rung().await, "other");
    }
}
