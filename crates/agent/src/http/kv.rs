//! `/v1/kv/`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;

use super::query::ReadOptions;
use super::reply::{Handled, Reply};
use super::{Call, Server};
use crate::engine::watch::Interest;
use crate::state::command::{Command, DeleteMode, SetMode};
use crate::state::model::KvEntry;
use crate::state::txn::ids;
use crate::state::{Outcome, State, Topic};

/// From this size in bytes on the answer is kept: below it is encoded faster than it is found.
const WORTH_KEEPING: usize = 1024;
/// Largest value in bytes.
pub const LARGEST_VALUE: usize = 512 * 1024;

impl Server {
    pub(super) async fn kv(&self, call: &Call<'_>) -> Handled {
        match *call.method {
            Method::PUT => self.kv_put(call).await,
            Method::DELETE => self.kv_delete(call).await,
            _ if call.query.has("keys") => self.kv_keys(call).await,
            _ if call.query.has("recurse") => self.kv_recurse(call).await,
            _ => self.kv_get(call).await,
        }
    }

    /// One key without waiting; none: another kind of read.
    pub(super) fn kv_at_once(&self, call: &Call<'_>) -> Option<Handled> {
        if call.query.has("keys") || call.query.has("recurse") {
            return None;
        }
        Some(key_of(call).and_then(|key| self.kv_found(call, key, &self.engine.glance(), false)))
    }

    async fn kv_get(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let key = key_of(call)?;
        let interest = || Interest::One(Topic::Key(key.into()));
        let state = self.wait(&options, interest, |s| s.kv_index(key)).await;
        self.kv_found(call, key, &state, options.index != 0)
    }

    fn kv_found(&self, call: &Call<'_>, key: &str, state: &State, waited: bool) -> Handled {
        let index = state.kv_index(key);
        let Some(entry) = state.kv_get(key) else { return Ok(Reply::empty(StatusCode::NOT_FOUND).at(index)) };
        if call.query.has("raw") {
            let mut reply = Reply::ok().with_header("content-type", "text/plain");
            reply.body = entry.value.clone();
            return Ok(reply
                .at(index)
                .with_header("x-content-type-options", "nosniff")
                .with_header("content-security-policy", "sandbox"));
        }
        // those who block come in numbers
        if !waited && entry.value.len() < WORTH_KEEPING {
            return Ok(match call.pretty {
                false => Reply::read(encoded(&[entry]), index, None),
                true => entries(&[entry], true).at(index),
            });
        }
        let body = self.shared_body(call, index, || Ok(entries(&[entry], call.pretty)))?;
        Ok(Reply::read(body, index, None))
    }

    async fn kv_recurse(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let prefix = call.rest;
        let interest = || Interest::Prefix(prefix.into());
        let state = self.wait(&options, interest, |s| self.prefixes.of(s, prefix)).await;
        let index = self.prefixes.of(&state, prefix);
        if state.kv_under(prefix).next().is_none() {
            return Ok(Reply::empty(StatusCode::NOT_FOUND).at(index));
        }
        let make = || Ok(entries(&state.kv_under(prefix).collect::<Vec<_>>(), call.pretty));
        Ok(self.shared(call, index, make)?.at(index))
    }

    async fn kv_keys(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let prefix = call.rest;
        let separator = call.query.filled("separator").or(call.query.filled("seperator")).unwrap_or_default();
        let interest = || Interest::Prefix(prefix.into());
        let state = self.wait(&options, interest, |s| self.prefixes.of(s, prefix)).await;
        let index = self.prefixes.of(&state, prefix);
        if !prefix.is_empty() && state.kv_under(prefix).next().is_none() {
            return Ok(Reply::empty(StatusCode::NOT_FOUND).at(index));
        }
        let make = || Ok(Reply::json(&state.kv_keys(prefix, separator), call.pretty));
        Ok(self.shared(call, index, make)?.at(index))
    }

    async fn kv_put(&self, call: &Call<'_>) -> Handled {
        let key = key_of(call)?;
        conflicts(call, &["cas", "acquire", "release"])?;
        let flags = call.query.get("flags").map_or(Ok(0), number)?;
        let mode = if let Some(index) = call.query.get("cas") {
            SetMode::Cas(number(index)?)
        } else if let Some(session) = call.query.get("acquire") {
            SetMode::Acquire(session_id(session)?)
        } else if let Some(session) = call.query.get("release") {
            SetMode::Release(session.to_owned())
        } else {
            SetMode::Plain
        };
        let command = Command::KvSet { key: key.to_owned(), value: call.body.clone(), flags, mode };
        self.kv_write(command, call.pretty).await
    }

