//! How a command ends when it does not succeed.

use std::fmt;
use std::process::ExitCode;

/// Printed once on standard error by main; the code follows sysexits where it has one.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// The answer is no: not found, refused, unhealthy (1).
    pub fn no(message: impl fmt::Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    /// The command or a setting is wrong (64).
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { code: 64, message: message.to_string() }
    }

    /// The service cannot be reached (69).
    pub fn unavailable(message: impl fmt::Display) -> Self {
        Self { code: 69, message: message.to_string() }
    }

    pub fn is_unavailable(&self) -> bool {
        self.code == 69
    }

    pub fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
