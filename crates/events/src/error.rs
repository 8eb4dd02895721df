/// What can go wrong between a service, its database and its events.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the database cannot be used")]
    Database(#[from] sqlx::Error),
    #[error("the database migrations cannot be applied")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The text names the setting's fault without its value: a database URL holds a password.
    #[error("the database settings are wrong: {0}")]
    DatabaseSettings(String),
    #[error("the folder of the database cannot be made")]
    Folder(#[source] std::io::Error),
    #[error("not a CloudEvent: {0}")]
    InvalidEvent(String),
    #[error("the event cannot be read as JSON")]
    Json(#[from] serde_json::Error),
}
