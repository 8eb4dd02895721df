//! Names of the files in a data folder.

use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Log,
    Snapshot,
    /// What a crash left at the end of a log, kept for a look.
    Cut,
    /// Not finished: `<name>.new`.
    Temporary,
}

pub fn log(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.log"))
}

pub fn snapshot(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.snapshot"))
}

pub fn cut(dir: &Path, number: u64, at: u64) -> PathBuf {
    dir.join(format!("{number:010}.log-cut-at-{at}"))
}

/// Number and kind; `None` for files that are not ours.
pub fn parse(name: &str) -> Option<(u64, Kind)> {
    let (number, rest) = name.split_once('.')?;
    let number = number.parse().ok()?;
    let kind = match rest {
        "log" => Kind::Log,
        "snapshot" => Kind::Snapshot,
        "log.new" | "snapshot.new" => Kind::Temporary,
        rest if rest.starts_with("log-cut-at-") => Kind::Cut,
        _ => return None,
    };
    Some((number, kind))
}
