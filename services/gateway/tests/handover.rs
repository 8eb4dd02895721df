//! One gateway takes the place of another without losing a request; a new one that cannot does no harm.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/harness.rs"]
mod harness;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use harness::{Binary, config};
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use plinth_testbed::process::Process;
use plinth_testbed::upstream::Upstream;
use plinth_testbed::{eventually, free_port, holds, http_client};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Load {
    stop: AtomicBool,
    answered: AtomicUsize,
    failures: std::sync::Mutex<Vec<String>>,
}

type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

async fn connect(address: SocketAddr) -> Result<Sender, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
    let shook = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = shook.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

/// One request; whether the connection goes on.
async fn ask(sender: &mut Sender) -> Result<bool, String> {
    let request = Request::get("/x").header("host", "h").body(Full::default()).unwrap();
    let answer = sender.send_request(request).await.map_err(|error| format!("{error:?}"))?;
    let goes_on = answer.headers().get(header::CONNECTION).is_none_or(|value| value != "close");
    let status = answer.status();
    answer.into_body().collect().await.map_err(|error| format!("body: {error:?}"))?;
    if status == 200 { Ok(goes_on) } else { Err(status.to_string()) }
}

impl Load {
    /// Asks all the time, over kept connections or fresh ones.
    async fn run(self: Arc<Self>, address: SocketAddr, kept: bool) {
        while !self.stop.load(SeqCst) {
            let outcome = async {
                let mut sender = connect(address).await?;
                while !self.stop.load(SeqCst) && sender.ready().await.is_ok() {
                    let goes_on = ask(&mut sender).await?;
                    self.answered.fetch_add(1, SeqCst);
                    if !(kept && goes_on) {
                        break;
                    }
                }
                Ok::<_, String>(())
            };
            if let Err(why) = outcome.await {
                self.failures.lock().unwrap().push(why);
            }
        }
    }
}

/// Who answers the Admin API.
async fn master(admin: SocketAddr) -> Result<i32, String> {
    let answer = http_client::get(&format!("http://{admin}/")).await.map_err(|error| error.to_string())?;
    let node: Value = serde_json::from_slice(answer.body()).map_err(|error| error.to_string())?;
    i32::try_from(node["pids"]["master"].as_i64().ok_or("no pid")?).map_err(|error| error.to_string())
}

async fn handovers(status: SocketAddr, result: &str) -> String {
    let text = http_client::get(&format!("http://{status}/metrics")).await.unwrap();
    let text = String::from_utf8(text.into_body().to_vec()).unwrap();
    let wanted = format!("result=\"{result}\"");
    let line =
        text.lines().find(|line| line.starts_with("gateway_handovers_total") && line.contains(&wanted));
    line.and_then(|line| line.rsplit(' ').next()).unwrap_or("0").to_owned()
}

