//! Histories of concurrent clients, with the agent killed in between, are linearizable: the checker of the crate
//! `stateright` finds one order that explains every answer. Each life of the agent is a history of its own: between two
//! lives nobody asks anything, and what the next one starts with is read and belongs to both. Real Consul is measured by
//! the same clients, and planted faults show that the checker would notice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use http::Method;
use parking_lot::Mutex;
use plinth_testbed::consul::RealConsul;
use plinth_testbed::{eventually, holds};
use serde_json::{Value, json};

use super::client::{Client, Unknown, json as parsed};
use super::history::{History, Recorder};
use super::killed::base64 as decoded;
use super::node::Node;
use super::objects::{LockOp, LockRet, Locks, Register, RegisterOp, RegisterRet, Table, TableOp, TableRet};

/// Lives of the agent; more with `PLINTH_LINEAR_ROUNDS`.
const ROUNDS: usize = 4;
/// Clients of each object, and what each asks in one life.
const CLIENTS: usize = 3;
const OPERATIONS: usize = 24;
const REGISTERS: usize = 2;
const KEYS: usize = 3;

/// A fault between the client and what it believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plant {
    None,
    /// A read is answered with what an earlier one saw.
    StaleRead,
    /// A write is acknowledged and not done.
    LostUpdate,
    /// A transaction is done key by key.
    TornTransaction,
    /// A lock is given to everybody.
    TwoHolders,
}

/// What all clients of a life share.
#[derive(Clone)]
struct World {
    registers: Vec<History<Register>>,
    table: History<Table>,
    locks: History<Locks>,
    /// Every value is written once.
    next: Arc<AtomicU64>,
    /// Ids of the sessions by their number.
    sessions: Arc<Mutex<Vec<(String, bool)>>>,
    plant: Plant,
}

type Known<T> = Result<T, Unknown>;

impl World {
    fn new(plant: Plant) -> World {
        World {
            registers: (0..REGISTERS).map(|_| History::new(Register::default())).collect(),
            table: History::new(Table::default()),
            locks: History::new(Locks::default()),
            next: Arc::new(AtomicU64::new(1)),
            sessions: Arc::default(),
            plant,
        }
    }

