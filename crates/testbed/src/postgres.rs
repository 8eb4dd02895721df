//! A private PostgreSQL server.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::Process;
use crate::tls::ServerFiles;
use crate::{PortLease, eventually, tools};

/// Durable settings as in production (fsync on), so that killing it tells the truth.
pub struct Postgres {
    port: PortLease,
    folder: tempfile::TempDir,
    tls: Option<ServerFiles>,
    process: Option<Process>,
}

impl Postgres {
    pub async fn start() -> Self {
        Self::launch(false).await
    }

    /// Also takes sessions with TLS.
    pub async fn start_with_tls() -> Self {
        Self::launch(true).await
    }

    /// The authority of its certificate.
    pub fn ca(&self) -> &Path {
        &self.tls.as_ref().expect("started with TLS").ca
    }

    async fn launch(tls: bool) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        if let Some((user, group)) = tools::unprivileged_user() {
            std::os::unix::fs::chown(folder.path(), Some(user), Some(group))
                .expect("chown of the data folder");
        }
        let mut initdb = as_server_user(&program("initdb"));
        initdb.args(["--auth=trust", "--username=plinth", "--encoding=UTF8", "--no-sync", "-D"]);
        let output = initdb.arg(folder.path().join("data")).output().expect("initdb runs");
        assert!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        let tls = tls.then(|| ServerFiles::write(folder.path()));
        if let (Some(ServerFiles { cert, key, .. }), Some((user, group))) = (&tls, tools::unprivileged_user())
        {
            for file in [cert, key] {
                std::os::unix::fs::chown(file, Some(user), Some(group)).expect("chown of a PEM file");
            }
        }
        let mut postgres = Self { port: PortLease::take(), folder, tls, process: None };
        postgres.start_again().await;
        postgres
    }

    /// The database `postgres` of a superuser without password, loopback only.
    pub fn url(&self) -> String {
        format!("postgres://plinth@127.0.0.1:{}/postgres", self.port.port())
    }

    /// SIGKILL to the whole group.
    pub fn kill(&mut self) {
        self.process = None;
    }

    fn spawn(&self) -> Process {
        let mut command = as_server_user(&program("postgres"));
        command.arg("-D").arg(self.folder.path().join("data")).args(["-h", "127.0.0.1", "-k", ""]);
        command.args(["-p", &self.port.port().to_string()]);
        if let Some(ServerFiles { cert, key, .. }) = &self.tls {
            command.args(["-c", "ssl=on", "-c"]).arg(format!("ssl_cert_file={}", cert.display()));
            command.arg("-c").arg(format!("ssl_key_file={}", key.display()));
        }
        let pid_file = self.folder.path().join("data/postmaster.pid");
        if pid_file.exists() {
            std::fs::remove_file(&pid_file).expect("stale postmaster.pid");
        }
        Process::spawn("postgres", command, self.folder.path())
    }

    pub async fn start_again(&mut self) {
        self.process = Some(self.spawn());
        let port = self.port.port();
        eventually("PostgreSQL accepts a session", Duration::from_secs(30), || {
            let process = self.process.as_mut().expect("spawned above");
            // Children of a killed server hold its shared memory for a moment more; PostgreSQL refuses until it is gone.
            if process.exited().is_some() && process.output().contains("is still in use") {
                self.process = Some(self.spawn());
            } else {
                process.assert_running();
            }
            async move {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
                stream.write_all(&startup_message()).await?;
                let mut kind = [0; 1];
                stream.read_exact(&mut kind).await?;
                // 'R' = authentication; 'E' = still starting up.
                if kind == *b"R" { Ok(()) } else { Err(std::io::Error::other(format!("{kind:?}"))) }
            }
        })
        .await;
    }
}

/// Protocol 3.0 start-up packet for user plinth, database postgres.
fn startup_message() -> Vec<u8> {
    let body = b"\x00\x03\x00\x00user\0plinth\0database\0postgres\0\0";
    let mut message = u32::try_from(body.len() + 4).expect("short message").to_be_bytes().to_vec();
    message.extend_from_slice(body);
    message
}

fn program(name: &str) -> PathBuf {
    let mut installed: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin").join(name)).collect())
        .unwrap_or_default();
    installed.sort();
    installed.reverse();
    let variable = format!("PLINTH_TEST_{}_BIN", name.to_uppercase());
    tools::program(name, &variable, &installed, "package postgresql")
}

fn as_server_user(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = tools::unprivileged_user() {
        command.uid(user).gid(group).current_dir("/");
    }
    command
}
