//! `/v1/agent/host`: what the machine is made of, as the system's own files tell it.

use std::collections::HashMap;
use std::fs::read_to_string;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::reply::{Handled, Reply};
use super::{Call, Server};

/// Names in the answer and in `/proc/meminfo`.
const MEMORY: [(&str, &str); 28] = [
    ("total", "MemTotal"),
    ("available", "MemAvailable"),
    ("free", "MemFree"),
    ("active", "Active"),
    ("inactive", "Inactive"),
    ("buffers", "Buffers"),
    ("writeback", "Writeback"),
    ("dirty", "Dirty"),
    ("writebacktmp", "WritebackTmp"),
    ("shared", "Shmem"),
    ("slab", "Slab"),
    ("sreclaimable", "SReclaimable"),
    ("sunreclaim", "SUnreclaim"),
    ("pagetables", "PageTables"),
    ("swapcached", "SwapCached"),
    ("commitlimit", "CommitLimit"),
    ("committedas", "Committed_AS"),
    ("hightotal", "HighTotal"),
    ("highfree", "HighFree"),
    ("lowtotal", "LowTotal"),
    ("lowfree", "LowFree"),
    ("swaptotal", "SwapTotal"),
    ("swapfree", "SwapFree"),
    ("mapped", "Mapped"),
    ("vmalloctotal", "VmallocTotal"),
    ("vmallocused", "VmallocUsed"),
    ("vmallocchunk", "VmallocChunk"),
    ("hugepagesize", "Hugepagesize"),
];
/// The same for a processor in `/proc/cpuinfo`.
const PROCESSOR: [(&str, &str); 7] = [
    ("vendorId", "vendor_id"),
    ("family", "cpu family"),
    ("model", "model"),
    ("physicalId", "physical id"),
    ("coreId", "core id"),
    ("modelName", "model name"),
    ("microcode", "microcode"),
];

/// What could be found out; a part that could not is empty, and why is among the errors.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Host {
    memory: Value,
    #[serde(rename = "CPU")]
    cpu: Value,
    host: Value,
    disk: Value,
    collection_time: i128,
    errors: Option<Vec<String>>,
}

impl Server {
    pub(super) async fn agent_host(&self, call: &Call<'_>) -> Handled {
        let collected = tokio::task::spawn_blocking(collect).await;
        let host =
            collected.map_err(|error| Reply::internal(&format!("cannot look at the host: {error}")))?;
        Ok(Reply::json(&host, call.pretty))
    }
}

fn collect() -> Host {
    let mut errors = Vec::new();
    let mut part = |found: std::io::Result<Value>, what: &str| {
        found.unwrap_or_else(|error| {
            errors.push(format!("{what}: {error}"));
            Value::Null
        })
    };
    let (memory, cpu) = (part(memory(), "memory"), part(processors(), "processors"));
    let (host, disk) = (part(system(), "host"), part(disk("/"), "disk"));
    let collection_time = jiff::Timestamp::now().as_nanosecond();
    Host { memory, cpu, host, disk, collection_time, errors: (!errors.is_empty()).then_some(errors) }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
}

fn memory() -> std::io::Result<Value> {
    Ok(memory_of(&read_to_string("/proc/meminfo")?))
}

fn memory_of(text: &str) -> Value {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let given: HashMap<&str, u64> = lines
        .map(|(name, value)| {
            let number = value.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
            (name, if value.ends_with("kB") { number * 1024 } else { number })
        })
        .collect();
    let of = |name: &str| given.get(name).copied().unwrap_or(0);
    let mut shown: Map<String, Value> =
        MEMORY.iter().map(|(name, given)| ((*name).to_owned(), of(given).into())).collect();
    let cached = of("Cached") + of("SReclaimable");
    let used = of("MemTotal").saturating_sub(of("MemFree") + of("Buffers") + cached);
    shown.insert("cached".to_owned(), cached.into());
    shown.insert("used".to_owned(), used.into());
    shown.insert("usedPercent".to_owned(), percent(used, of("MemTotal")).into());
    shown.insert("hugepagestotal".to_owned(), of("HugePages_Total").into());
    shown.insert("hugepagesfree".to_owned(), of("HugePages_Free").into());
    // other systems' kinds of memory
    shown.insert("wired".to_owned(), 0.into());
    shown.insert("laundry".to_owned(), 0.into());
    Value::Object(shown)
}

fn processors() -> std::io::Result<Value> {
    Ok(processors_of(&read_to_string("/proc/cpuinfo")?))
}

