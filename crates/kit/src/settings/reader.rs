//! Reads declared keys from the sources and collects every fault.

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use plinth_core::Secret;

use super::help::{self, Declared, env_name, flag_name};
use super::sources::{Raw, Sources};
use super::{Fault, Faults, Wanted, format_duration, parse_bytes, parse_duration, suggest};

/// Hands out typed values and remembers what was wrong. A faulty value yields the default (or a placeholder),
/// so reading goes on and [`Reader::finish`] reports everything together; nothing may be started before it.
#[derive(Debug)]
pub struct Reader {
    sources: Sources,
    declared: Vec<Declared>,
    aliases: BTreeMap<String, Vec<String>>,
    faults: Vec<Fault>,
}

impl Reader {
    /// A reader over `sources`.
    pub fn new(sources: &Sources) -> Reader {
        Reader {
            sources: sources.clone(),
            declared: Vec::new(),
            aliases: BTreeMap::new(),
            faults: Vec::new(),
        }
    }

    /// The service whose settings these are.
    pub fn service(&self) -> &str {
        &self.sources.service
    }

    /// A setting with a default.
    pub fn get<T>(&mut self, key: &'static str, doc: &'static str, default: T) -> T
    where
        T: FromStr + Display + 'static,
        T::Err: Display,
    {
        self.declare(key, doc, Some(default.to_string()), false);
        self.value::<T>(key).unwrap_or(default)
    }

    /// A setting with a default that must lie in `range`.
    pub fn get_in<T>(
        &mut self,
        key: &'static str,
        doc: &'static str,
        default: T,
        range: RangeInclusive<T>,
    ) -> T
    where
        T: FromStr + Display + PartialOrd + 'static,
        T::Err: Display,
    {
        let value = self.get(key, doc, default);
        if !range.contains(&value) {
            let message = format!("{value} is outside of {} to {}", range.start(), range.end());
            self.fault(key, message);
        }
        value
    }

    /// A setting that may be absent.
    pub fn opt<T>(&mut self, key: &'static str, doc: &'static str) -> Option<T>
    where
        T: FromStr + 'static,
        T::Err: Display,
    {
        self.declare(key, doc, None, false);
        self.value::<T>(key)
    }

    /// A setting that must be given; `T::default()` stands in for it until [`Reader::finish`] reports its absence.
    pub fn required<T>(&mut self, key: &'static str, doc: &'static str) -> T
    where
        T: FromStr + Default + 'static,
        T::Err: Display,
    {
        self.declare(key, doc, None, true);
        if self.raw(key).is_none() {
            self.fault(key, format!("is required: {doc}"));
        }
        self.value::<T>(key).unwrap_or_default()
    }

    /// A path with a default.
    pub fn path(&mut self, key: &'static str, doc: &'static str, default: &str) -> PathBuf {
        PathBuf::from(self.get(key, doc, default.to_owned()))
    }

    /// A secret. Given directly, or as `<key>_file`, the path of a file whose content (without its trailing
    /// newline) is the secret. Never printed.
    pub fn secret(&mut self, key: &'static str, doc: &'static str) -> Option<Secret> {
        self.declare(key, doc, None, false);
        if let Some(declared) = self.declared.iter_mut().find(|known| known.key == key) {
            declared.secret = true;
        }
        let file_key = format!("{key}_file");
        let given = match self.raw(key) {
            Some((_, Raw::One(text))) => Some(text),
            Some((name, _)) => {
                self.fault_named(name, "expected exactly one value");
                None
            }
            None => None,
        };
        let from_file = self.raw(&file_key);
        match (given, from_file) {
            (Some(_), Some((name, _))) => {
                self.fault_named(name, "give either the secret itself or its file, not both");
                None
            }
            (Some(text), None) => self.non_empty_secret(key, text),
            (None, Some((name, Raw::One(path)))) => match std::fs::read_to_string(&path) {
                Ok(text) => self.non_empty_secret(key, text.trim_end_matches(['\n', '\r']).to_owned()),
                Err(error) => {
                    self.fault_named(name, format!("cannot read {path}: {error}"));
                    None
                }
            },
            (None, Some((name, _))) => {
                self.fault_named(name, "expected the path of a file");
                None
            }
            (None, None) => None,
        }
    }

