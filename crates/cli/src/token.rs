//! `plinth token`.

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
    if !command.data_dir.is_dir() {
        return Err(Failure::usage(format!(
            "{}: no such folder; `plinth up` makes it, or name another one with --data-dir",
            command.data_dir.display()
        )));
    }
    let key = TokenKey::load_or_create(&command.data_dir).map_err(Failure::no)?;
    print::line(&key.issue(&command.subject, &scopes, ttl).map_err(Failure::no)?);
    Ok(())
}
