//! Wiring: settings in, a listening agent out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plinth_core::Secret;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::engine::{Engine, Guard};
use crate::error::Error;
use crate::http::{Identity, Server, VERSION};
use crate::runners;
use crate::state::State;
use crate::state::command::{Command, Registration};
use crate::state::model::{Check, Node, SERF_HEALTH, Service};
use crate::storage::Folder;
use crate::storage::disk::{Disk, RealDisk};
use crate::timers::{self, Timers};
use crate::workers::{self, Workers};

/// How often the certificate authority's roots are looked at.
const AUTHORITY_LOOKED_AT_EVERY: Duration = Duration::from_secs(3600);

/// Where the agent keeps its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nowhere: a restart forgets everything.
    Memory,
    /// In this folder; created if missing, locked while the agent runs.
    Dir(PathBuf),
}

/// How to run an agent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address to listen on; 127.0.0.1. Anything but loopback needs a token.
    pub bind: IpAddr,
    /// 8500; 0 takes a free port, see [`Agent::address`].
    pub http_port: u16,
    pub data: Data,
    /// What [`Data::Dir`] is on; the operating system's files. Tests put a disk that fails in its place.
    pub disk: Arc<dyn Disk>,
    /// `dc1`.
    pub datacenter: String,
    /// The agent's own node in the catalog; `plinth`.
    pub node_name: String,
    /// The id of that node; by default the one in the data, else a new one.
    pub node_id: Option<uuid::Uuid>,
    /// Metadata of that node, as Consul's `-node-meta`; none.
    pub node_meta: BTreeMap<String, String>,
    /// When set, every request must carry it.
    pub token: Option<Secret>,
    /// Largest request body in bytes apart from KV values (which have Consul's 512 KiB); 8 MiB.
    pub max_body: usize,
    /// Bytes of log after which a snapshot is taken; 64 MiB.
    pub compact_after: u64,
    /// Most connections of one address, as Consul's `http_max_conns_per_client`; none.
    pub max_connections_per_address: Option<usize>,
    /// Whether the service mesh's certificate authority and its endpoints are on, as Consul's `connect { enabled }`; off.
    pub connect: bool,
    /// The id that the mesh's trust domain is called after, as Consul's `ca_config { cluster_id }`, when there is no authority
    /// yet; a new one.
    pub connect_cluster_id: Option<uuid::Uuid>,
    /// How long the head of a request may take from its first byte on; 30 s. Idle connections have no limit, and Consul has none.
    pub head_timeout: Duration,
    /// How long [`Agent::shutdown`] waits for requests that run; 5 s.
    pub shutdown_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            http_port: 8500,
            data: Data::Memory,
            disk: Arc::new(RealDisk),
            datacenter: "dc1".to_owned(),
            node_name: "plinth".to_owned(),
            node_id: None,
            node_meta: BTreeMap::new(),
            token: None,
            max_body: 8 << 20,
            compact_after: 64 << 20,
            max_connections_per_address: None,
            connect: false,
            connect_cluster_id: None,
            head_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(5),
        }
    }
}

/// A running agent. Dropping it stops it without waiting; [`Agent::shutdown`] stops it properly.
#[derive(Debug)]
pub struct Agent {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    accept: Option<JoinHandle<()>>,
    engine: EngineHandle,
}

struct EngineHandle(Arc<Engine>);

impl std::fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine(..)")
    }
}

impl Agent {
    /// Restores the state, binds and serves. Comes back when requests are answered.
    pub async fn start(settings: Settings) -> Result<Agent, Error> {
        if !settings.bind.is_loopback() && settings.token.is_none() {
            return Err(Error::OpenWithoutToken(settings.bind));
        }
        let wanted = SocketAddr::new(settings.bind, settings.http_port);
        let bind = |source| Error::Bind { address: wanted, source };
        let listener = listen(wanted).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let (folder, state) = open(&settings).await?;
        let identity = identity(&settings, &state, address);
        let engine = Arc::new(Engine::start(state, folder, settings.compact_after)?);
        register_self(&engine, &identity).await?;
        let timers = Arc::new(Timers::default());
        timers.arm_all(&engine.state());
        let token = settings.token.clone();
        let node = identity.node.clone();
        let mut server =
            Server::new(engine.clone(), timers.clone(), identity, token, settings.max_body, settings.connect);
        server.cluster = settings.connect_cluster_id;
        let server = Arc::new(server);
        if settings.connect {
            keep_authority(&server).await;
        }
        let (stop, stopped) = watch::channel(false);
        let alarm = engine.alarm();
        let mut tasks = vec![
            guarded(alarm.guard("the expiry of sessions"), timers.run(engine.clone(), node.clone())),
            guarded(
                alarm.guard("the removal of critical services"),
                timers::reap(engine.clone(), node.clone(), server.runners.clone()),
            ),
            guarded(
                alarm.guard("the runner of checks"),
                runners::run(engine.clone(), node, server.runners.subscribe()),
            ),
        ];
        if settings.connect {
            let guard = alarm.guard("the certificate authority");
            tasks.push(guarded(guard, authority_kept(server.clone())));
        }
        let workers = Workers::start(&server, settings.head_timeout)?;
        let limits = workers::Limits {
            connections_per_address: settings.max_connections_per_address,
            shutdown: settings.shutdown_timeout,
        };
        let accept = workers::accept(listener, workers, stopped, limits);
        let accept = guarded(alarm.guard("the listener"), accept);
        Ok(Agent { address, stop, tasks, accept: Some(accept), engine: EngineHandle(engine) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Comes back, with the part's name, only if a part without which this is no agent has ended by a panic. The process
    /// must end then: writes are refused from there on, or sessions never expire again.
    pub async fn failed(&self) -> &'static str {
        self.engine.0.alarm().rung().await
    }

    /// Answers what waits, finishes what runs, brings what was accepted to disk and ends.
    pub async fn shutdown(mut self) {
        self.engine.0.release_watchers();
        // nobody listens any more when the accept loop ended by itself
        let _ = self.stop.send(true);
        if let Some(accept) = self.accept.take()
            && let Err(error) = accept.await
        {
            tracing::error!(%error, "the agent's accept loop ended badly");
        }
        for task in &self.tasks {
            task.abort();
        }
        self.engine.0.stop().await;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        for task in self.tasks.iter().chain(&self.accept) {
            task.abort();
        }
        self.engine.0.close();
    }
}

/// With a queue for many clients that connect at once: one that finds it full tries again a second later.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    const QUEUE: u32 = 4096;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(QUEUE)
}

fn guarded(guard: Guard, part: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async move {
        let _guard = guard;
        part.await;
    })
}

