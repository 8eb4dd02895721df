//! The `consul` command line: each line of `cli/*.txt` on both servers, with the same output and exit code.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use regex::Regex;

use crate::side::{LIMIT, Ran, Side, script};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn basics() {
    same("basics.txt").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operator() {
    same("operator.txt").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect() {
    same("connect.txt").await;
}

async fn same(script_name: &str) {
    let (agent, consul) = (Side::agent().await, Side::consul().await);
    for side in [&agent, &consul] {
        for file in ["web.json", "many.hcl", "import.json", "defaults.hcl"] {
            side.file(file, &std::fs::read_to_string(script("cli").join(file)).unwrap());
        }
    }
    let commands = std::fs::read_to_string(script("cli").join(script_name)).unwrap();
    let mut differences = String::new();
    for line in commands.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let mut both = [&agent, &consul].map(|side| shown(&run(side, &words)));
        if line == "watch -type=services" {
            // tags come in any order from Consul
            both = both.map(|text| sorted(&text));
        }
        let [got, mut wanted] = both;
        // Consul's agent tells its server a moment later.
        let since = Instant::now();
        while got != wanted && line.starts_with("catalog ") && since.elapsed() < Duration::from_secs(5) {
            wanted = shown(&run(&consul, &words));
        }
        if got != wanted {
            write!(differences, "\n$ consul {line}\n-- agent:\n{got}\n-- consul:\n{wanted}\n").unwrap();
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// The same lines, but for the commas behind them, in one order.
fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().map(|line| line.trim_end_matches(',')).collect();
    lines.sort_unstable();
    lines.join("\n")
}

fn run(side: &Side, words: &[&str]) -> Ran {
    side.run("cli", Side::consul_command(words), LIMIT)
}

/// Without what differs by nature: ids, indexes, times, ports of the servers themselves.
fn shown(ran: &Ran) -> String {
    let masks = [
        ("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uuid>"),
        (r"plinth  [0-9a-f]{8} ", "plinth <id> "),
        (r#"((?:Create|Modify|Lock)Index"?:? +)[0-9]+"#, "${1}N"),
        (r"to index [0-9]+", "to index N"),
        (r"Created At: .*", "Created At: T"),
        (r#"("Port": |127\.0\.0\.1:)[0-9]{4,5}"#, "${1}P"),
        (r"(port|wan_join_port)=[0-9]+", "${1}=P"),
        // widths of columns follow the lengths of ids and ports
        (" +", " "),
    ];
    masks.iter().fold(format!("{}\n{}", ran.status, ran.output), |text, (pattern, with)| {
        Regex::new(pattern).unwrap().replace_all(&text, *with).into_owned()
    })
}

mod both {
    use super::{LIMIT, Side, run};
    use crate::side::on_both;

    on_both!(about_itself, bodies_larger_than_allowed);

    /// `consul info` and `consul members` by what scripts look for in them; the rest is about Consul's own machinery.
    async fn about_itself(side: &Side) {
        let info = side.cli(&["info"]);
        for line in ["server = true", "leader = true", "version = 1.8.7", "state = Leader", "num_peers = 0"] {
            assert!(info.contains(line), "{}: {line} in {info}", side.name);
        }
        let members = side.cli(&["members"]);
        assert_eq!(members.lines().count(), 2, "{members}");
        assert!(members.contains(" alive ") && members.contains(" server "), "{members}");
    }

    /// The client shows the server's own words and the server goes on.
    async fn bodies_larger_than_allowed(side: &Side) {
        let file = side.file("large", &"x".repeat(524_289));
        let ran = run(side, &["kv", "put", "large", &format!("@{}", file.display())]);
        assert!(!ran.status.success() && ran.output.contains("413"), "{}: {}", side.name, ran.output);
        assert!(ran.output.contains("max size: 524288 bytes"), "{}: {}", side.name, ran.output);
        let file = side.file("largest", &"x".repeat(524_288));
        let ran = side.run(
            "cli",
            Side::consul_command(&["kv", "put", "largest", &format!("@{}", file.display())]),
            LIMIT,
        );
        assert!(ran.status.success(), "{}: {}", side.name, ran.output);
        assert_eq!(side.cli(&["kv", "get", "largest"]).len(), 524_289, "the value and a newline");
    }
}
