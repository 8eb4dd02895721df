//! A gateway in this process, and small clients.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use plinth_kit::lifecycle::{Shutdown, ShutdownSettings};
use plinth_kit::settings::{Reader, Sources};
use plinth_kit::{App, Context, ServiceSettings};
use plinth_testbed::process::Process;
use plinth_testbed::{eventually, holds};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// `flags` and what they leave open: every listener on a free port, quiet and quick.
fn with_defaults(flags: &[&str], more: &[&str]) -> Vec<String> {
    let listeners =
        ["--proxy-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--status-listen", "127.0.0.1:0"];
    let quiet = ["--register", "false", "--shutdown-drain-delay", "0ms"];
    // A Redis that answers is in time, however busy the machine is.
    let patient = ["--redis-deadline", "5s"];
    let defaults = [&listeners[..], &quiet, &patient, more].concat();
    let open = defaults.chunks(2).filter(|pair| !flags.contains(&pair[0])).flatten();
    open.chain(flags).map(|&flag| flag.to_owned()).collect()
}

/// A gateway in this process.
pub struct Gateway {
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
    pub status: SocketAddr,
    pub file: PathBuf,
    pub shutdown: Shutdown,
    pub app: Option<App>,
    _folder: TempDir,
}

impl Gateway {
    pub async fn start(config: &str) -> Self {
        Self::start_with(config, &[]).await
    }

    /// With further flags.
    pub async fn start_with(config: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kong.yml");
        std::fs::write(&file, config).unwrap();
        let mut args = vec!["--config".to_owned(), file.display().to_string()];
        args.extend(with_defaults(flags, &["--workers", "2", "--config-poll", "20ms"]));
        let sources = Sources::new("gateway", args, BTreeMap::new(), None).unwrap();
        let mut reader = Reader::new(&sources);
        let service = ServiceSettings::read(&mut reader, &gateway::SERVICE);
        let settings = gateway::Settings::read(&mut reader);
        reader.finish().unwrap();
        let shutdown = Shutdown::new(ShutdownSettings {
            drain_delay: service.shutdown.drain_delay,
            timeout: service.shutdown.timeout,
        });
        let control = tokio::runtime::Handle::current();
        let context = Context::new(&gateway::SERVICE, service, shutdown.clone(), control).await.unwrap();
        let app = gateway::start(settings, context).await.unwrap();
        let address = |name| app.addresses().iter().find(|listening| listening.name == name).unwrap().address;
        Self {
            proxy: address("proxy"),
            admin: address("admin"),
            status: address("status"),
            file,
            shutdown,
            app: Some(app),
            _folder: folder,
        }
    }

    /// Where the listener `name` is.
    pub fn address(&self, name: &str) -> SocketAddr {
        let listening = self.app.as_ref().unwrap().addresses();
        listening.iter().find(|listening| listening.name == name).unwrap().address
    }