    fn value(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn planted(&self, plant: Plant) -> bool {
        self.plant == plant && fastrand::u8(0..3) == 0
    }

    fn events(&self) -> usize {
        self.registers.iter().map(History::len).sum::<usize>() + self.table.len() + self.locks.len()
    }

    /// Starts all clients. Each ends after `operations`, or with the server.
    fn start(&self, base: &str, operations: usize) -> Vec<tokio::task::JoinHandle<()>> {
        let mut tasks = Vec::new();
        for _ in 0..CLIENTS {
            for key in 0..REGISTERS {
                let client = RegisterClient {
                    world: self.clone(),
                    recorder: self.registers[key].client(),
                    client: Client::new(base),
                    path: format!("/v1/kv/r/{key}"),
                    seen: None,
                };
                tasks.push(tokio::spawn(until_unknown(client.run(operations))));
            }
            let (recorder, client) = (self.table.client(), Client::new(base));
            let client = TableClient { world: self.clone(), recorder, client, seen: BTreeMap::new() };
            tasks.push(tokio::spawn(until_unknown(client.run(operations))));
            let (recorder, client) = (self.locks.client(), Client::new(base));
            let client = LockClient { world: self.clone(), recorder, client };
            tasks.push(tokio::spawn(until_unknown(client.run(operations))));
        }
        tasks
    }

    /// Reads everything while nobody writes, as the last operations of this life; gives the world of the next.
    async fn observed(&self, base: &str) -> World {
        let mut next =
            World { sessions: self.sessions.clone(), next: self.next.clone(), ..World::new(self.plant) };
        for (key, history) in self.registers.iter().enumerate() {
            let mut reader = RegisterClient {
                world: World { plant: Plant::None, ..self.clone() },
                recorder: history.client(),
                client: Client::new(base),
                path: format!("/v1/kv/r/{key}"),
                seen: None,
            };
            reader.get().await.unwrap();
            next.registers[key] = History::new(Register(reader.seen.unwrap().0));
        }
        let (recorder, client) = (self.table.client(), Client::new(base));
        let mut reader = TableClient { world: self.clone(), recorder, client, seen: BTreeMap::new() };
        reader.all().await.unwrap();
        next.table =
            History::new(Table(reader.seen.iter().map(|(key, (value, _))| (*key, *value)).collect()));
        let (recorder, client) = (self.locks.client(), Client::new(base));
        let mut reader = LockClient { world: self.clone(), recorder, client };
        let mut locks = Locks::default();
        let sessions = self.sessions.lock().clone();
        for (number, (_, delete)) in sessions.into_iter().enumerate() {
            if reader.info(number as u64).await.unwrap() {
                locks.sessions.insert((number as u64, delete));
            }
        }
        for key in 0..2 {
            locks.keys.extend(reader.get(key).await.unwrap().map(|found| (key, found)));
        }
        next.locks = History::new(locks);
        next
    }

    fn linearizable(&self) -> bool {
        self.registers.iter().all(History::linearizable)
            && self.table.linearizable()
            && self.locks.linearizable()
    }

    fn assert_linearizable(&self, what: &str) {
        for history in &self.registers {
            assert!(history.linearizable(), "{what}: a key is not linearizable:\n{history}");
        }
        assert!(self.table.linearizable(), "{what}: transactions are not linearizable:\n{}", self.table);
        assert!(self.locks.linearizable(), "{what}: locks are not linearizable:\n{}", self.locks);
    }
}

async fn until_unknown(work: impl Future<Output = Known<()>>) {
    // the server has ended: what was asked last stays open in the history
    let _ = work.await;
}

/// Consul's entry: value, `ModifyIndex`, holder.
fn entry(entry: &Value) -> (u64, u64, Option<String>) {
    let value = decoded(entry["Value"].as_str().unwrap());
    let value = std::str::from_utf8(&value).unwrap().parse().unwrap();
    (value, entry["ModifyIndex"].as_u64().unwrap(), entry["Session"].as_str().map(str::to_owned))
}

struct RegisterClient {
    world: World,
    recorder: Recorder<Register>,
    client: Client,
    path: String,
    /// Last value read, with its index.
    seen: Option<(Option<u64>, u64)>,
}

impl RegisterClient {
    async fn run(mut self, operations: usize) -> Known<()> {
        for _ in 0..operations {
            match (fastrand::u8(0..10), self.seen) {
                (0..4, _) | (_, None) => self.get().await?,
                (4..6, _) => self.put().await?,
                (6..8, Some((value, index))) => self.cas(value, index).await?,
                (8, Some((Some(value), index))) => {
                    self.delete(RegisterOp::DeleteCas(value), &format!("?cas={index}")).await?
                }
                _ => self.delete(RegisterOp::Delete, "").await?,
            }
        }
        Ok(())
    }

    async fn get(&mut self) -> Known<()> {
        self.recorder.ask(RegisterOp::Get);
        if let Some((value, _)) = self.seen.filter(|_| self.world.planted(Plant::StaleRead)) {
            self.recorder.hear(RegisterRet::Value(value));
            return Ok(());
        }
        let answer = self.client.get(&format!("{}?consistent", self.path)).await?;
        self.seen = Some(if answer.status() == 404 {
            (None, 0)
        } else {
            let (value, index, _) = entry(&parsed(&answer)[0]);
            (Some(value), index)
        });
        self.recorder.hear(RegisterRet::Value(self.seen.and_then(|(value, _)| value)));
        Ok(())
    }

