//! The committed OpenAPI documents are what the services print.

use std::path::PathBuf;
use std::process::Command;

use crate::process::{Failed, built, output, programs, root};

const SERVICES: [&str; 4] = ["registry-service", "config-service", "health-aggregator", "gateway"];

fn documents() -> Result<Vec<(PathBuf, Vec<u8>)>, Failed> {
    programs()?;
    SERVICES
        .iter()
        .map(|service| {
            let mut program = Command::new(built("debug", service));
            program.arg("--openapi");
            let document = output(program)?;
            Ok((root().join("openapi").join(format!("{service}.json")), document))
        })
        .collect()
}

pub fn write() -> Result<(), Failed> {
    for (path, document) in documents()? {
        std::fs::write(&path, document).map_err(|error| Failed(format!("{}: {error}", path.display())))?;
    }
    Ok(())
}

pub fn check() -> Result<(), Failed> {
    println!("\n== OpenAPI documents");
    for (path, document) in documents()? {
        let committed =
            std::fs::read(&path).map_err(|error| Failed(format!("{}: {error}", path.display())))?;
        if committed != document {
            return Err(Failed(format!("{} is out of date: run `cargo xtask openapi`", path.display())));
        }
    }
    Ok(())
}