    /// A duration with a default.
    pub fn duration(&mut self, key: &'static str, doc: &'static str, default: Duration) -> Duration {
        self.declare(key, doc, Some(format_duration(default)), false);
        self.parsed(key, parse_duration).unwrap_or(default)
    }

    /// A duration with a default that must lie in `range`.
    pub fn duration_in(
        &mut self,
        key: &'static str,
        doc: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let value = self.duration(key, doc, default);
        if !range.contains(&value) {
            let (low, high) = (format_duration(*range.start()), format_duration(*range.end()));
            self.fault(key, format!("{} is outside of {low} to {high}", format_duration(value)));
        }
        value
    }

    /// A size in bytes with a default.
    pub fn bytes(&mut self, key: &'static str, doc: &'static str, default: u64) -> u64 {
        self.declare(key, doc, Some(default.to_string()), false);
        self.parsed(key, parse_bytes).unwrap_or(default)
    }

    /// A list: separated by commas in the environment and in flags (which may be repeated), an array in the
    /// file. `default` is written as in the environment; empty for none.
    pub fn list<T>(&mut self, key: &'static str, doc: &'static str, default: &str) -> Vec<T>
    where
        T: FromStr + 'static,
        T::Err: Display,
    {
        self.declare(key, doc, Some(default.to_owned()), false);
        let (name, texts) = match self.raw(key) {
            Some((name, Raw::One(text))) => (name, split(&text)),
            Some((name, Raw::Many(many))) => (name, many.iter().flat_map(|text| split(text)).collect()),
            Some((name, Raw::Bare)) => {
                self.fault_named(name, "needs a value: a list separated by commas");
                return Vec::new();
            }
            None => (key.to_owned(), split(default)),
        };
        let mut values = Vec::with_capacity(texts.len());
        for text in texts {
            match text.parse::<T>() {
                Ok(value) => values.push(value),
                Err(error) => self.fault_named(name.clone(), wrong::<T>(&text, &error)),
            }
        }
        values
    }

    /// Lets `env` (a full variable name, `KONG_PROXY_LISTEN`) mean the same as `key`; Plinth's own variable
    /// wins. Call it before reading the key.
    pub fn alias_env(&mut self, key: &'static str, env: &str) {
        self.aliases.entry(key.to_owned()).or_default().push(env.to_owned());
    }

    /// A variable of the environment that is no setting of its own, such as `POD_IP`.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.sources.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// True when some source gives `key`.
    pub fn is_given(&self, key: &str) -> bool {
        self.raw(key).is_some()
    }

    /// Records a fault that the caller found: a combination, a range, a missing partner.
    pub fn fault(&mut self, key: &str, message: impl Into<String>) {
        let name = self.raw(key).map_or_else(|| key.to_owned(), |(name, _)| name);
        self.fault_named(name, message);
    }

    /// `--help`, `--version` or `healthcheck`, when given: the caller does that instead of running.
    pub fn wanted(&self) -> Option<Wanted> {
        self.sources.wanted
    }

    /// The text of `--help`: every setting declared so far.
    pub fn help(&self) -> String {
        help::render(&self.sources.service, &self.sources.env_prefix, &self.declared)
    }

    /// Ends reading: also reports flags, variables and file keys that no setting has.
    ///
    /// # Errors
    /// Every fault found.
    pub fn finish(mut self) -> Result<(), Faults> {
        self.report_unknown();
        if self.faults.is_empty() { Ok(()) } else { Err(Faults::new(self.sources.service, self.faults)) }
    }

    fn declare(&mut self, key: &'static str, doc: &'static str, default: Option<String>, required: bool) {
        if self.declared.iter().all(|known| known.key != key) {
            let aliases = self.aliases.get(key).cloned().unwrap_or_default();
            self.declared.push(Declared { key, doc, default, required, secret: false, aliases });
        }
    }

    /// The value with the highest precedence and the name under which the user gave it.
    fn raw(&self, key: &str) -> Option<(String, Raw)> {
        let flag = flag_name(key);
        if let Some(raw) = self.sources.flags.get(&flag) {
            return Some((format!("--{flag}"), raw.clone()));
        }
        let own = env_name(&self.sources.env_prefix, key);
        let aliases = self.aliases.get(key).into_iter().flatten();
        for name in std::iter::once(&own).chain(aliases) {
            if let Some(text) = self.env(name) {
                return Some((name.clone(), Raw::One(text.to_owned())));
            }
        }
        self.sources.file.get(key).map(|raw| (key.to_owned(), raw.clone()))
    }

