//! A private Redis server.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::Process;
use crate::{PortLease, eventually, tools};

/// Without persistence: after `kill` and `start_again` it is empty, as a cache may be.
pub struct Redis {
    pub addr: SocketAddr,
    port: PortLease,
    folder: tempfile::TempDir,
    process: Option<Process>,
}

impl Redis {
    pub async fn start() -> Self {
        let port = PortLease::take();
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port.port()));
        let mut redis =
            Self { addr, port, folder: tempfile::tempdir().expect("temporary folder"), process: None };
        redis.start_again().await;
        redis
    }

    pub fn url(&self) -> String {
        format!("redis://{}/", self.addr)
    }

    pub fn kill(&mut self) {
        self.process = None;
    }

    pub async fn start_again(&mut self) {
        let binary = tools::program("redis-server", "PLINTH_TEST_REDIS_BIN", &[], "package redis-server");
        let mut command = Command::new(binary);
        command.args(["--bind", "127.0.0.1", "--port", &self.port.port().to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(self.folder.path());
        let process = self.process.insert(Process::spawn("redis", command, self.folder.path()));
        let addr = self.addr;
        eventually("Redis answers PING", Duration::from_secs(15), || {
            process.assert_running();
            async move {
                let mut stream = TcpStream::connect(addr).await?;
                stream.write_all(b"PING\r\n").await?;
                let mut answer = [0; 7];
                stream.read_exact(&mut answer).await?;
                if &answer == b"+PONG\r\n" {
                    Ok(())
                } else {
                    Err(std::io::Error::other(format!("{answer:?}")))
                }
            }
        })
        .await;
    }
}
