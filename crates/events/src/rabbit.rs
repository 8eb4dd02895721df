//! RabbitMQ: a durable topic exchange, persistent messages, publisher confirms.

mod tls;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};
use tokio::sync::Mutex;

use crate::cloudevent::CONTENT_TYPE;
use crate::{Message, PublishError, Publisher};

const PERSISTENT: u8 = 2;

/// Where and how to publish.
#[derive(Clone, PartialEq, Eq)]
pub struct RabbitSettings {
    /// `amqp://user:password@host:port/vhost`, or `amqps://`. Never shown.
    pub url: String,
    /// Authorities in PEM for `amqps://`, in place of the system's. Read at each connection, so a replaced file counts. Default none.
    pub ca_cert: Option<PathBuf>,
    /// Durable topic exchange, declared on connecting. Default `plinth.events`.
    pub exchange: String,
    /// Longest wait for connecting and declaring. Default 5 s.
    pub connect_timeout: Duration,
    /// Longest wait for a confirm; after it the connection counts as dead. Default 5 s.
    pub confirm_timeout: Duration,
}

impl RabbitSettings {
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ca_cert: None,
            exchange: "plinth.events".into(),
            connect_timeout: Duration::from_secs(5),
            confirm_timeout: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for RabbitSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitSettings").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}

/// Publishes to one exchange over one connection, made on first use and made anew after any fault (the relay's backoff
/// paces that). Cheap to clone.
#[derive(Clone)]
pub struct Rabbit {
    shared: Arc<Shared>,
}

struct Shared {
    settings: RabbitSettings,
    session: Mutex<Option<Session>>,
    generation: AtomicU64,
    unroutable: AtomicU64,
}

#[derive(Clone)]
struct Session {
    generation: u64,
    connection: Arc<Connection>,
    channel: Channel,
}

impl Rabbit {
    pub fn new(settings: RabbitSettings) -> Self {
        Self {
            shared: Arc::new(Shared {
                settings,
                session: Mutex::new(None),
                generation: AtomicU64::new(0),
                unroutable: AtomicU64::new(0),
            }),
        }
    }

    /// Events that no queue was bound for, since the start. The broker took them and had nobody to give them to; they
    /// count as delivered, for an exchange without subscribers must not fill the outbox for ever.
    pub fn unroutable(&self) -> u64 {
        self.shared.unroutable.load(Ordering::Relaxed)
    }

    /// Connects unless a connection stands.
    ///
    /// # Errors
    /// RabbitMQ cannot be reached or refuses us.
    pub async fn ping(&self) -> Result<(), PublishError> {
        self.session().await.map(drop)
    }

    /// Whether a connection stands right now.
    pub async fn is_connected(&self) -> bool {
        self.shared.session.lock().await.as_ref().is_some_and(Session::is_usable)
    }

    /// Ends the connection politely.
    pub async fn close(&self) {
        let session = self.shared.session.lock().await.take();
        if let Some(session) = session {
            let close = session.connection.close(200, "bye".into());
            let _ = tokio::time::timeout(self.shared.settings.connect_timeout, close).await;
        }
    }

    async fn session(&self) -> Result<Session, PublishError> {
        let mut slot = self.shared.session.lock().await;
        if let Some(session) = slot.as_ref().filter(|session| session.is_usable()) {
            return Ok(session.clone());
        }
        let limit = self.shared.settings.connect_timeout;
        let session = tokio::time::timeout(limit, Box::pin(self.connect()))
            .await
            .map_err(|_| PublishError::Unavailable(format!("RabbitMQ did not answer within {limit:?}")))?
            .map_err(unavailable)?;
        tracing::info!(exchange = %self.shared.settings.exchange, "connected to RabbitMQ");
        *slot = Some(session.clone());
        Ok(session)
    }

    async fn connect(&self) -> Result<Session, lapin::Error> {
        let settings = &self.shared.settings;
        let properties = ConnectionProperties::default().with_connection_name("plinth-events".into());
        let uri: AMQPUri = settings.url.parse().map_err(std::io::Error::other)?;
        let connection = match uri.scheme {
            AMQPScheme::AMQP => Connection::connect_uri(uri, properties).await?,
            AMQPScheme::AMQPS => tls::connect(uri, settings.ca_cert.as_deref(), properties).await?,
        };
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        channel
            .exchange_declare(
                settings.exchange.as_str().into(),
                ExchangeKind::Topic,
                ExchangeDeclareOptions { durable: true, ..Default::default() },
                FieldTable::default(),
            )
            .await?;
        let generation = self.shared.generation.fetch_add(1, Ordering::Relaxed);
        Ok(Session { generation, connection: Arc::new(connection), channel })
    }

    /// Drops the connection if it is still the one that failed.
    async fn discard(&self, failed: &Session) {
        let mut slot = self.shared.session.lock().await;
        if slot.as_ref().is_some_and(|session| session.generation == failed.generation) {
            *slot = None;
        }
    }

    async fn send(&self, session: &Session, message: &Message) -> Result<Confirmation, lapin::Error> {
        let seconds = u64::try_from(message.created_at.as_second()).unwrap_or(0);
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type(CONTENT_TYPE.into())
            .with_timestamp(seconds);
        let confirm = session
            .channel
            .basic_publish(
                self.shared.settings.exchange.as_str().into(),
                message.topic.as_str().into(),
                BasicPublishOptions { mandatory: true, ..Default::default() },
                message.payload.as_bytes(),
                properties,
            )
            .await?;
        confirm.await
    }
}

impl Session {
    fn is_usable(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }
}

impl Publisher for Rabbit {
    async fn publish(&self, message: &Message) -> Result<(), PublishError> {
        let session = self.session().await?;
        let limit = self.shared.settings.confirm_timeout;
        match tokio::time::timeout(limit, Box::pin(self.send(&session, message))).await {
            Ok(Ok(Confirmation::Ack(None))) => Ok(()),
            Ok(Ok(Confirmation::Ack(Some(_)))) => {
                self.shared.unroutable.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(topic = %message.topic, "no queue is bound for this event");
                Ok(())
            }
            Ok(Ok(Confirmation::Nack(_))) => {
                Err(PublishError::Refused("RabbitMQ could not store the message".into()))
            }
            Ok(Ok(Confirmation::NotRequested)) => {
                self.discard(&session).await;
                Err(PublishError::Unavailable("the channel has no publisher confirms".into()))
            }
            Ok(Err(error)) => {
                self.discard(&session).await;
                Err(unavailable(error))
            }
            Err(_) => {
                self.discard(&session).await;
                Err(PublishError::Unavailable(format!("RabbitMQ did not confirm within {limit:?}")))
            }
        }
    }
}

/// Keeps the cause as text: lapin's errors hold no credentials, but its URI errors quote the URI.
fn unavailable(error: lapin::Error) -> PublishError {
    let text = match error.kind() {
        lapin::ErrorKind::ParsingError(_) => "its URL or answer cannot be parsed".to_owned(),
        _ => error.to_string(),
    };
    PublishError::Unavailable(format!("RabbitMQ: {text}"))
}
