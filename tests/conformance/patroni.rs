//! Patroni 3 on our sessions: a PostgreSQL pair forms, fails over when its leader is killed, and takes the old one back.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use plinth_testbed::process::Process;
use plinth_testbed::{PortLease, eventually, holds, http_client, tools};
use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::side::{LIMIT, Ran, Side};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute and a half: cargo xtask conformance"]
async fn fails_over_on_agent() {
    fails_over(&Side::agent().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute and a half: cargo xtask conformance"]
async fn fails_over_on_consul() {
    fails_over(&Side::consul().await).await;
}

/// A session of 10 s, Consul's shortest, ends at the latest after 20 s; the rest is PostgreSQL on a busy machine.
const FAILOVER: Duration = Duration::from_secs(90);
const SOON: Duration = Duration::from_secs(180);

async fn fails_over(side: &Side) {
    let folder = tempfile::tempdir().unwrap();
    if let Some((user, group)) = tools::unprivileged_user() {
        std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).unwrap();
    }
    let mut one = Member::new(side, folder.path().join("one"), "one");
    let mut two = Member::new(side, folder.path().join("two"), "two");
    one.start();
    one.becomes("leader", SOON).await;
    two.start();
    two.becomes("replica", SOON).await;
    let leader = side.get("/v1/kv/service/shop/leader").await;
    assert_eq!(leader[0]["Value"], "b25l", "one: {leader}");
    one.sql("create table jobs (name text); insert into jobs values ('before')").await;
    two.has("before").await;
    services(side, &["one", "two"]).await;

    let killed = Instant::now();
    one.kill();
    two.becomes("leader", FAILOVER).await;
    println!("{}: a new leader {:?} after the old one was killed", side.name, killed.elapsed());
    let leader = side.get("/v1/kv/service/shop/leader").await;
    assert!(leader[0]["Session"].is_string(), "{leader}");
    two.sql("insert into jobs values ('after')").await;

    one.start();
    one.becomes("replica", SOON).await;
    one.has("after").await;
    two.stop();
    // A leader that is stopped properly gives its key back: no waiting for the session's end.
    one.becomes("leader", Duration::from_secs(30)).await;
    one.stop();
    services(side, &[]).await;
}

/// Patroni keeps its members in the catalog as one service.
async fn services(side: &Side, wanted: &[&str]) {
    eventually(&format!("{}: members {wanted:?} are services", side.name), SOON, || async {
        let found = side.get("/v1/health/service/shop?passing").await;
        let ids: Vec<String> =
            found.as_array().unwrap().iter().map(|entry| entry["Service"]["ID"].to_string()).collect();
        let all = wanted.iter().all(|name| ids.iter().any(|id| id.contains(name)));
        holds(all && ids.len() == wanted.len(), format!("{ids:?}"))
    })
    .await;
}

/// One Patroni and the PostgreSQL that it runs.
struct Member<'a> {
    side: &'a Side,
    name: &'static str,
    folder: PathBuf,
    rest: PortLease,
    postgres: PortLease,
    patroni: Option<Process>,
}

impl<'a> Member<'a> {
    fn new(side: &'a Side, folder: PathBuf, name: &'static str) -> Self {
        std::fs::create_dir(&folder).unwrap();
        if let Some((user, group)) = tools::unprivileged_user() {
            std::os::unix::fs::chown(&folder, Some(user), Some(group)).unwrap();
        }
        let member =
            Self { side, name, folder, rest: PortLease::take(), postgres: PortLease::take(), patroni: None };
        std::fs::write(member.folder.join("patroni.yml"), member.config()).unwrap();
        member
    }

    fn config(&self) -> String {
        let (rest, postgres, name) = (self.rest.port(), self.postgres.port(), self.name);
        format!(
            "scope: shop
name: {name}
restapi: {{ listen: '127.0.0.1:{rest}', connect_address: '127.0.0.1:{rest}' }}
consul: {{ host: '{consul}', register_service: true, service_check_interval: 1s }}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 1
    retry_timeout: 3
    postgresql:
      use_pg_rewind: true
      parameters: {{ wal_level: replica, hot_standby: 'on', max_wal_senders: 5, wal_keep_size: 64MB }}
  initdb: [{{ encoding: UTF8 }}, data-checksums]
postgresql:
  listen: 127.0.0.1:{postgres}
  connect_address: 127.0.0.1:{postgres}
  data_dir: {folder}/data
  bin_dir: {programs}
  pgpass: {folder}/pgpass
  authentication:
    superuser: {{ username: postgres, password: s }}
    replication: {{ username: replicator, password: r }}
    rewind: {{ username: rewinder, password: w }}
  pg_hba: [local all all trust, host all all 127.0.0.1/32 md5, host replication replicator 127.0.0.1/32 md5]
  parameters: {{ unix_socket_directories: '{folder}', shared_buffers: 16MB, fsync: 'off' }}
",
            consul = self.side.addr,
            folder = self.folder.display(),
            programs = programs().display(),
        )
    }

