//! Coarse deadlines: one tick per worker instead of one runtime timer per request.
//!
//! A deadline is an integer in a per-thread table. Setting, clearing and polling one costs a few loads and stores; a
//! single task per worker walks the table every [`TICK`] and wakes the late ones. A deadline passes at most two
//! ticks late and never early. A worker without deadlines stops ticking.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Resolution of all deadlines of the data plane.
pub const TICK: Duration = Duration::from_millis(50);
const TICK_MS: u64 = 50;
/// Ticks without any deadline after which a worker's ticking stops.
const IDLE_TICKS: u32 = 40;
const DISARMED: u64 = u64::MAX;

thread_local! {
    static TABLE: Table = Table::new();
}

struct Slot {
    due: u64,
    waker: Option<Waker>,
}

struct Table {
    epoch: Instant,
    now: Cell<u64>,
    armed: Cell<usize>,
    asleep: Cell<bool>,
    wake: std::rc::Rc<Notify>,
    slots: RefCell<Slots>,
}

#[derive(Default)]
struct Slots {
    all: Vec<Slot>,
    free: Vec<usize>,
}

impl Table {
    fn new() -> Self {
        Self {
            epoch: Instant::now(),
            now: Cell::new(0),
            armed: Cell::new(0),
            asleep: Cell::new(true),
            wake: std::rc::Rc::new(Notify::new()),
            slots: RefCell::new(Slots::default()),
        }
    }

    /// Brings `now` up to date when nobody else does.
    fn refresh(&self) {
        self.now.set(u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX - 1) / TICK_MS);
    }

    fn wake_ticker(&self) {
        if self.asleep.get() {
            self.refresh();
            self.asleep.set(false);
            self.wake.notify_one();
        }
    }

    fn arm(&self, slot: usize, due: u64) {
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = slots.all.get_mut(slot) {
            if slot.due == DISARMED {
                self.armed.set(self.armed.get() + 1);
            }
            slot.due = due.min(DISARMED - 1);
        }
    }

    fn disarm(&self, slot: usize) {
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = slots.all.get_mut(slot)
            && slot.due != DISARMED
        {
            slot.due = DISARMED;
            self.armed.set(self.armed.get() - 1);
        }
    }

    /// Wakes whoever is late.
    fn tick(&self) {
        self.refresh();
        let now = self.now.get();
        for slot in &mut self.slots.borrow_mut().all {
            if slot.due <= now
                && let Some(waker) = slot.waker.take()
            {
                waker.wake();
            }
        }
    }
}

/// Drives this thread's deadlines; spawned once per worker, never ends.
pub async fn run() {
    let wake = TABLE.with(|table| table.wake.clone());
    let mut idle = 0;
    loop {
        if TABLE.with(|table| table.armed.get() == 0) {
            idle += 1;
            if idle > IDLE_TICKS {
                TABLE.with(|table| table.asleep.set(true));
                wake.notified().await;
                idle = 0;
            }
        } else {
            idle = 0;
        }
        tokio::time::sleep(TICK).await;
        TABLE.with(Table::tick);
    }
}

/// One deadline of this thread, set and cleared any number of times.
///
/// It must stay on the thread that made it (it is `Send` only because hyper wants its timers to be): on another
/// thread it would speak of another table, and fire at a wrong time or never.
#[derive(Debug)]
pub struct Deadline {
    slot: usize,
}

impl Deadline {
    /// A deadline not yet set.
    #[must_use]
    pub fn new() -> Self {
        let slot = TABLE.with(|table| {
            let mut slots = table.slots.borrow_mut();
            if let Some(slot) = slots.free.pop() {
                return slot;
            }
            slots.all.push(Slot { due: DISARMED, waker: None });
            slots.all.len() - 1
        });
        Self { slot }
    }