    async fn put(&mut self) -> Known<()> {
        let value = self.world.value();
        self.recorder.ask(RegisterOp::Put(value));
        if !self.world.planted(Plant::LostUpdate) {
            self.write(Method::PUT, "", value.to_string()).await?;
        }
        self.recorder.hear(RegisterRet::Done(true));
        Ok(())
    }

    async fn cas(&mut self, expected: Option<u64>, index: u64) -> Known<()> {
        let value = self.world.value();
        self.recorder.ask(RegisterOp::Cas(expected, value));
        let done = self.write(Method::PUT, &format!("?cas={index}"), value.to_string()).await?;
        self.recorder.hear(RegisterRet::Done(done));
        Ok(())
    }

    async fn delete(&mut self, op: RegisterOp, query: &str) -> Known<()> {
        self.recorder.ask(op);
        let done = self.write(Method::DELETE, query, String::new()).await?;
        self.recorder.hear(RegisterRet::Done(done));
        Ok(())
    }

    async fn write(&mut self, method: Method, query: &str, body: String) -> Known<bool> {
        let answer = self.client.send(method, &format!("{}{query}", self.path), body).await?;
        assert_eq!(answer.status(), 200, "{:?}", answer.body());
        Ok(parsed(&answer) == json!(true))
    }
}

struct TableClient {
    world: World,
    recorder: Recorder<Table>,
    client: Client,
    /// Values of the last whole read, with their indexes.
    seen: BTreeMap<usize, (u64, u64)>,
}

fn set((key, value): &(usize, u64)) -> Value {
    let value = base64::engine::general_purpose::STANDARD.encode(value.to_string());
    json!({ "KV": { "Verb": "set", "Key": format!("t/{key}"), "Value": value } })
}

impl TableClient {
    async fn run(mut self, operations: usize) -> Known<()> {
        for _ in 0..operations {
            match fastrand::u8(0..12) {
                0..3 => self.get(fastrand::usize(0..KEYS)).await?,
                3..7 => self.all().await?,
                7 => self.put(fastrand::usize(0..KEYS)).await?,
                8 | 9 => self.set().await?,
                10 => self.shift().await?,
                _ => self.clear().await?,
            }
        }
        Ok(())
    }

    async fn get(&mut self, key: usize) -> Known<()> {
        self.recorder.ask(TableOp::Get(key));
        let answer = self.client.get(&format!("/v1/kv/t/{key}?consistent")).await?;
        let found = (answer.status() == 200).then(|| entry(&parsed(&answer)[0]).0);
        self.recorder.hear(TableRet::One(found));
        Ok(())
    }

    async fn put(&mut self, key: usize) -> Known<()> {
        let value = self.world.value();
        self.recorder.ask(TableOp::Put(key, value));
        let answer = self.client.put(&format!("/v1/kv/t/{key}"), value.to_string()).await?;
        assert_eq!(answer.body(), "true");
        self.recorder.hear(TableRet::Done(true));
        Ok(())
    }

    /// By a list or by a transaction.
    async fn all(&mut self) -> Known<()> {
        self.recorder.ask(TableOp::All);
        let entries = if fastrand::bool() {
            let answer = self.client.get("/v1/kv/t/?recurse&consistent").await?;
            if answer.status() == 404 { json!([]) } else { parsed(&answer) }
        } else {
            let read = json!([{ "KV": { "Verb": "get-tree", "Key": "t/" } }]);
            let answer = self.client.put("/v1/txn?consistent", read.to_string()).await?;
            let results = parsed(&answer)["Results"].take();
            results.as_array().map_or(json!([]), |all| all.iter().map(|r| r["KV"].clone()).collect())
        };
        let key = |entry: &Value| entry["Key"].as_str().unwrap().trim_start_matches("t/").parse().unwrap();
        let entries = entries.as_array().unwrap().iter();
        self.seen = entries.map(|e| (key(e), entry(e))).map(|(key, (v, i, _))| (key, (v, i))).collect();
        self.recorder
            .hear(TableRet::Many(self.seen.iter().map(|(key, (value, _))| (*key, *value)).collect()));
        Ok(())
    }