    async fn kv_delete(&self, call: &Call<'_>) -> Handled {
        conflicts(call, &["recurse", "cas"])?;
        let mode = if call.query.has("recurse") {
            DeleteMode::Prefix
        } else if let Some(index) = call.query.get("cas") {
            key_of(call)?;
            DeleteMode::Cas(number(index)?)
        } else {
            key_of(call)?;
            DeleteMode::One
        };
        self.kv_write(Command::KvDelete { key: call.rest.to_owned(), mode }, call.pretty).await
    }

    async fn kv_write(&self, command: Command, pretty: bool) -> Handled {
        let written = self.engine.write(command).await?;
        Ok(Reply::json(&(written.outcome == Outcome::Flag(true)), pretty))
    }
}

fn key_of<'a>(call: &Call<'a>) -> Result<&'a str, Reply> {
    if call.rest.is_empty() { Err(Reply::bad("Missing key name")) } else { Ok(call.rest) }
}

fn conflicts(call: &Call<'_>, flags: &[&str]) -> Result<(), Reply> {
    if flags.iter().filter(|f| call.query.has(f)).count() > 1 {
        return Err(Reply::bad(&format!("Conflicting flags: {}", call.query.sorted())));
    }
    Ok(())
}

pub(super) fn number(text: &str) -> Result<u64, Reply> {
    let refused = |why| Reply::internal(&format!("strconv.ParseUint: parsing {text:?}: {why}"));
    // Go takes no sign
    if text.starts_with('+') {
        return Err(refused("invalid syntax"));
    }
    text.parse().map_err(|e: std::num::ParseIntError| match e.kind() {
        std::num::IntErrorKind::PosOverflow => refused("value out of range"),
        _ => refused("invalid syntax"),
    })
}

/// Consul refuses what cannot be a session's id before it looks.
pub(super) fn session_id(text: &str) -> Result<String, Reply> {
    if text.is_empty() {
        return Ok(String::new());
    }
    ids::session_id(text)
        .map_err(|why| Reply::internal(&format!("failed session lookup: index error: {why}")))
}

/// The list form of entries, written by hand: this is the hottest answer of the KV store.
fn entries<T: AsRef<KvEntry>>(entries: &[T], pretty: bool) -> Reply {
    if pretty {
        let values: Vec<_> = entries.iter().map(|e| shown(e.as_ref(), true)).collect();
        return Reply::json(&values, true);
    }
    Reply::encoded(encoded(entries))
}

fn encoded<T: AsRef<KvEntry>>(entries: &[T]) -> Bytes {
    let size = entries.iter().map(|e| 160 + e.as_ref().key.len() + e.as_ref().value.len() * 4 / 3).sum();
    let mut out = Vec::with_capacity(size);
    out.push(b'[');
    for (i, entry) in entries.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_entry(&mut out, entry.as_ref());
    }
    out.push(b']');
    Bytes::from(out)
}

fn write_entry(out: &mut Vec<u8>, entry: &KvEntry) {
    let mut digits = itoa::Buffer::new();
    out.extend_from_slice(b"{\"LockIndex\":");
    out.extend_from_slice(digits.format(entry.lock_index).as_bytes());
    out.extend_from_slice(b",\"Key\":");
    // text goes into a vector without fail
    let _ = super::json::append(out, entry.key.as_str());
    out.extend_from_slice(b",\"Flags\":");
    out.extend_from_slice(digits.format(entry.flags).as_bytes());
    out.extend_from_slice(b",\"Value\":");
    if entry.value.is_empty() {
        out.extend_from_slice(b"null");
    } else {
        out.push(b'"');
        let start = out.len();
        out.resize(start + entry.value.len().div_ceil(3) * 4, 0);
        let written = STANDARD.encode_slice(&entry.value, &mut out[start..]).unwrap_or(0);
        out.truncate(start + written);
        out.push(b'"');
    }
    if let Some(session) = &entry.session {
        out.extend_from_slice(b",\"Session\":\"");
        out.extend_from_slice(session.as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(b",\"CreateIndex\":");
    out.extend_from_slice(digits.format(entry.create_index).as_bytes());
    out.extend_from_slice(b",\"ModifyIndex\":");
    out.extend_from_slice(digits.format(entry.modify_index).as_bytes());
    out.push(b'}');
}

/// The same for indented answers and transactions.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Shown<'a> {
    lock_index: u64,
    key: &'a str,
    flags: u64,
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    create_index: u64,
    modify_index: u64,
}

pub(super) fn shown(entry: &KvEntry, with_value: bool) -> Shown<'_> {
    Shown {
        lock_index: entry.lock_index,
        key: &entry.key,
        flags: entry.flags,
        value: (with_value && !entry.value.is_empty()).then(|| STANDARD.encode(&entry.value)),
        session: entry.session.as_deref(),
        create_index: entry.create_index,
        modify_index: entry.modify_index,
    }
}
