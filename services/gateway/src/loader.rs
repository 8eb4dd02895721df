//! The thread on which configurations are read and compiled. What one leaves with the allocator stays in one place and is
//! used by the next; the control runtime goes on meanwhile; and where processors are scarce the workers come first.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Sender};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::Error;

/// How much the thread gives way: about a third of a worker's share of a processor that both want.
const NICE: i32 = 5;

type Job = Box<dyn FnOnce(&Handle) + Send>;

/// See the module.
#[derive(Debug)]
pub struct Loader(Sender<Job>);

impl Loader {
    /// Starts the thread, which ends with the loader. To be called in a runtime: what jobs wait for is driven by it.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start() -> Result<Self, Error> {
        let (jobs, received) = mpsc::channel::<Job>();
        let runtime = Handle::current();
        let thread = std::thread::Builder::new().name("configuration".to_owned());
        thread
            .spawn(move || {
                // on Linux this is the calling thread's own; without it configurations are only less polite
                if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                    tracing::debug!(%error, "configurations are loaded at the workers' priority");
                }
                received.into_iter().for_each(|job| job(&runtime));
            })
            .map_err(Error::Worker)?;
        Ok(Self(jobs))
    }

    /// Carries `work` to its end, even when whoever asks is gone before.
    ///
    /// # Errors
    /// When it panicked.
    pub async fn run<F>(&self, work: F) -> Result<F::Output, Error>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (done, finished) = oneshot::channel();
        let job = move |runtime: &Handle| {
            if let Ok(output) = catch_unwind(AssertUnwindSafe(|| runtime.block_on(work))) {
                // who asked may be gone
                let _ = done.send(output);
            }
        };
        // a loader that is gone is told below
        let _ = self.0.send(Box::new(job));
        finished.await.map_err(|_| Error::Loader)
    }

    /// Frees something there: it goes back to where it came from.
    pub fn free(&self, what: impl Send + 'static) {
        let _ = self.0.send(Box::new(move |_: &Handle| drop(what)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn jobs_run_one_after_the_other_and_survive_each_other() {
        let loader = Loader::start().unwrap();
        let name = || std::thread::current().name().map(str::to_owned);
        assert_eq!(loader.run(async move { name() }).await.unwrap().as_deref(), Some("configuration"));
        let failed = loader.run(async { panic!("on purpose") }).await;
        assert!(matches!(failed, Err(Error::Loader)));
        // what it waits for is driven by the runtime
        let slept = loader
            .run(tokio::time::timeout(std::time::Duration::from_millis(1), std::future::pending::<()>()));
        assert!(slept.await.unwrap().is_err());
        let kept = std::sync::Arc::new(());
        loader.free(kept.clone());
        loader.run(async {}).await.unwrap();
        assert_eq!(std::sync::Arc::strong_count(&kept), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn work_goes_on_without_who_asked() {
        let loader = Loader::start().unwrap();
        let (begin, begun) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel();
        let mut asked = Box::pin(loader.run(async move {
            let _ = begun.await;
            let _ = end.send(());
        }));
        assert!(futures_util::poll!(asked.as_mut()).is_pending());
        drop(asked);
        begin.send(()).unwrap();
        ended.await.unwrap();
    }
}
