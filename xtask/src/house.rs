//! Who may depend on what, and where versions stand. The table is design, not description.

use serde_json::Value;

use crate::process::{Failed, cargo, output, root};

/// Package, workspace crates it may use, other crates it must not use. Development dependencies are free.
const RULES: [(&str, &[&str], &[&str]); 12] = [
    ("plinth-core", &[], &["axum", "sqlx", "lapin", "redis", "reqwest", "prometheus"]),
    ("plinth-kong", &[], &["tokio", "hyper", "axum", "sqlx", "lapin", "redis"]),
    ("plinth-events", &[], &["axum", "redis"]),
    ("plinth-agent", &["plinth-core"], &["sqlx", "lapin", "redis", "jsonwebtoken"]),
    ("plinth-kit", &["plinth-core"], &["sqlx", "lapin", "redis"]),
    ("plinth-testbed", &[], &[]),
    ("registry-service", SERVICE, &["redis", "lapin"]),
    ("config-service", SERVICE, &["redis", "lapin"]),
    ("health-aggregator", SERVICE, &["redis", "lapin"]),
    ("gateway", &["plinth-core", "plinth-kit", "plinth-events", "plinth-kong"], &["sqlx", "lapin"]),
    ("demo-service", &["plinth-core", "plinth-kit"], &["sqlx", "lapin", "redis"]),
    ("xtask", &[], &[]),
];
const SERVICE: &[&str] = &["plinth-core", "plinth-kit", "plinth-events"];
/// May use everything of ours except what is for tests.
const FREE: [&str; 2] = ["plinth", "plinth-tests"];

pub fn check() -> Result<(), Failed> {
    println!("\n== house rules");
    let metadata = output(cargo(&["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value =
        serde_json::from_slice(&metadata).map_err(|error| Failed(format!("cargo metadata: {error}")))?;
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ours: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut faults = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        depends(name, package, &ours, &mut faults);
        versions(name, package["manifest_path"].as_str().unwrap_or_default(), &mut faults)?;
    }
    purposes(&mut faults)?;
    if faults.is_empty() { Ok(()) } else { Err(Failed(format!("house rules:\n  {}", faults.join("\n  ")))) }
}

fn depends(name: &str, package: &Value, ours: &[&str], faults: &mut Vec<String>) {
    let rule = RULES.iter().find(|(package, ..)| *package == name);
    if rule.is_none() && !FREE.contains(&name) {
        faults.push(format!("{name} has no rule in xtask/src/house.rs"));
    }
    let normal = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    let normal = normal.iter().filter(|dependency| dependency["kind"].as_str() != Some("dev"));
    for dependency in normal.filter_map(|dependency| dependency["name"].as_str()) {
        if dependency == "plinth-testbed" {
            faults.push(format!("{name} uses plinth-testbed outside its tests"));
        }
        let Some((_, may_use, must_not_use)) = rule else { continue };
        if ours.contains(&dependency) && !may_use.contains(&dependency) || must_not_use.contains(&dependency)
        {
            faults.push(format!("{name} must not use {dependency}"));
        }
    }
}

fn versions(name: &str, manifest: &str, faults: &mut Vec<String>) -> Result<(), Failed> {
    let text = std::fs::read_to_string(manifest).map_err(|error| Failed(format!("{manifest}: {error}")))?;
    let manifest: toml::Table = text.parse().map_err(|error| Failed(format!("{manifest}: {error}")))?;
    for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for (dependency, value) in manifest.get(table).and_then(toml::Value::as_table).into_iter().flatten() {
            if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                faults.push(format!(
                    "{name}: {table}.{dependency} names its own version: use `workspace = true`"
                ));
            }
        }
    }
    Ok(())
}

/// Each external dependency of the workspace has a comment of its own that says what it is for.
fn purposes(faults: &mut Vec<String>) -> Result<(), Failed> {
    let path = root().join("Cargo.toml");
    let text =
        std::fs::read_to_string(&path).map_err(|error| Failed(format!("{}: {error}", path.display())))?;
    let table = text.split("[workspace.dependencies]").nth(1).unwrap_or_default();
    let table = table.split("\n[").next().unwrap_or_default();
    let mut above = "";
    for line in table.lines() {
        if line.contains('=')
            && !line.starts_with('#')
            && !line.contains("path = ")
            && !above.starts_with('#')
        {
            faults.push(format!("Cargo.toml: no comment above `{line}` says what it is for"));
        }
        above = line;
    }
    Ok(())
}