    /// Passes `after` from now, at most two ticks late.
    pub fn set(&self, after: Duration) {
        TABLE.with(|table| {
            table.wake_ticker();
            let ticks = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).div_ceil(TICK_MS);
            table.arm(self.slot, table.now.get().saturating_add(ticks).saturating_add(1));
        });
    }

    /// Passes at `at`, at most two ticks late.
    fn set_at(&self, at: Instant) {
        TABLE.with(|table| {
            table.wake_ticker();
            let after = at.saturating_duration_since(table.epoch);
            let due = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).div_ceil(TICK_MS);
            table.arm(self.slot, due);
        });
    }

    /// Never passes until set again.
    pub fn clear(&self) {
        TABLE.with(|table| table.disarm(self.slot));
    }

    /// Ready once the deadline passed; otherwise the task is woken when it does.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        TABLE.with(|table| {
            let now = table.now.get();
            let mut slots = table.slots.borrow_mut();
            let Some(slot) = slots.all.get_mut(self.slot) else { return Poll::Pending };
            if slot.due <= now {
                return Poll::Ready(());
            }
            match &mut slot.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                empty => *empty = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
    }
}

impl Default for Deadline {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        // at thread exit the table may be gone already: then there is nothing to give back
        let _ = TABLE.try_with(|table| {
            table.disarm(self.slot);
            let mut slots = table.slots.borrow_mut();
            if let Some(slot) = slots.all.get_mut(self.slot) {
                slot.waker = None;
            }
            slots.free.push(self.slot);
        });
    }
}

/// Resolves with the inner future's output, or `None` once `limit` passed.
pub async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let deadline = Deadline::new();
    deadline.set(limit);
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => deadline.poll(cx).map(|()| None),
    })
    .await
}

/// hyper's timers (header-read timeout) on the worker's tick.
#[derive(Clone, Copy, Debug, Default)]
pub struct TickTimer;

/// One timer of hyper's.
struct TickSleep {
    deadline: Deadline,
}

impl Future for TickSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.deadline.poll(cx)
    }
}

impl hyper::rt::Sleep for TickSleep {}

impl hyper::rt::Timer for TickTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        let deadline = Deadline::new();
        deadline.set(duration);
        Box::pin(TickSleep { deadline })
    }

    fn sleep_until(&self, at: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        let deadline = Deadline::new();
        deadline.set_at(at);
        Box::pin(TickSleep { deadline })
    }

    fn now(&self) -> Instant {
        TABLE.with(|table| {
            table.wake_ticker();
            // one tick ahead, so that what is computed from it is never early
            table.epoch + Duration::from_millis((table.now.get() + 1).saturating_mul(TICK_MS))
        })
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn hyper::rt::Sleep>>, at: Instant) {
        match sleep.as_mut().downcast_mut_pin::<TickSleep>() {
            Some(own) => own.deadline.set_at(at),
            None => *sleep = self.sleep_until(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_worker<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            tokio::task::spawn_local(run());
            future.await
        })
    }

    #[test]
    fn passes_after_its_time_and_not_before() {
        on_worker(async {
            for ms in [1_u64, 60, 220] {
                let start = Instant::now();
                assert!(within(Duration::from_millis(ms), std::future::pending::<()>()).await.is_none());
                assert!(start.elapsed() >= Duration::from_millis(ms), "{ms} ms fired early");
            }
        });
    }

    #[test]
    fn a_cleared_deadline_never_passes() {
        on_worker(async {
            let deadline = Deadline::new();
            deadline.set(Duration::from_millis(1));
            deadline.clear();
            let other =
                within(Duration::from_millis(200), std::future::poll_fn(|cx| deadline.poll(cx))).await;
            assert!(other.is_none());
        });
    }

    #[test]
    fn ticking_starts_again_after_idleness() {
        on_worker(async {
            within(Duration::from_millis(1), std::future::pending::<()>()).await;
            let asleep = async {
                while !TABLE.with(|table| table.asleep.get()) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), asleep).await.unwrap();
            let start = Instant::now();
            within(Duration::from_millis(100), std::future::pending::<()>()).await;
            assert!(start.elapsed() >= Duration::from_millis(100));
        });
    }

    #[test]
    fn slots_are_used_again() {
        on_worker(async {
            for _ in 0..100 {
                drop(Deadline::new());
            }
            assert!(TABLE.with(|table| table.slots.borrow().all.len()) <= 2);
        });
    }
}
