//! When to probe: the first time at once, then at an interval with jitter.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// Share of the interval by which a turn comes earlier at most. Never later: detection time is promised from the interval.
const JITTER: f64 = 0.1;

/// Probes until it is dropped. A probe that takes longer than the interval delays the next one, which then starts at once.
#[derive(Debug, Clone)]
pub struct ProbeLoop {
    interval: Duration,
    rng: fastrand::Rng,
}

impl ProbeLoop {
    /// `interval`: from the start of a probe to the start of the next; at least 10 ms.
    pub fn new(interval: Duration) -> Self {
        Self::with_rng(interval, fastrand::Rng::new())
    }

    pub fn with_rng(interval: Duration, rng: fastrand::Rng) -> Self {
        Self { interval: interval.max(Duration::from_millis(10)), rng }
    }

    /// How long to wait from the start of one probe to the start of the next.
    pub fn next_interval(&mut self) -> Duration {
        self.interval.mul_f64(1.0 - JITTER * self.rng.f64())
    }

    /// Calls `probe` for ever; it says by `false` that there is nothing more to do.
    pub async fn run<F, Fut>(mut self, mut probe: F)
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = bool>,
    {
        loop {
            let next = Instant::now() + self.next_interval();
            if !probe().await {
                return;
            }
            tokio::time::sleep_until(next).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn first_at_once_then_within_the_interval() {
        let origin = Instant::now();
        let starts = RefCell::new(Vec::new());
        let rng = fastrand::Rng::with_seed(1);
        ProbeLoop::with_rng(Duration::from_secs(10), rng)
            .run(|| {
                starts.borrow_mut().push(origin.elapsed());
                let go_on = starts.borrow().len() < 50;
                async move { go_on }
            })
            .await;
        let starts = starts.into_inner();
        assert_eq!(starts[0], Duration::ZERO);
        for pair in starts.windows(2) {
            let gap = pair[1] - pair[0];
            // tokio's timer counts in milliseconds and rounds up.
            assert!(gap >= Duration::from_secs(9) && gap <= Duration::from_millis(10_001), "{gap:?}");
        }
        assert_ne!(starts[1], starts[2] - starts[1], "jitter");
    }
}
