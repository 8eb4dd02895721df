//! Events that are never lost: CloudEvents 1.0, a SQL outbox written in the caller's own transaction, and a relay that
//! carries its rows to RabbitMQ, to an in-process bus or to any other [`Publisher`].
//!
//! The promise is *at least once, in order per key*: a row leaves the outbox only after its publisher confirmed it, and
//! of one lane and key only the oldest row is ever under way. A crash at any point leaves the row in place; a consumer
//! recognises repeats by the event's `id`.
//!
//! [`sql`] opens SQLite and PostgreSQL the way Plinth's services want them and applies embedded migrations, of which
//! the outbox table is one.

pub mod bus;
pub mod cloudevent;
mod error;
pub mod outbox;
pub mod publisher;
pub mod rabbit;
pub mod relay;
pub mod sql;

pub use bus::Bus;
pub use cloudevent::CloudEvent;
pub use error::Error;
pub use outbox::{Message, NewMessage};
pub use publisher::{EventPublisher, PublishError, Publisher};
pub use rabbit::{Rabbit, RabbitSettings};
pub use relay::{Relay, RelayObserver, RelaySettings};
pub use sql::Database;
