//! What is wrong with the settings, all of it.

use std::fmt;

/// One fault: which setting, where its value came from, what was wrong and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The setting as the user wrote it: `--database-url`, `PLINTH_REGISTRY__DATABASE__URL` or a key.
    pub setting: String,
    /// What was wrong and what would be right.
    pub message: String,
}

/// Every fault found while reading settings. A process that meets it exits with [`crate::EXIT_SETTINGS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    service: String,
    faults: Vec<Fault>,
}

impl Faults {
    /// Faults of `service`'s settings; used by services for faults that only starting can find.
    pub fn new(service: impl Into<String>, faults: Vec<Fault>) -> Faults {
        Faults { service: service.into(), faults }
    }

    /// One fault of one setting.
    pub fn one(service: impl Into<String>, setting: impl Into<String>, message: impl Into<String>) -> Faults {
        Faults::new(service, vec![Fault { setting: setting.into(), message: message.into() }])
    }

    /// The faults in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }

    /// How many faults there are.
    pub fn len(&self) -> usize {
        self.faults.len()
    }

    /// True when nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.faults.len();
        let noun = if count == 1 { "fault" } else { "faults" };
        write!(f, "{}: {count} {noun} in the settings (--help lists them all)", self.service)?;
        for fault in &self.faults {
            write!(f, "\n  {}: {}", fault.setting, fault.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