async fn upgrade(listen: &str) {
    let upstream = Upstream::start().await;
    let flags = [
        "--proxy-listen",
        listen,
        "--workers",
        "2",
        "--shutdown-drain-delay",
        "20s",
        "--shutdown-timeout",
        "30s",
    ];
    let mut gateway = Binary::start(&config(&[upstream.addr], ""), &flags).await;
    let load = Arc::new(Load::default());
    let clients: Vec<_> = [true, true, true, false, false]
        .into_iter()
        .map(|kept| tokio::spawn(load.clone().run(gateway.proxy, kept)))
        .collect();
    let progress = async |what: &str| {
        let before = load.answered.load(SeqCst);
        eventually(what, LIMIT, || async {
            let now = load.answered.load(SeqCst);
            holds(now > before + 200, format!("{before}, {now}; {:?}", load.failures.lock().unwrap()))
        })
        .await;
    };
    progress("requests are answered").await;

    let first = i32::try_from(gateway.process.id()).unwrap();
    gateway.process.signal(Signal::USR2);
    eventually("the first process ends", LIMIT, || {
        let ended = gateway.process.exited();
        let output = gateway.process.output();
        async move { ended.ok_or(output) }
    })
    .await;
    assert!(gateway.process.exited().unwrap().success());
    progress("the second process answers").await;
    let second = master(gateway.admin).await.unwrap();
    assert_ne!(second, first);
    let ready = http_client::get(&format!("http://{}/status/ready", gateway.status)).await.unwrap();
    assert_eq!(ready.status(), 200);

    // and once more, by the one that took over
    kill_process(Pid::from_raw(second).unwrap(), Signal::USR2).unwrap();
    let third = eventually("a third process takes over", LIMIT, || async {
        let now = master(gateway.admin).await?;
        // the second's kept listener may still answer
        if now == second { Err("still the second".to_owned()) } else { Ok(now) }
    })
    .await;
    eventually("the second process ends", LIMIT, || async {
        holds(
            rustix::process::test_kill_process(Pid::from_raw(second).unwrap()).is_err() || zombie(second),
            "it runs",
        )
    })
    .await;
    progress("the third process answers").await;

    load.stop.store(true, SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let failures = load.failures.lock().unwrap().clone();
    assert!(failures.is_empty(), "{} of {}: {failures:?}", failures.len(), load.answered.load(SeqCst));

    // stopping as ever: nobody holds its listeners any more
    eventually("nobody listens any more", LIMIT, || async {
        // the second signal skips the drain; two at once may count as one
        let _gone_already = kill_process(Pid::from_raw(third).unwrap(), Signal::TERM);
        holds(TcpStream::connect(gateway.proxy).await.is_err(), "somebody does")
    })
    .await;
}

/// Ended, and waiting for somebody to ask how.
fn zombie(process: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_loses_no_request() {
    upgrade("127.0.0.1:0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_one_with_a_listener_for_each_worker() {
    upgrade("127.0.0.1:0 reuseport").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_cannot_start_does_no_harm() {
    let upstream = Upstream::start().await;
    let text = config(&[upstream.addr], "");
    let mut gateway = Binary::start(&text, &["--config-poll", "1h"]).await;
    let url = format!("http://{}/", gateway.proxy);
    for round in 1..=2 {
        std::fs::write(&gateway.file, "services: {").unwrap();
        gateway.process.signal(Signal::USR2);
        eventually("the attempt is given up", LIMIT, || async {
            let failed = handovers(gateway.status, "failed").await;
            holds(failed == round.to_string(), failed)
        })
        .await;
        gateway.process.assert_running();
        assert_eq!(http_client::get(&url).await.unwrap().status(), 200);
        assert_eq!(master(gateway.admin).await.unwrap(), i32::try_from(gateway.process.id()).unwrap());
    }
    assert!(gateway.process.output().contains("the hand-over failed; this process goes on"));

    std::fs::write(&gateway.file, &text).unwrap();
    gateway.process.signal(Signal::USR2);
    eventually("the process ends", LIMIT, || {
        let ended = gateway.process.exited();
        async move { ended.ok_or("it runs") }
    })
    .await;
    assert_eq!(http_client::get(&url).await.unwrap().status(), 200);
}

/// Starts a gateway as systemd does: a listening socket as descriptor 3.
const ACTIVATION: &str = r#"
import os, socket, sys
listener = socket.socket()
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(16)
if listener.fileno() != 3:
    os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_of_systemd_are_listened_on() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kong.yml");
    std::fs::write(&file, config(&[upstream.addr], "")).unwrap();
    let port = free_port();
    let mut command = Command::new("python3");
    command
        .args(["-c", ACTIVATION, &port.to_string(), env!("CARGO_BIN_EXE_gateway")])
        .arg("--config")
        .arg(&file);
    command.args(["--proxy-listen", &format!("127.0.0.1:{port}"), "--admin-listen", "off"]);
    command.args(["--status-listen", "off", "--register", "false"]);
    let told = folder.path().join("notify");
    let supervisor = std::os::unix::net::UnixDatagram::bind(&told).unwrap();
    supervisor.set_nonblocking(true).unwrap();
    command.env("NOTIFY_SOCKET", &told);
    let mut process = Process::spawn("gateway", command, folder.path());
    // bound a second time the address would be taken: what answers has the socket it was given
    eventually("the gateway answers", LIMIT, || {
        process.assert_running();
        let output = process.output();
        async move {
            let answer = http_client::get(&format!("http://127.0.0.1:{port}/")).await;
            holds(answer.is_ok_and(|answer| answer.status() == 200), output)
        }
    })
    .await;
    let printed = format!("proxy listening on http://127.0.0.1:{port}");
    eventually("the address is printed", LIMIT, || {
        let output = process.output();
        let found = output.contains(&printed);
        async move { holds(found, output) }
    })
    .await;
    let hears = async |what: &str| {
        eventually("the supervisor is told", LIMIT, || async {
            let mut bytes = [0; 128];
            let length = supervisor.recv(&mut bytes).map_err(|error| error.to_string())?;
            let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if said.contains(what) { Ok(said) } else { Err(said) }
        })
        .await
    };
    hears("READY=1").await;
    // the next process is the supervisor's main process from then on
    process.signal(Signal::USR2);
    let said = hears("MAINPID=").await;
    let next: i32 = said.lines().find_map(|line| line.strip_prefix("MAINPID=")?.parse().ok()).unwrap();
    eventually("the process ends", LIMIT, || {
        let ended = process.exited();
        async move { ended.ok_or("it runs") }
    })
    .await;
    let answer = http_client::get(&format!("http://127.0.0.1:{port}/")).await.unwrap();
    assert_eq!(answer.status(), 200);
    kill_process(Pid::from_raw(next).unwrap(), Signal::KILL).unwrap();
}
