//! `/v1/snapshot`: the whole state as one archive, and back.
//!
//! A restore is a command like any other: it is on disk before it is acknowledged, and a crash leaves the state before it or
//! the one after it. Indexes go on from the higher of both, everything counts as changed, and all who wait are woken.

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::reply::{Handled, Reply};
use super::{Call, Server};
use crate::state::image::Record;
use crate::state::{Command, State};

mod archive;

use archive::Archive;

/// Largest archive taken, packed and unpacked, in bytes: one command has to hold it, see `storage::frame`.
pub(super) const LARGEST: usize = 120 << 20;
/// What an archive has beside the state: its other files and all headers.
const ROOM: usize = 64 << 10;
/// Of the encoding in `state.bin`.
const FORMAT: u32 = 1;
/// Told in `meta.json`. Consul counts its own from 1 and refuses others; one with its own number and foreign contents would
/// end its process.
const VERSION: u32 = 1000 + FORMAT;

/// The first line of `state.bin`; the others are the state's records.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Origin {
    plinth_agent_state: u32,
    node: String,
}

impl Server {
    pub(super) async fn snapshot(&self, call: &Call<'_>) -> Handled {
        if *call.method == Method::PUT {
            return self.snapshot_restore(call).await;
        }
        let (state, identity) = (self.engine.state(), self.identity.clone());
        let index = state.index();
        let address = self.raft_address();
        let packed = tokio::task::spawn_blocking(move || -> std::io::Result<Vec<u8>> {
            let origin = Origin { plinth_agent_state: FORMAT, node: identity.node };
            let encoded = encode(&origin, &state)?;
            if encoded.len() > LARGEST - ROOM {
                // better no backup than one that nobody can restore
                let text = "the state is larger than what can be restored: copy the data folder instead";
                return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, text));
            }
            let now = crate::engine::now();
            let mut meta = serde_json::to_vec(&json!({
                "Version": VERSION, "ID": format!("2-{index}-{now}"), "Index": index, "Term": 2, "Peers": "",
                "Configuration": {"Servers": [{"Suffrage": 0, "ID": identity.id, "Address": address}]},
                "ConfigurationIndex": 1, "Size": encoded.len(),
            }))?;
            meta.push(b'\n');
            archive::pack(&Archive { meta, state: encoded }, now / 1000)
        });
        let packed = match packed.await {
            Ok(Ok(packed)) => packed,
            Ok(Err(error)) => return Err(Reply::internal(&format!("failed to write snapshot: {error}"))),
            Err(error) => return Err(Reply::internal(&format!("failed to write snapshot: {error}"))),
        };
        let mut reply = Reply::empty(StatusCode::OK).with_header("content-type", "application/x-gzip");
        reply.body = packed.into();
        Ok(reply.at(index))
    }

    async fn snapshot_restore(&self, call: &Call<'_>) -> Handled {
        let (body, own) = (call.body.clone(), self.identity.node.clone());
        let decoded = tokio::task::spawn_blocking(move || {
            let Archive { state, .. } = archive::unpack(&body, LARGEST)?;
            decode(&state, &own)
        });
        let decoded = decoded.await.map_err(|error| Reply::internal(&error.to_string()))?;
        let records = decoded.map_err(|why| Reply::internal(&why))?;
        self.engine.write(Command::Restore(records)).await?;
        let index = self.engine.state().index();
        tracing::info!(index, "restored a snapshot");
        self.engine.feed().tell(crate::feed::Level::Info, "agent.snapshot", "restored a snapshot", || {
            vec![("index", index.to_string())]
        });
        let own = crate::agent::own_registration(&self.identity);
        self.engine.write(Command::Register(Box::new(own))).await?;
        if self.connect {
            self.keep_authority().await.map_err(|why| Reply::internal(&why))?;
        }
        self.timers.arm_all(&self.engine.state());
        self.checks_changed(&[]);
        Ok(Reply::ok())
    }
}

fn encode(origin: &Origin, state: &State) -> std::io::Result<Vec<u8>> {
    let mut encoded = serde_json::to_vec(origin)?;
    encoded.push(b'\n');
    for record in state.records() {
        serde_json::to_writer(&mut encoded, &record)?;
        encoded.push(b'\n');
    }
    Ok(encoded)
}

/// The records, whole. Registrations with an agent belong to the agent: those of another node's are left out, what that
/// node has in the catalog stays.
fn decode(encoded: &[u8], own: &str) -> Result<Vec<Record>, String> {
    let foreign = "failed to restore snapshot: state.bin is not of this program (or of a newer version of it): \
                   snapshots of Consul itself cannot be restored here";
    let mut lines = encoded.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let origin: Origin = lines
        .next()
        .and_then(|line| serde_json::from_slice(line).ok())
        .filter(|origin: &Origin| origin.plinth_agent_state == FORMAT)
        .ok_or_else(|| foreign.to_owned())?;
    let records = lines
        .map(serde_json::from_slice::<Record>)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("failed to restore snapshot: {error}"))?;
    let whole = matches!(records.first(), Some(Record::Head { .. }))
        && matches!(records.last(), Some(Record::End { records: count }) if *count as usize == records.len() - 1);
    if !whole {
        return Err("failed to restore snapshot: state.bin is not whole".to_owned());
    }
    let of_agent = |record: &Record| matches!(record, Record::LocalService(_) | Record::LocalCheck(_));
    let foreign = !origin.node.eq_ignore_ascii_case(own);
    Ok(records.into_iter().filter(|record| !(foreign && of_agent(record))).collect())
}
