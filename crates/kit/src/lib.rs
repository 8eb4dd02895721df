//! What every service binary of Plinth shares at its edge: settings, telemetry, authentication, problem documents,
//! OpenAPI, listeners with TLS, health routes, readiness, self-registration and an orderly end.
//!
//! Nothing here is process-wide except logs and traces, which `main` sets up: several services live in one process
//! under `plinth up`. A service offers `Settings::read(&mut Reader)` and `start(Settings, Context) -> App`;
//! [`run()`] makes a binary of them.

mod app;
pub mod auth;
mod context;
pub mod health;
mod healthcheck;
pub mod lifecycle;
pub mod mtls;
pub mod openapi;
pub mod outbound;
pub mod problem;
mod run;
pub mod server;
mod service;
pub mod settings;
pub mod telemetry;

pub use app::{App, AppBuilder, AppError, BoxError, Listening};
pub use context::{Context, ContextError, Routes};
pub use healthcheck::{HealthcheckError, Probe, healthcheck};
pub use run::run;
pub use service::{RegistrationSettings, Service, ServiceSettings, StatusListen};

/// Exit code of bad settings (EX_USAGE).
pub const EXIT_SETTINGS: u8 = 64;