    fn sets(&self) -> Vec<(usize, u64)> {
        let skipped = fastrand::usize(0..=KEYS);
        (0..KEYS).filter(|key| *key != skipped).map(|key| (key, self.world.value())).collect()
    }

    async fn set(&mut self) -> Known<()> {
        let sets = self.sets();
        self.recorder.ask(TableOp::Set(sets.clone()));
        if self.world.plant == Plant::TornTransaction {
            for one in &sets {
                self.transact(vec![set(one)]).await?;
            }
        } else {
            self.transact(sets.iter().map(set).collect()).await?;
        }
        self.recorder.hear(TableRet::Done(true));
        Ok(())
    }

    async fn shift(&mut self) -> Known<()> {
        let Some((&key, &(expected, index))) = self.seen.iter().next() else { return self.all().await };
        let sets = self.sets();
        self.recorder.ask(TableOp::Move { key, expected, sets: sets.clone() });
        let check = json!({ "KV": { "Verb": "check-index", "Key": format!("t/{key}"), "Index": index } });
        let done = self.transact(std::iter::once(check).chain(sets.iter().map(set)).collect()).await?;
        self.recorder.hear(TableRet::Done(done));
        Ok(())
    }

    async fn transact(&mut self, ops: Vec<Value>) -> Known<bool> {
        let answer = self.client.put("/v1/txn", Value::from(ops).to_string()).await?;
        assert!([200, 409].contains(&answer.status().as_u16()), "{:?}", answer.body());
        Ok(answer.status() == 200)
    }

    async fn clear(&mut self) -> Known<()> {
        self.recorder.ask(TableOp::Clear);
        let answer = self.client.send(Method::DELETE, "/v1/kv/t/?recurse", "").await?;
        assert_eq!(answer.body(), "true");
        self.recorder.hear(TableRet::Done(true));
        Ok(())
    }
}

struct LockClient {
    world: World,
    recorder: Recorder<Locks>,
    client: Client,
}

impl LockClient {
    async fn run(mut self, operations: usize) -> Known<()> {
        self.create().await?;
        for _ in 0..operations {
            let (key, value) = (fastrand::usize(0..2), self.world.value());
            let session = fastrand::u64(0..self.world.sessions.lock().len() as u64);
            match fastrand::u8(0..12) {
                0..4 => drop(self.get(key).await?),
                4..8 => self.lock(LockOp::Acquire { key, session, value }, "acquire").await?,
                8 | 9 => self.lock(LockOp::Release { key, session, value }, "release").await?,
                10 => self.destroy(session).await?,
                _ => self.create().await?,
            }
        }
        Ok(())
    }

    fn id(&self, session: u64) -> String {
        self.world.sessions.lock()[session as usize].0.clone()
    }

    async fn create(&mut self) -> Known<()> {
        let delete = fastrand::bool();
        self.recorder.ask(LockOp::Create(delete));
        let behavior = if delete { "delete" } else { "release" };
        let body = json!({ "LockDelay": "0s", "Behavior": behavior }).to_string();
        let answer = self.client.put("/v1/session/create", body).await?;
        assert_eq!(answer.status(), 200, "{:?}", answer.body());
        let id = parsed(&answer)["ID"].as_str().unwrap().to_owned();
        let number = {
            let mut sessions = self.world.sessions.lock();
            sessions.push((id, delete));
            sessions.len() as u64 - 1
        };
        self.recorder.hear(LockRet::Session(number));
        Ok(())
    }

    async fn destroy(&mut self, session: u64) -> Known<()> {
        self.recorder.ask(LockOp::Destroy(session));
        let answer = self.client.put(&format!("/v1/session/destroy/{}", self.id(session)), "").await?;
        assert_eq!(answer.body(), "true");
        self.recorder.hear(LockRet::Done(true));
        Ok(())
    }

