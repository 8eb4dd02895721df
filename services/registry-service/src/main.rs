//! The registry-service binary.

use std::process::ExitCode;

use registry_service::{SERVICE, Settings, start};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    plinth_kit::run(SERVICE, Settings::read, start)
}
