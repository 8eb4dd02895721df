//! Whether small files hold something else than when they were read last.

use std::path::Path;

use aws_lc_rs::digest;

/// What files held at one moment, without holding it. By their bytes: modification times are as coarse as the kernel's tick,
/// so that a file replaced right after it was read would count as unchanged for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents(Vec<Option<[u8; digest::SHA256_OUTPUT_LEN]>>);

impl Contents {
    /// Of these files, as they are now, through symbolic links, as Kubernetes replaces mounted secrets. A file that cannot be
    /// read counts as one without contents: whoever reads it says why.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        Self(paths.into_iter().map(one).collect())
    }
}

fn one(path: &Path) -> Option<[u8; digest::SHA256_OUTPUT_LEN]> {
    let bytes = std::fs::read(path).ok()?;
    digest::digest(&digest::SHA256, &bytes).as_ref().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_shows_with_the_old_modification_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let now = || Contents::of([path.as_path()]);
        assert_eq!(now(), Contents(vec![None]), "not there yet");
        std::fs::write(&path, "one").unwrap();
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
        let first = now();
        std::fs::write(&path, "two").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
        assert_ne!(now(), first);
        std::fs::write(&path, "one").unwrap();
        assert_eq!(now(), first, "rewritten as it was");
    }
}
