//! The registry-service binary.

use std::process::ExitCode;

use plinth_kit::Service;
use registry_service::{NAME, PORT, Settings, openapi, start};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let service = Service::new(NAME, env!("CARGO_PKG_VERSION")).port(PORT).document(openapi::document);
    plinth_kit::run(service, Settings::read, start)
}
