//! A private RabbitMQ broker.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::Process;
use crate::tls::ServerFiles;
use crate::{PortLease, eventually, tools};

/// Its own epmd too, so that nothing of it outlives the test. User guest/guest, loopback only.
pub struct Rabbit {
    pub addr: SocketAddr,
    ports: [PortLease; 3],
    folder: tempfile::TempDir,
    tls: Option<(ServerFiles, PortLease)>,
    broker: Option<Process>,
    _epmd: Process,
}

impl Rabbit {
    pub async fn start() -> Self {
        Self::launch(false).await
    }

    /// Also with a listener for TLS.
    pub async fn start_with_tls() -> Self {
        Self::launch(true).await
    }

    /// `amqps://`, and the authority of its certificate.
    pub fn tls(&self) -> (String, &Path) {
        let (files, port) = self.tls.as_ref().expect("started with TLS");
        (format!("amqps://guest:guest@localhost:{}/%2f", port.port()), &files.ca)
    }

    async fn launch(tls: bool) -> Self {
        let ports: [PortLease; 3] = std::array::from_fn(|_| PortLease::take());
        let folder = tempfile::tempdir().expect("temporary folder");
        let epmd = tools::program("epmd", "PLINTH_TEST_EPMD_BIN", &[], "package erlang-base");
        let mut command = Command::new(epmd);
        command.args(["-address", "127.0.0.1", "-port", &ports[2].port().to_string()]);
        let epmd = Process::spawn("epmd", command, folder.path());
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, ports[0].port()));
        let tls = tls.then(|| (ServerFiles::write(folder.path()), PortLease::take()));
        let mut rabbit = Self { addr, ports, folder, tls, broker: None, _epmd: epmd };
        rabbit.start_again().await;
        rabbit
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.addr)
    }

    pub fn kill(&mut self) {
        self.broker = None;
    }

    /// Durable queues and persistent messages survive `kill` and this.
    pub async fn start_again(&mut self) {
        // Not the wrapper in /usr/sbin: it insists on the system's own user and data folder.
        let packaged = PathBuf::from("/usr/lib/rabbitmq/bin/rabbitmq-server");
        let binary = tools::program(
            "rabbitmq-server",
            "PLINTH_TEST_RABBITMQ_BIN",
            &[packaged],
            "package rabbitmq-server",
        );
        let folder = self.folder.path();
        let enabled = folder.join("enabled_plugins");
        std::fs::write(&enabled, "[].\n").expect("enabled_plugins");
        let [node, distribution, epmd] = &self.ports;
        let mut command = Command::new(binary);
        command
            .env("HOME", folder)
            .env("RABBITMQ_NODENAME", format!("plinth{}@localhost", node.port()))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", node.port().to_string())
            .env("RABBITMQ_DIST_PORT", distribution.port().to_string())
            .env("ERL_EPMD_PORT", epmd.port().to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", &enabled)
            .env("RABBITMQ_PID_FILE", folder.join("pid"))
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("none"))
            // Two busy-waiting schedulers would starve a two-core machine.
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none");
        if let Some((ServerFiles { ca, cert, key }, port)) = &self.tls {
            let config = folder.join("rabbitmq.conf");
            let text = format!(
                "listeners.ssl.1 = 127.0.0.1:{}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
                 ssl_options.keyfile = {}\nssl_options.verify = verify_none\n",
                port.port(),
                ca.display(),
                cert.display(),
                key.display()
            );
            std::fs::write(&config, text).expect("rabbitmq.conf");
            command.env("RABBITMQ_CONFIG_FILE", config);
        }
        let process = self.broker.insert(Process::spawn("rabbitmq", command, folder));
        let addr = self.addr;
        // The listener for TLS opens after the plain one.
        let tls = self.tls.as_ref().map(|(_, port)| (Ipv4Addr::LOCALHOST, port.port()));
        eventually("RabbitMQ speaks AMQP", Duration::from_secs(90), || {
            process.assert_running();
            async move {
                let mut stream = TcpStream::connect(addr).await?;
                stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
                let mut frame = [0; 1];
                stream.read_exact(&mut frame).await?;
                // A method frame (connection.start).
                if frame != [1] {
                    return Err(std::io::Error::other(format!("{frame:?}")));
                }
                if let Some(tls) = tls {
                    TcpStream::connect(tls).await?;
                }
                Ok(())
            }
        })
        .await;
    }
}