fn processors_of(text: &str) -> Value {
    let processor = |text: &str| {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let given: HashMap<&str, &str> = lines.map(|(name, value)| (name.trim(), value.trim())).collect();
        let of = |name: &str| given.get(name).copied().unwrap_or_default();
        let number = |name: &str| of(name).split(' ').next().and_then(|n| n.parse::<i64>().ok()).unwrap_or(0);
        let mut shown: Map<String, Value> =
            PROCESSOR.iter().map(|(name, given)| ((*name).to_owned(), of(given).into())).collect();
        shown.insert("cpu".to_owned(), number("processor").into());
        shown.insert("stepping".to_owned(), number("stepping").into());
        shown.insert("cacheSize".to_owned(), number("cache size").into());
        shown.insert("cores".to_owned(), 1.into());
        shown.insert("mhz".to_owned(), of("cpu MHz").parse::<f64>().unwrap_or(0.0).into());
        shown.insert("flags".to_owned(), of("flags").split_whitespace().collect::<Vec<_>>().into());
        Value::Object(shown)
    };
    text.split("\n\n").filter(|text| text.contains("processor")).map(processor).collect()
}

fn system() -> std::io::Result<Value> {
    let line = |path: &str| read_to_string(path).map(|text| text.trim().to_owned());
    let stat = read_to_string("/proc/stat")?;
    let began = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok());
    let up = line("/proc/uptime")?;
    let up = up.split('.').next().and_then(|seconds| seconds.parse::<u64>().ok());
    let is_process = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let processes =
        std::fs::read_dir("/proc")?.flatten().filter(|entry| is_process(&entry.file_name())).count();
    // small systems have none
    let release = read_to_string("/etc/os-release").unwrap_or_default();
    let of = |name: &str| {
        let value = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().trim_matches('"').to_owned()
    };
    let like = of("ID_LIKE");
    let family = like.split(' ').next().filter(|family| !family.is_empty()).map_or(of("ID"), str::to_owned);
    Ok(json!({
        "hostname": line("/proc/sys/kernel/hostname")?,
        "uptime": up.unwrap_or(0),
        "bootTime": began.unwrap_or(0),
        "procs": processes,
        "os": std::env::consts::OS,
        "platform": of("ID"),
        "platformFamily": family,
        "platformVersion": of("VERSION_ID"),
        "kernelVersion": line("/proc/sys/kernel/osrelease")?,
        "kernelArch": std::env::consts::ARCH,
        "virtualizationSystem": "",
        "virtualizationRole": "",
        "hostid": line("/proc/sys/kernel/random/boot_id")?,
    }))
}

fn disk(path: &str) -> std::io::Result<Value> {
    let found = rustix::fs::statvfs(path)?;
    let (total, free) = (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize);
    let used = found.f_blocks.saturating_sub(found.f_bfree) * found.f_frsize;
    let inodes = found.f_files.saturating_sub(found.f_ffree);
    let mounts = read_to_string("/proc/mounts")?;
    let kind = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        (words.next() == Some(path)).then(|| words.next())?
    });
    Ok(json!({
        "path": path,
        "fstype": kind.unwrap_or_default(),
        "total": total,
        "free": free,
        "used": used,
        "usedPercent": percent(used, used + free),
        "inodesTotal": found.f_files,
        "inodesUsed": inodes,
        "inodesFree": found.f_ffree,
        "inodesUsedPercent": percent(inodes, found.f_files),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_processors_are_read() {
        let shown = memory_of(
            "MemTotal: 1000 kB\nMemFree: 200 kB\nBuffers: 100 kB\nCached: 250 kB\nSReclaimable: 50 kB\nHugePages_Total: 3\n",
        );
        assert_eq!((&shown["total"], &shown["cached"]), (&json!(1_024_000), &json!(307_200)));
        assert_eq!((&shown["used"], &shown["usedPercent"]), (&json!(409_600), &json!(40.0)));
        assert_eq!((&shown["hugepagestotal"], &shown["swaptotal"]), (&json!(3), &json!(0)));
        let shown = processors_of(
            "processor\t: 0\nvendor_id\t: V\ncpu MHz\t\t: 2445.4\ncache size\t: 512 KB\nflags\t\t: a b\n\nprocessor\t: 1\n\n",
        );
        assert_eq!(shown.as_array().unwrap().len(), 2);
        assert_eq!((&shown[0]["vendorId"], &shown[0]["mhz"]), (&json!("V"), &json!(2445.4)));
        assert_eq!((&shown[0]["cacheSize"], &shown[0]["flags"]), (&json!(512), &json!(["a", "b"])));
        assert_eq!(shown[1]["cpu"], 1);
    }

    #[test]
    fn everything_is_found_here() {
        let host = collect();
        assert_eq!(host.errors, None);
        assert!(host.memory["total"].as_u64() > host.memory["used"].as_u64());
        assert!(host.disk["total"].as_u64() >= host.disk["free"].as_u64());
        assert!(
            host.host["procs"].as_u64() > Some(0) && host.host["bootTime"].as_u64() > Some(1_000_000_000)
        );
        assert!(!host.cpu.as_array().unwrap().is_empty());
    }
}