    async fn lock(&mut self, op: LockOp, verb: &str) -> Known<()> {
        let (LockOp::Acquire { key, session, value } | LockOp::Release { key, session, value }) = op else {
            return Ok(());
        };
        self.recorder.ask(op);
        let path = format!("/v1/kv/l/{key}?{verb}={}", self.id(session));
        let answer = self.client.put(&path, value.to_string()).await?;
        let heard = match answer.status().as_u16() {
            200 if self.world.plant == Plant::TwoHolders => LockRet::Done(true),
            200 => LockRet::Done(parsed(&answer) == json!(true)),
            _ if answer.body().starts_with(b"invalid session") => LockRet::NoSession,
            status => panic!("{path}: {status} {:?}", answer.body()),
        };
        self.recorder.hear(heard);
        Ok(())
    }

    async fn get(&mut self, key: usize) -> Known<Option<(u64, Option<u64>)>> {
        self.recorder.ask(LockOp::Get(key));
        let answer = self.client.get(&format!("/v1/kv/l/{key}?consistent")).await?;
        let found = (answer.status() == 200).then(|| {
            let (value, _, holder) = entry(&parsed(&answer)[0]);
            (value, holder.map(|id| self.number(&id)))
        });
        self.recorder.hear(LockRet::Key(found));
        Ok(found)
    }

    fn number(&self, id: &str) -> u64 {
        let sessions = self.world.sessions.lock();
        sessions.iter().position(|(known, _)| known == id).expect("a holder that nobody knows") as u64
    }

    async fn info(&mut self, session: u64) -> Known<bool> {
        self.recorder.ask(LockOp::Info(session));
        let answer = self.client.get(&format!("/v1/session/info/{}?consistent", self.id(session))).await?;
        let found = parsed(&answer).as_array().is_some_and(|list| !list.is_empty());
        self.recorder.hear(LockRet::Done(found));
        Ok(found)
    }
}

fn rounds() -> usize {
    std::env::var("PLINTH_LINEAR_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_is_linearizable_across_kills() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::new(folder.path());
    let mut world = World::new(Plant::None);
    let mut base = node.start().await;
    for round in 0..rounds() {
        let tasks = world.start(&base, OPERATIONS);
        // Most lives end somewhere in the middle.
        let all = 2 * OPERATIONS * tasks.len();
        let enough = fastrand::usize(all / 4..all * 5 / 4);
        eventually("the clients ask", Duration::from_secs(60), || async {
            let finished = tasks.iter().all(tokio::task::JoinHandle::is_finished);
            holds(finished || world.events() >= enough, format!("{} of {enough}", world.events()))
        })
        .await;
        node.kill();
        for task in tasks {
            task.await.unwrap();
        }
        base = node.start().await;
        let next = world.observed(&base).await;
        world.assert_linearizable(&format!("life {round}"));
        world = next;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_consul_is_linearizable() {
    let consul = RealConsul::start().await;
    let world = World::new(Plant::None);
    let base = format!("http://{}", consul.addr);
    for task in world.start(&base, OPERATIONS) {
        task.await.unwrap();
    }
    world.observed(&base).await;
    world.assert_linearizable("real Consul");
}

/// The checker notices each planted fault, in short histories, so that it is through with what it cannot explain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_faults_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::new(folder.path());
    let base = node.start().await;
    let mut world = World::new(Plant::None);
    for plant in [Plant::StaleRead, Plant::LostUpdate, Plant::TornTransaction, Plant::TwoHolders] {
        let mut noticed = false;
        for _ in 0..40 {
            world.plant = plant;
            for task in world.start(&base, 6) {
                task.await.unwrap();
            }
            let next = world.observed(&base).await;
            noticed = !world.linearizable();
            world = next;
            if noticed {
                break;
            }
        }
        assert!(noticed, "{plant:?} goes unnoticed");
    }
}
