//! Where the real servers' programs are.

use std::path::PathBuf;

/// The folder into which `cargo xtask test` unpacks what no package of the machine offers.
pub fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("PLINTH_TOOLS_DIR") {
        return PathBuf::from(folder);
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME is not set")).join(".cache"));
    cache.join("plinth/tools")
}

/// First of: the file named by `variable`, `candidates`, `name` on PATH. Panics with what to install otherwise.
pub fn program(name: &str, variable: &str, candidates: &[PathBuf], install: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return PathBuf::from(path);
    }
    let on_path = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).map(|folder| folder.join(name)).collect::<Vec<_>>())
        .unwrap_or_default();
    candidates.iter().chain(&on_path).find(|path| path.is_file()).cloned().unwrap_or_else(|| {
        panic!("this test needs {name}: {install} (`cargo xtask test` does it where it can), or name the program in {variable}")
    })
}

/// The id of a user that server programs accept when the tests run as root (PostgreSQL refuses root).
pub fn unprivileged_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    ["postgres", "nobody"].iter().find_map(|user| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(user))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}
