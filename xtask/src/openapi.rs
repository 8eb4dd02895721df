//! The committed OpenAPI documents are what the services print.

use std::path::PathBuf;

use crate::process::{Failed, cargo, output, root};

const SERVICES: [&str; 4] = ["registry-service", "config-service", "health-aggregator", "gateway"];

fn documents() -> Result<Vec<(PathBuf, Vec<u8>)>, Failed> {
    SERVICES
        .iter()
        .map(|service| {
            let document = output(cargo(&["run", "--quiet", "--package", service, "--", "--openapi"]))?;
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
