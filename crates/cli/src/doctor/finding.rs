//! What the doctor found.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// Works, and will not always.
    Warning,
    /// Does not work.
    Problem,
}

impl Level {
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "WARNING",
            Self::Problem => "PROBLEM",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// A replica by its id in the catalog, a service, or Consul.
    pub subject: String,
    pub check: &'static str,
    pub message: String,
    /// What to do.
    pub remedy: Option<String>,
}

impl Finding {
    pub fn ok(subject: &str, check: &'static str, message: impl Into<String>) -> Self {
        Self { level: Level::Ok, subject: subject.to_owned(), check, message: message.into(), remedy: None }
    }

    pub fn warning(subject: &str, check: &'static str, message: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::ok(subject, check, message) }
    }

    pub fn problem(subject: &str, check: &'static str, message: impl Into<String>) -> Self {
        Self { level: Level::Problem, ..Self::ok(subject, check, message) }
    }

    pub fn with(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}
