//! The rules, without HTTP, SQL or clocks.

pub mod drift;
pub mod item;
pub mod name;
pub mod precondition;
pub mod snapshot;
pub mod value;
pub mod write;

pub use item::{Kind, Revision};
pub use name::{ItemId, Key, Scope};
pub use precondition::Precondition;
pub use snapshot::{Entry, Snapshot};
pub use value::JsonText;
pub use write::{Action, Change, Refusal};
