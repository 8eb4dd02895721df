//! Which Kong file the gateway of `up` reads.

use std::path::{Path, PathBuf};

use crate::failure::Failure;

use super::demo::Demo;

/// Without a file of the user's own: one route to the platform's own services, to be edited.
const STARTER: &str = r#"# Written by `plinth up` because no --config was given. Edit it while the gateway runs: it is reloaded within a second.
_format_version: "3.0"

services:
  - name: registry
    # Any registered service can be named like this; its healthy instances share the requests.
    url: http://registry-service.service.consul:8510
    routes:
      - name: registry
        paths: [/registry]
        strip_path: true
"#;

pub fn file(given: Option<&Path>, demo: Option<&Demo>, data: &Path) -> Result<PathBuf, Failure> {
    if let Some(given) = given {
        return given
            .canonicalize()
            .map_err(|error| Failure::usage(format!("--config {}: {error}", given.display())));
    }
    if let Some(demo) = demo {
        return Ok(demo.kong.clone());
    }
    let path = data.join("kong.yml");
    if !path.exists() {
        super::write(&path, STARTER)?;
    }
    Ok(path)
}
