//! Where the relay carries messages.

use std::future::Future;

use crate::{Bus, Message, Rabbit};

/// Why a message was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The other side cannot be reached or did not answer in time: the whole lane waits and tries again.
    #[error("the destination is unavailable: {0}")]
    Unavailable(String),
    /// The other side refused this very message: it is tried again later and holds back only its own key.
    #[error("the message was refused: {0}")]
    Refused(String),
}

/// Takes one message and answers once the other side has it for certain. Called again with the same message after any
/// failure and after a crash, so publishing must be idempotent or its consumers must recognise repeats.
pub trait Publisher: Send + Sync + 'static {
    fn publish(&self, message: &Message) -> impl Future<Output = Result<(), PublishError>> + Send;
}

/// The two destinations of events: RabbitMQ when it is configured, else subscribers in this process.
#[derive(Clone)]
pub enum EventPublisher {
    Bus(Bus),
    Rabbit(Rabbit),
}

impl Publisher for EventPublisher {
    async fn publish(&self, message: &Message) -> Result<(), PublishError> {
        match self {
            Self::Bus(bus) => bus.publish(message).await,
            Self::Rabbit(rabbit) => rabbit.publish(message).await,
        }
    }
}
