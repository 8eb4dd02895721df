//! Events within one process: what `plinth up` and a service without RabbitMQ use.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::{Message, PublishError, Publisher};

/// An event as a subscriber of the bus gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusEvent {
    /// As RabbitMQ's routing key, e.g. `config.shop.prod.changed`.
    pub topic: Arc<str>,
    /// One CloudEvent in JSON.
    pub payload: Arc<str>,
}

/// Broadcast to all current subscribers. A subscriber that falls behind by more than the capacity is told how many
/// events it missed (`RecvError::Lagged`); nobody is ever blocked by a slow one.
#[derive(Debug, Clone)]
pub struct Bus {
    sender: broadcast::Sender<BusEvent>,
}

impl Bus {
    /// `capacity`: events kept for the slowest subscriber, at least 1.
    pub fn new(capacity: usize) -> Self {
        Self { sender: broadcast::channel(capacity.max(1)).0 }
    }

    pub fn subscribe(&self) -> broadcast::Receiver<BusEvent> {
        self.sender.subscribe()
    }
}

impl Default for Bus {
    /// Keeps 1,024 events.
    fn default() -> Self {
        Self::new(1024)
    }
}

impl Publisher for Bus {
    async fn publish(&self, message: &Message) -> Result<(), PublishError> {
        let event =
            BusEvent { topic: message.topic.as_str().into(), payload: message.payload.as_str().into() };
        // The only error is "no subscriber": nobody asked for the event, so it is delivered to all who did.
        let _ = self.sender.send(event);
        Ok(())
    }
}
