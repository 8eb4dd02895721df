//! The gateway's binary.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    plinth_kit::run(gateway::SERVICE, gateway::Settings::read, gateway::start_process)
}
