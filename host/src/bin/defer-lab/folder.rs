//! A task's files: one folder of its own, removed when dropped.

use anyhow::{Context as _, Result};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

pub struct Folder(PathBuf);

impl Folder {
    /// A new folder under the system's folder for temporary files, for this user only.
    pub fn new(task: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("defer-{task}-{}", std::process::id()));
        // One of that name is left of a task that was killed, whose process id has come round again.
        let _ = fs::remove_dir_all(&path);
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot make the folder {}; TMPDIR names another place", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}
