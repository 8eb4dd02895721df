//! `plinth token`: signs tokens, and shows the key that verifies them.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;

use plinth_kit::auth::{Scope, TokenKey};
use plinth_kit::settings::parse_duration;

use crate::commands::Token;
use crate::failure::Failure;
use crate::print;

pub fn run(command: &Token) -> Result<(), Failure> {
    let ttl = parse_duration(&command.ttl).map_err(|fault| Failure::usage(format!("--ttl: {fault}")))?;
    let scopes: Vec<Scope> = command
        .scopes
        .iter()
        .map(|scope| {
            Scope::from_str(scope).map_err(|fault| Failure::usage(format!("--scope {scope}: {fault}")))
        })
        .collect::<Result<_, _>>()?;
    let key = match &command.key {
        Some(file) => TokenKey::load_mounted(file),
        None if command.data_dir.is_dir() => TokenKey::load_or_create(&command.data_dir),
        None => {
            return Err(Failure::usage(format!(
                "{}: no such folder; `plinth up` makes it, or name another one with --data-dir, or a key with --key",
                command.data_dir.display()
            )));
        }
    };
    let key = key.map_err(|error| Failure::no(plinth_kit::problem::chain(&error)))?;
    let token = if command.public {
        key.public_pem().trim_end().to_owned()
    } else {
        key.issue(&command.subject, &scopes, ttl).map_err(Failure::no)?
    };
    match &command.out {
        Some(file) => {
            write(file, &token).map_err(|error| Failure::no(format!("{}: {error}", file.display())))
        }
        None => {
            print::line(&token);
            Ok(())
        }
    }
}

/// Whole or not at all: who reads the file while it is renewed gets the old token or the new one.
fn write(file: &Path, token: &str) -> io::Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = file.with_file_name(name);
    // one that a killed process left may have other rights
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&new)?;
    writeln!(out, "{token}")?;
    out.sync_all()?;
    std::fs::rename(&new, file)
}
