//! What is fed with whatever comes: each function takes any bytes and must not panic, hang or break a promise. Called by
//! the targets in `fuzz/` and, for a bounded time, by the tests below. See docs/fuzzing.md.

use std::path::Path;

use crate::error::Error;
use crate::state::State;
use crate::storage::{frame, read_snapshot, replay};

pub use crate::http::fuzzed::{filter_expression, http_body};

/// A log as it could be on a disk, and one with a whole frame around the bytes, so that they get past the checksum.
pub fn log_reader(data: &[u8]) {
    let path = Path::new("0.log");
    let mut state = State::default();
    match replay(path, data, &mut state) {
        Ok(found) => {
            // what is cut there is whole
            let cut = &data[..found.whole as usize];
            let again = replay(path, cut, &mut State::default());
            assert!(again.is_ok_and(|again| again == found));
        }
        Err(error) => assert!(says_where(&error), "{error}"),
    }
    let mut framed = Vec::new();
    let start = frame::begin(&mut framed);
    framed.extend_from_slice(data);
    frame::finish(&mut framed, start);
    match replay(path, &framed, &mut State::default()) {
        Ok(found) => assert_eq!(found.whole, framed.len() as u64),
        Err(error) => assert!(says_where(&error), "{error}"),
    }
}

/// A snapshot as it could be on a disk, and one whose records are the lines of the bytes. What is taken for whole is
/// written again and read again.
pub fn snapshot_reader(data: &[u8]) {
    let mut framed = Vec::new();
    for line in data.split(|byte| *byte == b'\n') {
        let start = frame::begin(&mut framed);
        framed.extend_from_slice(line);
        frame::finish(&mut framed, start);
    }
    for bytes in [data, &framed] {
        match read_snapshot(Path::new("0.snapshot"), bytes) {
            Ok(Some(state)) => assert_eq!(written_again(&state).err(), None),
            Ok(None) => {}
            Err(error) => assert!(says_where(&error), "{error}"),
        }
    }
}

/// The state from its own snapshot.
pub(crate) fn written_again(state: &State) -> Result<State, String> {
    let mut bytes = Vec::new();
    for record in state.records() {
        frame::encode(&mut bytes, &record).map_err(|error| format!("{record:?}: {error}"))?;
    }
    let read = read_snapshot(Path::new("0.snapshot"), &bytes).map_err(|error| error.to_string())?;
    read.ok_or_else(|| "it is not whole".to_owned())
}

fn says_where(error: &Error) -> bool {
    matches!(error, Error::Damaged { .. } | Error::Unreadable { .. } | Error::Diverged { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs() {
        let words = [
            "{\"index\":2,\"at\":5,\"command\":",
            "\"KvSet\"",
            "\"Plain\"",
            "}\n",
            "\0\0\0\0",
            "18446744073709551615",
        ];
        plinth_testbed::fuzz::run("log_reader", &words, log_reader);
    }

    #[test]
    fn snapshots() {
        let words =
            ["{\"End\":{\"records\":1}}", "{\"Head\":", "\n", "[0,0,0,0,0]", "null", "18446744073709551615"];
        plinth_testbed::fuzz::run("snapshot_reader", &words, snapshot_reader);
    }

    #[test]
    fn filters() {
        let words = [
            " and ",
            " or ",
            "not ",
            "(",
            ")",
            " == ",
            " contains ",
            " is empty",
            "Service.Tags",
            "\"",
            "`",
            " in ",
        ];
        plinth_testbed::fuzz::run("filter_expression", &words, filter_expression);
    }

    #[test]
    fn bodies() {
        let words = [
            "null",
            "{}",
            "[]",
            "\"KV\":",
            "\"Verb\":\"set\"",
            "1e400",
            "-1",
            "\"\\u0000\"",
            "\"10s\"",
            "{\"Check\":",
        ];
        plinth_testbed::fuzz::run("http_body", &words, http_body);
    }
}
