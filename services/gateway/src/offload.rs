//! Work that would hold up a worker for too long (bursts of signatures, compression, large documents) goes to threads of
//! its own, behind a bounded queue: when it is full the caller is told at once, and answers 503.

use std::sync::Arc;

use prometheus::{IntCounter, IntGauge};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// How much is taken on.
#[derive(Clone, Copy, Debug)]
pub struct OffloadSettings {
    /// Pieces of work waiting or running; more are refused.
    pub queue: usize,
    /// Threads that work at once.
    pub threads: usize,
}

impl Default for OffloadSettings {
    /// 1024 pieces, 2 threads.
    fn default() -> Self {
        Self { queue: 1024, threads: 2 }
    }
}

/// Why a piece of work was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The queue is full: 503.
    #[error("too much work is waiting")]
    Full,
    /// It panicked, or the process ends.
    #[error("the work was broken off")]
    Broken,
}

/// The way off a worker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Offload {
    control: Handle,
    queue: Arc<Semaphore>,
    threads: Arc<Semaphore>,
    waiting: IntGauge,
    refused: IntCounter,
}

impl Offload {
    /// Work runs on the blocking threads of `control`.
    ///
    /// # Errors
    /// Metrics of these names are registered already.
    pub fn new(
        control: Handle,
        settings: OffloadSettings,
        registry: &prometheus::Registry,
    ) -> Result<Self, prometheus::Error> {
        let waiting =
            IntGauge::new("gateway_offload_pieces", "pieces of work off the workers, waiting or running")?;
        let refused = IntCounter::new(
            "gateway_offload_refused_total",
            "pieces of work refused because the queue was full",
        )?;
        registry.register(Box::new(waiting.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        let (queue, threads) =
            (Arc::new(Semaphore::new(settings.queue)), Arc::new(Semaphore::new(settings.threads.max(1))));
        Ok(Self { control, queue, threads, waiting, refused })
    }

    /// Does `work` on another thread and waits for it without holding up this one.
    ///
    /// # Errors
    /// [`Refused::Full`] at once when the queue is full; [`Refused::Broken`] when the work panicked.
    pub async fn run<T, F>(&self, work: F) -> Result<T, Refused>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let Ok(place) = self.queue.clone().try_acquire_owned() else {
            self.refused.inc();
            return Err(Refused::Full);
        };
        self.waiting.inc();
        let waiting = self.waiting.clone();
        let threads = self.threads.clone();
        // a task of its own: a caller that goes away does not leave a place taken for work that was never begun
        let running = self.control.spawn(async move {
            let thread = threads.acquire_owned().await;
            let done = tokio::task::spawn_blocking(move || {
                let done = work();
                drop(thread);
                done
            })
            .await;
            waiting.dec();
            drop(place);
            done
        });
        running.await.ok().and_then(Result::ok).ok_or(Refused::Broken)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn offload(queue: usize, threads: usize) -> Offload {
        let settings = OffloadSettings { queue, threads };
        Offload::new(Handle::current(), settings, &prometheus::Registry::new()).unwrap()
    }

    #[tokio::test]
    async fn work_is_done_elsewhere_and_a_full_queue_says_so() {
        let offload = offload(2, 1);
        let here = std::thread::current().id();
        assert_ne!(offload.run(|| std::thread::current().id()).await.unwrap(), here);
        let (release, held) = mpsc::channel::<()>();
        let first = tokio::spawn({
            let offload = offload.clone();
            async move { offload.run(move || held.recv_timeout(Duration::from_secs(10)).is_ok()).await }
        });
        let second = tokio::spawn({
            let offload = offload.clone();
            async move { offload.run(|| true).await }
        });
        while offload.waiting.get() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(offload.run(|| ()).await, Err(Refused::Full));
        assert_eq!(offload.refused.get(), 1);
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(true));
        assert_eq!(second.await.unwrap(), Ok(true));
        assert_eq!(offload.run(|| 7).await, Ok(7), "there is room again");
    }

    #[tokio::test]
    async fn work_that_panics_gives_its_place_back() {
        let offload = offload(1, 1);
        assert_eq!(offload.run(|| -> u8 { std::panic::panic_any(()) }).await, Err(Refused::Broken));
        assert_eq!(offload.run(|| 1).await, Ok(1));
    }
}
