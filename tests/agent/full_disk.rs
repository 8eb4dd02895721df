//! A disk that is really full: a small tmpfs in a mount namespace of the agent's own, so that nothing of the machine is
//! touched and nothing is left behind. Needs root.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plinth_testbed::process::Process;
use plinth_testbed::{eventually, holds};

use super::client::{Client, json};
use crate::support::program::{Program, command};

const SIZE: usize = 6 << 20;

struct Node {
    program: Program,
    base: String,
}

/// `plinth agent` on the file system mounted at `disk` by `holder`, or by itself if there is none yet.
async fn agent(label: &str, folder: &Path, holder: &Process) -> Node {
    let plinth = command("plinth");
    let mut inside = std::process::Command::new("nsenter");
    inside.arg(format!("--mount=/proc/{}/ns/mnt", holder.id())).arg(plinth.get_program());
    inside.args(["agent", "--http-port", "0", "--data-dir"]).arg(folder.join("disk/data"));
    let program = Program::start(label, inside, folder, &["http"]).await;
    let base = program.url("http", "");
    Node { program, base }
}

async fn read_only(client: &mut Client) -> u64 {
    let metrics = json(&client.get("/v1/agent/metrics").await.unwrap());
    let gauges = metrics["Gauges"].as_array().unwrap().clone();
    gauges.iter().find(|g| g["Name"] == "plinth.agent.read_only").unwrap()["Value"].as_u64().unwrap()
}

/// A process that holds a namespace with the small disk; `None` where that is not allowed.
async fn small_disk(folder: &Path) -> Option<Process> {
    let disk = folder.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mut holder = std::process::Command::new("unshare");
    let script =
        format!("mount -t tmpfs -o size={SIZE} tmpfs '{}' && echo mounted && exec sleep 600", disk.display());
    holder.args(["--mount", "sh", "-c", &script]);
    let mut holder = Process::spawn("disk", holder, folder);
    eventually("the small disk is mounted or refused", Duration::from_secs(10), || {
        let known = holder.output().contains("mounted") || holder.exited().is_some();
        async move { holds(known, "neither") }
    })
    .await;
    if holder.exited().is_none() {
        return Some(holder);
    }
    println!("\n!!! SKIPPED: a full disk cannot be tried here, mounting one is refused: {}", holder.output());
    None
}

/// The small disk as seen from outside of its namespace.
fn from_outside(holder: &Process, folder: &Path) -> PathBuf {
    let disk = folder.join("disk");
    Path::new("/proc").join(holder.id().to_string()).join("root").join(disk.strip_prefix("/").unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_makes_it_read_only_until_there_is_space_again() {
    let folder = tempfile::tempdir().unwrap();
    let Some(holder) = small_disk(folder.path()).await else { return };
    let disk = from_outside(&holder, folder.path());
    let filler = disk.join("filler");
    let node = agent("agent-1", folder.path(), &holder).await;
    let mut client = Client::new(&node.base);
    assert_eq!(client.put("/v1/kv/first", "1").await.unwrap().status(), 200);
    std::fs::write(&filler, vec![1; SIZE / 2]).unwrap();

    let mut stored = 0;
    let refused = loop {
        let answer = client.put(&format!("/v1/kv/k/{stored}"), vec![b'v'; 100_000]).await.unwrap();
        if answer.status() != 200 {
            break answer;
        }
        stored += 1;
        assert!(stored < 100, "the disk is never full");
    };
    assert_eq!(refused.status(), 500);
    let text = String::from_utf8_lossy(refused.body()).into_owned();
    assert!(text.contains("read-only") && text.contains("No space left"), "{text}");
    for _ in 0..3 {
        assert_eq!(client.put("/v1/kv/large", vec![b'v'; 100_000]).await.unwrap().status(), 500);
    }
    assert_eq!(read_only(&mut client).await, 1);
    assert_eq!(client.get("/v1/kv/first?raw").await.unwrap().body(), "1");
    assert_eq!(client.get(&format!("/v1/kv/k/{stored}")).await.unwrap().status(), 404);
    let said = node.program.process.output().matches("the disk refuses writes").count();
    assert_eq!(said, 1, "{}", node.program.process.output());
    drop(node);

    // Killed hard and started on the full disk: everything acknowledged is served.
    let node = agent("agent-2", folder.path(), &holder).await;
    let mut client = Client::new(&node.base);
    let keys = json(&client.get("/v1/kv/k/?keys").await.unwrap());
    assert_eq!(keys.as_array().unwrap().len(), stored);
    assert_eq!(client.put("/v1/kv/large", vec![b'v'; 100_000]).await.unwrap().status(), 500);

    // Space is freed and nobody writes.
    std::fs::remove_file(&filler).unwrap();
    eventually("it heals without a write", Duration::from_secs(20), || {
        let base = node.base.clone();
        async move { holds(read_only(&mut Client::new(&base)).await == 0, "read-only") }
    })
    .await;
    eventually("it says so", Duration::from_secs(10), || {
        let output = node.program.process.output();
        async move { holds(output.contains("the disk takes writes again"), output) }
    })
    .await;
    assert_eq!(client.put("/v1/kv/large", vec![b'v'; 100_000]).await.unwrap().status(), 200);
    drop(node);
    let node = agent("agent-3", folder.path(), &holder).await;
    let mut client = Client::new(&node.base);
    assert_eq!(client.get("/v1/kv/large?raw").await.unwrap().body().len(), 100_000);
    let keys = json(&client.get("/v1/kv/k/?keys").await.unwrap());
    assert_eq!(keys.as_array().unwrap().len(), stored);
}