    fn value<T>(&mut self, key: &str) -> Option<T>
    where
        T: FromStr + 'static,
        T::Err: Display,
    {
        if let Some((name, Raw::Bare)) = self.raw(key)
            && TypeId::of::<T>() != TypeId::of::<bool>()
        {
            self.fault_named(name, "needs a value");
            return None;
        }
        self.parsed(key, |text| text.parse::<T>().map_err(|error| wrong::<T>(text, &error)))
    }

    fn parsed<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let (name, raw) = self.raw(key)?;
        let text = match raw {
            Raw::Bare => "true".to_owned(),
            Raw::One(text) => text,
            Raw::Many(_) => {
                self.fault_named(name, "is given more than once; expected exactly one value");
                return None;
            }
        };
        match parse(&text) {
            Ok(value) => Some(value),
            Err(message) => {
                self.fault_named(name, message);
                None
            }
        }
    }

    fn non_empty_secret(&mut self, key: &str, text: String) -> Option<Secret> {
        if text.is_empty() {
            self.fault(key, "is empty; leave it out or give a value");
            return None;
        }
        Some(Secret::new(text))
    }

    fn fault_named(&mut self, name: String, message: impl Into<String>) {
        self.faults.push(Fault { setting: name, message: message.into() });
    }

    fn report_unknown(&mut self) {
        let keys: BTreeSet<String> = self
            .declared
            .iter()
            .flat_map(|known| {
                let file = known.secret.then(|| format!("{}_file", known.key));
                std::iter::once(known.key.to_owned()).chain(file)
            })
            .collect();
        let flags: BTreeSet<String> = keys.iter().map(|key| flag_name(key)).collect();
        let prefix = self.sources.env_prefix.clone();
        let names: BTreeSet<String> = keys.iter().map(|key| env_name(&prefix, key)).collect();
        let mut unknown = Vec::new();
        for flag in self.sources.flags.keys().filter(|flag| !flags.contains(*flag)) {
            unknown.push(unknown_fault(format!("--{flag}"), flag, &flags, "--"));
        }
        let given = self.sources.env.keys().filter(|name| name.starts_with(&prefix));
        for name in given.filter(|name| !names.contains(*name)) {
            unknown.push(unknown_fault(name.clone(), name, &names, ""));
        }
        for key in self.sources.file.keys().filter(|key| !keys.contains(*key)) {
            unknown.push(unknown_fault(key.clone(), key, &keys, ""));
        }
        self.faults.append(&mut unknown);
    }
}

fn unknown_fault(shown: String, name: &str, known: &BTreeSet<String>, lead: &str) -> Fault {
    let message = match suggest::nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("is no setting; did you mean {lead}{near}?"),
        None => "is no setting; --help lists them all".to_owned(),
    };
    Fault { setting: shown, message }
}

fn split(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn wrong<T: 'static>(text: &str, error: &impl Display) -> String {
    let shown = redact(text);
    match expected::<T>() {
        Some(expected) => format!("{shown:?} is not {expected}"),
        None => format!("{shown:?} is wrong: {error}"),
    }
}

fn expected<T: 'static>() -> Option<&'static str> {
    let this = TypeId::of::<T>();
    let is = |other: TypeId| this == other;
    if is(TypeId::of::<bool>()) {
        Some("true or false")
    } else if is(TypeId::of::<u16>()) {
        Some("a whole number from 0 to 65535")
    } else if is(TypeId::of::<u32>()) || is(TypeId::of::<u64>()) || is(TypeId::of::<usize>()) {
        Some("a whole number")
    } else if is(TypeId::of::<f64>()) {
        Some("a number such as 0.25")
    } else if is(TypeId::of::<SocketAddr>()) {
        Some("an address with a port such as 127.0.0.1:8510 or [::1]:8510")
    } else if is(TypeId::of::<IpAddr>()) {
        Some("an IP address")
    } else {
        None
    }
}

/// Values of settings are shown in faults, passwords inside URLs are not.
fn redact(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // The password may hold any of these characters unescaped, so look for the last @ of the whole text.
    let at = rest.rfind('@').filter(|at| *at < authority_end || rest[..*at].contains(':'));
    match at {
        Some(at) => format!("{scheme}://***{}", &rest[at..]),
        None => text.to_owned(),
    }
}
