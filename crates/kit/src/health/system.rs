//! The machine's processors, memory and disk, for `/health`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use sysinfo::System;
use utoipa::ToSchema;

/// How long one reading is used.
const FRESH: Duration = Duration::from_secs(5);

/// Usage of the machine.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct SystemUsage {
    pub cpu: Cpu,
    pub memory: Memory,
    /// Of the file system that holds the working folder; absent when the system does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
}

#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Cpu {
    /// Processors this process may use.
    pub count: usize,
    /// Busy share of all processors since the last reading, 0 to 100.
    pub usage_percent: f32,
}

#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Memory {
    pub total_bytes: u64,
    pub used_bytes: u64,
    /// 0 to 100.
    pub usage_percent: f64,
}

#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Disk {
    pub total_bytes: u64,
    pub used_bytes: u64,
    /// 0 to 100.
    pub usage_percent: f64,
}

/// Reads the usage at most every five seconds, so that health checks cost next to nothing.
#[derive(Clone, Default)]
pub(super) struct SystemReader {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// None before the first reading and where the system does not tell.
    system: Option<System>,
    last: Option<(Instant, SystemUsage)>,
}

impl SystemReader {
    pub(super) fn usage(&self) -> SystemUsage {
        let mut state = self.state.lock();
        if let Some((at, usage)) = &state.last
            && at.elapsed() < FRESH
        {
            return usage.clone();
        }
        let usage = state.read();
        state.last = Some((Instant::now(), usage.clone()));
        usage
    }
}

impl State {
    fn read(&mut self) -> SystemUsage {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let mut usage =
            SystemUsage { cpu: Cpu { count, usage_percent: 0.0 }, disk: disk(), ..SystemUsage::default() };
        if self.system.is_none() {
            self.system = System::new().ok();
        }
        if let Some(system) = &mut self.system {
            system.refresh_memory();
            system.refresh_cpu_usage();
            usage.cpu.usage_percent = system.global_cpu_usage();
            let (total, used) = (system.total_memory(), system.used_memory());
            usage.memory =
                Memory { total_bytes: total, used_bytes: used, usage_percent: percent(used, total) };
        }
        usage
    }
}

fn disk() -> Option<Disk> {
    let figures = rustix::fs::statvfs(".").ok()?;
    let total = figures.f_blocks.saturating_mul(figures.f_frsize);
    let used = figures.f_blocks.saturating_sub(figures.f_bfree).saturating_mul(figures.f_frsize);
    Some(Disk { total_bytes: total, used_bytes: used, usage_percent: percent(used, total) })
}

#[expect(clippy::cast_precision_loss, reason = "a percentage needs no more")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64 * 1000.0).round() / 10.0 }
}
