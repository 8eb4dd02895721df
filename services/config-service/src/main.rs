//! The config-service binary.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    plinth_kit::run(config_service::SERVICE, config_service::Settings::read, config_service::start)
}
