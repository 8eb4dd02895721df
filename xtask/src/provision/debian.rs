//! Packages of Debian bullseye, whichever release this machine runs: unpacked into the tools folder, not installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Failed, output};

pub struct Package {
    /// Name of the folder it is unpacked into.
    pub folder: &'static str,
    /// Below an archive's root.
    path: &'static str,
    sha256: &'static str,
    /// What to do where it cannot be had.
    instead: &'static str,
}

/// The reference of the conformance tests.
pub const CONSUL: Package = Package {
    folder: "consul-1.8.7",
    path: "pool/main/c/consul/consul_1.8.7+dfsg1-2+b3_amd64.deb",
    sha256: "e4e888bba104daba1d9161f49bfc52649a7e4efd45b1a7ead5bc54f2cb9c89d9",
    instead: "name its program in PLINTH_TEST_CONSUL_BIN",
};

/// Its Go client with the client's own tests.
pub const CONSUL_GO: Package = Package {
    folder: "consul-go-1.8.7",
    path: "pool/main/c/consul/golang-github-hashicorp-consul-dev_1.8.7+dfsg1-2_all.deb",
    sha256: "dbc47ac126ba2d3f2ab5ae66e66b4334f1506968aa92bfa884e4924878dbe836",
    instead: "unpack it there by hand",
};

/// Compiled with `consul_sd_configs`, which later releases leave out.
pub const PROMETHEUS: Package = Package {
    folder: "prometheus-2.24.1",
    path: "pool/main/p/prometheus/prometheus_2.24.1+ds-1+b7_amd64.deb",
    sha256: "7f98887c0fa36e0dd81bb39abc57a9e2535c2a0dc20442a431255ebc0b87b73a",
    instead: "unpack it there by hand",
};

impl Package {
    /// Its folder; downloaded and unpacked if it is not there yet.
    pub fn unpacked(&self, tools: &Path) -> Result<PathBuf, Failed> {
        let folder = tools.join(self.folder);
        if folder.is_dir() {
            return Ok(folder);
        }
        let failed = |path: &Path, error| Failed(format!("{}: {error}", path.display()));
        std::fs::create_dir_all(tools).map_err(|error| failed(tools, error))?;
        let file = tools.join(format!("{}.deb", self.folder));
        self.download(&file)?;
        // Unpacked beside its place and moved there whole: an interrupted run leaves nothing half-done behind.
        let beside = tools.join(format!("{}-unpacking-{}", self.folder, std::process::id()));
        let mut dpkg = Command::new("dpkg-deb");
        dpkg.arg("-x").arg(&file).arg(&beside);
        output(dpkg)?;
        std::fs::rename(&beside, &folder).map_err(|error| failed(&folder, error))?;
        std::fs::remove_file(&file).map_err(|error| failed(&file, error))?;
        Ok(folder)
    }

    /// From whichever archive this machine's apt is set up with; its helper checks the sum.
    fn download(&self, file: &Path) -> Result<(), Failed> {
        let Package { folder, path, sha256, instead } = self;
        let mut targets = Command::new("apt-get");
        targets.args(["indextargets", "--format", "$(REPO_URI)"]);
        let archives = output(targets)
            .map_err(|Failed(reason)| Failed(format!("the tests need {folder}: {instead} ({reason})")))?;
        let archives = String::from_utf8_lossy(&archives).into_owned();
        let mut archives: Vec<&str> = archives.lines().collect();
        archives.sort_unstable();
        archives.dedup();
        for archive in &archives {
            let mut helper = Command::new("/usr/lib/apt/apt-helper");
            helper
                .arg("download-file")
                .arg(format!("{archive}{path}"))
                .arg(file)
                .arg(format!("SHA256:{sha256}"));
            if helper.output().is_ok_and(|output| output.status.success()) {
                return Ok(());
            }
        }
        Err(Failed(format!(
            "the tests need {folder} ({path}, SHA-256 {sha256}); none of the {} archives of this machine's apt has \
             it: {instead}",
            archives.len()
        )))
    }
}
