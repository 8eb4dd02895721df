//! Recording what concurrent clients ask and hear, and having it checked.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use stateright::semantics::{ConsistencyTester as _, LinearizabilityTester, SequentialSpec};

/// The checker tries orders; with the few clients and reads in between that the tests have, it is through in no time.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
enum Event<Op, Ret> {
    Asked(u64, Op),
    Heard(u64, Ret),
}

type Events<O> = Arc<Mutex<Vec<Event<<O as SequentialSpec>::Op, <O as SequentialSpec>::Ret>>>>;

/// The history of one object.
pub struct History<O: SequentialSpec>
where
    O::Op: Clone,
    O::Ret: Clone,
{
    before: O,
    events: Events<O>,
    clients: Arc<AtomicU64>,
}

impl<O: SequentialSpec + Clone> Clone for History<O>
where
    O::Op: Clone,
    O::Ret: Clone,
{
    fn clone(&self) -> Self {
        History { before: self.before.clone(), events: self.events.clone(), clients: self.clients.clone() }
    }
}

impl<O> History<O>
where
    O: SequentialSpec + Clone + Send + 'static,
    O::Op: Clone + Debug + Send,
    O::Ret: Clone + Debug + PartialEq + Send,
{
    pub fn new(before: O) -> Self {
        History { before, events: Arc::default(), clients: Arc::default() }
    }

    /// A client's own recorder. After an answer that did not come it may not ask again.
    pub fn client(&self) -> Recorder<O> {
        Recorder { number: self.clients.fetch_add(1, Ordering::Relaxed), events: self.events.clone() }
    }

    pub fn len(&self) -> usize {
        self.events.lock().len()
    }

    /// Whether some order of the operations explains what was heard. Panics when the checker does not get through.
    pub fn linearizable(&self) -> bool {
        let mut tester = LinearizabilityTester::new(self.before.clone());
        for event in self.events.lock().iter().cloned() {
            match event {
                Event::Asked(client, op) => tester.on_invoke(client, op).map(drop).unwrap(),
                Event::Heard(client, ret) => tester.on_return(client, ret).map(drop).unwrap(),
            }
        }
        let (tell, told) = std::sync::mpsc::channel();
        // its recursion is as deep as the history is long
        std::thread::Builder::new()
            .stack_size(64 << 20)
            .spawn(move || tell.send(tester.is_consistent()))
            .unwrap();
        told.recv_timeout(LIMIT)
            .unwrap_or_else(|_| panic!("the checker is not through after {LIMIT:?}:\n{self}"))
    }
}

impl<O: SequentialSpec> std::fmt::Display for History<O>
where
    O::Op: Clone + Debug,
    O::Ret: Clone + Debug,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for event in self.events.lock().iter() {
            writeln!(f, "{event:?}")?;
        }
        Ok(())
    }
}

pub struct Recorder<O: SequentialSpec>
where
    O::Op: Clone,
    O::Ret: Clone,
{
    number: u64,
    events: Events<O>,
}

impl<O: SequentialSpec> Recorder<O>
where
    O::Op: Clone,
    O::Ret: Clone,
{
    pub fn ask(&self, op: O::Op) {
        self.events.lock().push(Event::Asked(self.number, op));
    }

    pub fn hear(&self, ret: O::Ret) {
        self.events.lock().push(Event::Heard(self.number, ret));
    }
}