    fn start(&mut self) {
        let installed = [PathBuf::from("/usr/bin/patroni")];
        let program = tools::program(
            "patroni",
            "PLINTH_TEST_PATRONI_BIN",
            &installed,
            "packages patroni, python3-consul",
        );
        let mut command = Command::new(program);
        command.arg(self.folder.join("patroni.yml"));
        as_postgres(&mut command);
        command.current_dir(&self.folder);
        self.patroni =
            Some(Process::spawn(&format!("patroni-{}", self.name), command, self.side.folder.path()));
    }

    /// Waits until its REST API says that it is that, and it is known to be.
    async fn becomes(&mut self, role: &str, limit: Duration) {
        let url = format!("http://127.0.0.1:{}/{role}", self.rest.port());
        let what = format!("{}: {} is the {role}", self.side.name, self.name);
        let patroni = self.patroni.as_mut().expect("it was started");
        eventually(&what, limit, || {
            patroni.assert_running();
            let log = patroni.output();
            let url = url.clone();
            async move {
                let answer = http_client::get(&url).await.map_err(|error| format!("{error}\n{log}"))?;
                let state: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
                holds(answer.status() == 200 && state["state"] == "running", format!("{state}\n{log}"))
            }
        })
        .await;
    }

    fn query(&self, statement: &str) -> Ran {
        let mut psql = Command::new(programs().join("psql"));
        psql.args([
            "-X",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-d",
            "postgres",
        ])
        .args(["-p", &self.postgres.port().to_string(), "-c", statement])
        .env("PGPASSWORD", "s");
        self.side.run("psql", psql, LIMIT)
    }

    /// A statement that has to succeed, once a promotion that began is through.
    async fn sql(&self, statement: &str) {
        eventually(&format!("{}: {} takes: {statement}", self.side.name, self.name), SOON, || async {
            let ran = self.query(statement);
            holds(ran.status.success(), ran.output)
        })
        .await;
    }

    /// Waits until a row has been replicated to it.
    async fn has(&self, name: &str) {
        eventually(&format!("{}: {} has the row {name}", self.side.name, self.name), SOON, || async {
            let ran = self.query(&format!("select count(*) from jobs where name = '{name}'"));
            holds(ran.status.success() && ran.output.trim() == "1", ran.output)
        })
        .await;
    }

    fn postmaster(&self) -> Option<Pid> {
        let file = std::fs::read_to_string(self.folder.join("data/postmaster.pid")).ok()?;
        Pid::from_raw(file.lines().next()?.trim().parse().ok()?)
    }

    /// SIGKILL to Patroni and to its PostgreSQL, as when the machine dies.
    fn kill(&mut self) {
        if let Some(patroni) = &self.patroni {
            patroni.signal(Signal::KILL);
        }
        if let Some(postmaster) = self.postmaster() {
            let _gone_already = rustix::process::kill_process(postmaster, Signal::KILL);
        }
        self.patroni = None;
    }

    fn stop(&mut self) {
        let mut patroni = self.patroni.take().expect("it was started");
        let status = tokio::task::block_in_place(|| patroni.terminate(SOON));
        assert!(status.success(), "{}: {}: {status}\n{}", self.side.name, self.name, patroni.output());
    }
}

impl Drop for Member<'_> {
    /// PostgreSQL runs in a session of its own and would outlive a test that failed.
    fn drop(&mut self) {
        if self.patroni.is_some() {
            self.kill();
        }
    }
}

/// PostgreSQL's own programs, in the newest version that is installed.
fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    found.retain(|folder| folder.join("pg_rewind").is_file());
    found.sort();
    found
        .pop()
        .expect("this test needs package postgresql: `cargo xtask conformance` installs it where it can")
}

fn as_postgres(command: &mut Command) {
    if let Some((user, group)) = tools::unprivileged_user() {
        command.uid(user).gid(group);
    }
}