    pub async fn get(&self, path: &str) -> Response<Bytes> {
        self.send(Method::GET, path, &[], "").await
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Bytes> {
        plinth_testbed::http_client::send(method, &format!("http://{}{path}", self.proxy), headers, body)
            .await
            .unwrap()
    }

    pub async fn metric(&self, name: &str) -> f64 {
        let url = format!("http://{}/metrics", self.status);
        let text = plinth_testbed::http_client::get(&url).await.unwrap();
        let text = String::from_utf8(text.into_body().to_vec()).unwrap();
        let lines = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    pub async fn stop(mut self) {
        self.shutdown.request();
        self.app.take().unwrap().finished().await.unwrap();
    }
}

/// The gateway's own binary as a process of its own.
pub struct Binary {
    pub process: Process,
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
    pub status: SocketAddr,
    pub file: PathBuf,
    _folder: TempDir,
}

impl Binary {
    /// Starts it and waits until it is ready.
    pub async fn start(config: &str, flags: &[&str]) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_gateway")), config, flags).await
    }

    /// The same at the lowest priority.
    pub async fn start_nice(config: &str, flags: &[&str]) -> Self {
        let mut command = Command::new("nice");
        command.args(["-n", "19", env!("CARGO_BIN_EXE_gateway")]);
        Self::start_by(command, config, flags).await
    }

    async fn start_by(mut command: Command, config: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kong.yml");
        std::fs::write(&file, config).unwrap();
        command.arg("--config").arg(&file);
        command.args(with_defaults(flags, &[]));
        let mut process = Process::spawn("gateway", command, folder.path());
        let addresses = eventually("the gateway prints its addresses", Duration::from_secs(20), || {
            process.assert_running();
            let output = process.output();
            let found = ["proxy", "admin", "status"].map(|name| printed(&output, name));
            async move {
                match found {
                    [Some(proxy), Some(admin), Some(status)] => Ok([proxy, admin, status]),
                    _ => Err(output),
                }
            }
        })
        .await;
        let [proxy, admin, status] = addresses;
        let url = format!("http://{status}/status/ready");
        eventually("the gateway is ready", Duration::from_secs(20), || async {
            let answer = plinth_testbed::http_client::get(&url).await.map_err(|error| error.to_string())?;
            holds(answer.status() == 200, String::from_utf8_lossy(answer.body()))
        })
        .await;
        Self { process, proxy, admin, status, file, _folder: folder }
    }
}

/// The address in `gateway: NAME listening on SCHEME://ADDRESS`.
fn printed(output: &str, name: &str) -> Option<SocketAddr> {
    let start = format!("gateway: {name} listening on ");
    let line = output.lines().find_map(|line| line.strip_prefix(&start))?;
    line.split_once("://")?.1.parse().ok()
}

/// One keep-alive connection.
pub struct Client {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    host: String,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender, host: address.to_string() }
    }

    /// Status, headers, body; an error when the connection is gone or breaks.
    pub async fn get(&mut self, path: &str) -> Result<(u16, HeaderMap, Bytes), hyper::Error> {
        self.get_with(path, &[]).await
    }

    /// With further headers.
    pub async fn get_with(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(u16, HeaderMap, Bytes), hyper::Error> {
        self.sender.ready().await?;
        let mut request = Request::get(path).header("host", &self.host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).unwrap();
        let answer = self.sender.send_request(request).await?;
        let (head, body) = answer.into_parts();
        Ok((head.status.as_u16(), head.headers, body.collect().await?.to_bytes()))
    }
}

/// Sends bytes as they are and reads until the other side closes or `limit` passed.
pub async fn raw(address: SocketAddr, bytes: &[u8], limit: Duration) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(limit, stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// A configuration, with times that a busy machine keeps, with one service at `targets` (more than one: an upstream), reached at every path.
pub fn config(targets: &[SocketAddr], more: &str) -> String {
    let mut text = format!(
        "_format_version: \"3.0\"\nservices:\n- name: s\n  host: up\n  connect_timeout: 5000\n  read_timeout: 10000\n  \
         write_timeout: 10000\n  retries: 3\n{more}\n  routes:\n  - name: r\n    paths: [/]\n    strip_path: false\n\
         upstreams:\n- name: up\n  targets:\n"
    );
    for target in targets {
        text.push_str(&format!("  - target: {target}\n"));
    }
    text
}

/// One service at an upstream of these targets and weights, with `more` fields of the upstream.
pub fn balanced(targets: &[(SocketAddr, u32)], more: Value) -> String {
    let targets: Vec<Value> = targets
        .iter()
        .map(|(address, weight)| json!({"target": address.to_string(), "weight": weight}))
        .collect();
    let mut upstream = json!({"name": "up", "targets": targets});
    upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({
        "_format_version": "3.0",
        "services": [{"name": "s", "host": "up", "routes": [{"name": "r", "paths": ["/"], "strip_path": false}]}],
        "upstreams": [upstream],
    })
    .to_string()
}
