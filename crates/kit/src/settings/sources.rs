//! Where settings come from, before anybody knows which keys exist.

use std::collections::BTreeMap;

use super::{Fault, Faults};
use crate::Probe;

/// What the command line asked for instead of running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// `--help`: list every setting.
    Help,
    /// `--version`: name and version.
    Version,
    /// `healthcheck [live|ready]`: ask the running service how it is.
    Healthcheck(Probe),
}

/// Which source a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Flag,
    Environment,
    File,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw {
    /// A flag without a value: true for a boolean setting, a fault for any other.
    Bare,
    One(String),
    Many(Vec<String>),
}

/// Flags, environment and file of one service, unread.
#[derive(Debug, Clone)]
pub struct Sources {
    pub(super) service: String,
    pub(super) env_prefix: String,
    pub(super) flags: BTreeMap<String, Raw>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) file: BTreeMap<String, Raw>,
    pub(super) wanted: Option<Wanted>,
}

impl Sources {
    /// Reads the arguments and environment of this process, and the file named by `--settings FILE`. The one
    /// place where Plinth reads a process environment.
    ///
    /// # Errors
    /// An unreadable or malformed settings file, or arguments that are no flags.
    pub fn from_process(service: &str) -> Result<Sources, Faults> {
        let args: Vec<String> =
            std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Sources::new(service, args, env, None)
    }

    /// Settings sources by hand: `args` without the program name, `file` the content of a TOML file. A
    /// `--settings FILE` among `args` is read when `file` is none.
    ///
    /// # Errors
    /// An unreadable or malformed settings file, or arguments that are no flags.
    pub fn new(
        service: &str,
        args: Vec<String>,
        env: BTreeMap<String, String>,
        file: Option<String>,
    ) -> Result<Sources, Faults> {
        let mut faults = Vec::new();
        let mut sources = Sources {
            service: service.to_owned(),
            env_prefix: env_prefix(service),
            flags: BTreeMap::new(),
            env,
            file: BTreeMap::new(),
            wanted: None,
        };
        sources.read_args(args, &mut faults);
        let from_flag = match sources.flags.remove("settings") {
            Some(Raw::One(path)) if file.is_none() => read_file(&path, &mut faults),
            Some(Raw::Bare | Raw::Many(_)) => {
                fault(&mut faults, "--settings", "expected exactly one path of a TOML file");
                None
            }
            _ => None,
        };
        if let Some(text) = file.or(from_flag) {
            sources.read_toml(&text, &mut faults);
        }
        if faults.is_empty() || matches!(sources.wanted, Some(Wanted::Help | Wanted::Version)) {
            Ok(sources)
        } else {
            Err(Faults::new(service, faults))
        }
    }

    /// `--help`, `--version` or `healthcheck`, when given.
    pub fn wanted(&self) -> Option<Wanted> {
        self.wanted
    }

    fn read_args(&mut self, args: Vec<String>, faults: &mut Vec<Fault>) {
        let mut args = args.into_iter().peekable();
        if args.next_if(|first| first == "healthcheck").is_some() {
            let probe = args.next_if(|next| !next.starts_with('-'));
            match probe.as_deref().map_or(Ok(Probe::Live), str::parse) {
                Ok(probe) => self.wanted = Some(Wanted::Healthcheck(probe)),
                Err(message) => fault(faults, "healthcheck", message),
            }
        }
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--help" | "-h" => self.wanted = Some(Wanted::Help),
                "--version" | "-V" => self.wanted = Some(Wanted::Version),
                _ => {
                    let Some(flag) = arg.strip_prefix("--").filter(|name| !name.is_empty()) else {
                        fault(faults, &arg, "unexpected argument; settings are given as --name value");
                        continue;
                    };
                    let (name, value) = match flag.split_once('=') {
                        Some((name, value)) => (name.to_owned(), Raw::One(value.to_owned())),
                        None => {
                            let value = args.next_if(|next| !next.starts_with("--"));
                            (flag.to_owned(), value.map_or(Raw::Bare, Raw::One))
                        }
                    };
                    self.add_flag(name, value);
                }
            }
        }
    }

    /// A repeated flag becomes a list; a setting that is no list reports it.
    fn add_flag(&mut self, name: String, value: Raw) {
        let text = |raw: Raw| match raw {
            Raw::Bare => vec!["true".to_owned()],
            Raw::One(one) => vec![one],
            Raw::Many(many) => many,
        };
        let value = match self.flags.remove(&name) {
            Some(earlier) => Raw::Many([text(earlier), text(value)].concat()),
            None => value,
        };
        self.flags.insert(name, value);
    }

    fn read_toml(&mut self, text: &str, faults: &mut Vec<Fault>) {
        match text.parse::<toml::Table>() {
            Ok(table) => flatten("", &table, &mut self.file, faults),
            Err(error) => fault(faults, "settings file", error.to_string().trim_end()),
        }
    }
}

/// `registry-service` and `registry` are both `PLINTH_REGISTRY__`.
fn env_prefix(service: &str) -> String {
    let short = ["-service", "-aggregator"]
        .iter()
        .find_map(|suffix| service.strip_suffix(suffix))
        .filter(|short| !short.is_empty())
        .unwrap_or(service);
    format!("PLINTH_{}__", short.to_uppercase().replace('-', "_"))
}

fn read_file(path: &str, faults: &mut Vec<Fault>) -> Option<String> {
    std::fs::read_to_string(path)
        .map_err(|error| fault(faults, "--settings", &format!("cannot read {path}: {error}")))
        .ok()
}

fn flatten(prefix: &str, table: &toml::Table, into: &mut BTreeMap<String, Raw>, faults: &mut Vec<Fault>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) => flatten(&key, inner, into, faults),
            toml::Value::Array(items) => {
                let texts: Option<Vec<String>> = items.iter().map(scalar).collect();
                match texts {
                    Some(texts) => {
                        into.insert(key, Raw::Many(texts));
                    }
                    None => fault(faults, &key, "expected a list of plain values in the settings file"),
                }
            }
            other => {
                if let Some(text) = scalar(other) {
                    into.insert(key, Raw::One(text));
                }
            }
        }
    }
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Datetime(time) => Some(time.to_string()),
        toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}

fn fault(faults: &mut Vec<Fault>, setting: &str, message: &str) {
    faults.push(Fault { setting: setting.to_owned(), message: message.to_owned() });
}
