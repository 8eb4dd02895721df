//! The life of a process: how it is told to stop, in which stages it stops, and how others reach it.

mod advertise;
mod shutdown;
mod signals;

pub(crate) use advertise::fault_in as advertise_fault;
pub use advertise::{Advertise, AdvertiseError};
pub use shutdown::{Shutdown, ShutdownSettings, Stage};
pub use signals::Signals;