async fn open(settings: &Settings) -> Result<(Option<Folder>, State), Error> {
    let Data::Dir(dir) = &settings.data else { return Ok((None, State::default())) };
    let (disk, dir) = (settings.disk.clone(), dir.clone());
    let opened = tokio::task::spawn_blocking(move || Folder::open(disk, &dir)).await;
    let (folder, state) = opened.map_err(|e| Error::Thread(std::io::Error::other(e)))??;
    Ok((Some(folder), state))
}

fn identity(settings: &Settings, state: &State, address: SocketAddr) -> Identity {
    let known = state.node(&settings.node_name).map(|n| n.id.clone()).filter(|id| !id.is_empty());
    let advertised =
        if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
    let given = settings.node_id.map(|id| id.to_string());
    let mut meta = settings.node_meta.clone();
    meta.insert("consul-network-segment".to_owned(), String::new());
    Identity {
        node: settings.node_name.clone(),
        id: given.or(known).unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        meta,
        address: advertised,
        http_port: address.port(),
        datacenter: settings.datacenter.clone(),
        started: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }
}

/// The agent's own node, its liveness check and the service `consul`, as every Consul server has them.
pub(crate) fn own_registration(identity: &Identity) -> Registration {
    let address = identity.address.to_string();
    let family = if identity.address.is_ipv4() { "ipv4" } else { "ipv6" };
    let tagged = ["lan", "wan"].iter().flat_map(|scope| [scope.to_string(), format!("{scope}_{family}")]);
    let meta = [
        ("non_voter", "false"),
        ("raft_version", "3"),
        ("serf_protocol_current", "2"),
        ("serf_protocol_max", "5"),
        ("serf_protocol_min", "1"),
        ("version", VERSION),
    ];
    Registration {
        node: Node {
            id: identity.id.clone(),
            node: identity.node.clone(),
            address: address.clone(),
            datacenter: identity.datacenter.clone(),
            tagged_addresses: Some(tagged.map(|name| (name, address.clone())).collect()),
            meta: Some(identity.meta.clone()),
            ..Node::default()
        },
        skip_node_update: false,
        service: Some(Service {
            id: "consul".to_owned(),
            service: "consul".to_owned(),
            meta: Some(meta.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()),
            port: 8300,
            ..Service::default()
        }),
        checks: vec![Check {
            node: identity.node.clone(),
            check_id: SERF_HEALTH.to_owned(),
            name: "Serf Health Status".to_owned(),
            status: "passing".to_owned(),
            output: "Agent alive and reachable".to_owned(),
            ..Check::default()
        }],
    }
}

async fn register_self(engine: &Engine, identity: &Identity) -> Result<(), Error> {
    match engine.write(Command::Register(Box::new(own_registration(identity)))).await {
        Ok(_) => Ok(()),
        Err(crate::WriteError::Refused(fault)) => Err(Error::Bootstrap(fault)),
        Err(error) => {
            // a full disk must not keep a restored agent from serving reads
            if engine.state().node(&identity.node).is_some() {
                tracing::warn!(%error, "cannot renew the agent's own registration");
                return Ok(());
            }
            Err(Error::FirstWrite(error))
        }
    }
}

/// A disk that refuses must not keep the agent from serving what it has.
async fn keep_authority(server: &Server) {
    if let Err(error) = server.keep_authority().await {
        tracing::warn!(%error, "cannot see to the mesh's certificate authority; trying again later");
    }
}

async fn authority_kept(server: Arc<Server>) {
    loop {
        tokio::time::sleep(AUTHORITY_LOOKED_AT_EVERY).await;
        keep_authority(&server).await;
    }
}
