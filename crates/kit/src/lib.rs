//! What every service binary of Plinth shares at its edge.

pub mod auth;
pub mod lifecycle;
mod outbound;
pub mod problem;
pub mod settings;
pub mod telemetry;

/// Exit code of bad settings (EX_USAGE).
pub const EXIT_SETTINGS: u8 = 64;
