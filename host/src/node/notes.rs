//! What a node ran, on disk, so that it comes back with it after a restart.

use super::generation::Prepare;
use crate::relay::frame::PipelineId;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A generation as it stands in the state directory.
#[derive(Serialize, Deserialize)]
pub(super) struct Noted {
    pub pipeline: String,
    pub generation: u64,
    pub prepare: Prepare,
}

/// The folder of all notes.
pub(super) struct Notes(PathBuf);

impl Notes {
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let folder = state_dir.join("generations");
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    /// Where the note of a generation is.
    pub fn path(&self, pipeline: &str, generation: u64) -> PathBuf {
        self.0.join(format!("{:016x}-{generation}.json", PipelineId::of(pipeline).0))
    }

    /// Notes a generation durably: after a crash either the whole note is there or none.
    pub fn write(&self, noted: &Noted) -> io::Result<()> {
        let path = self.path(&noted.pipeline, noted.generation);
        let part = path.with_extension("part");
        let mut file = fs::File::create(&part)?;
        file.write_all(&serde_json::to_vec(noted)?)?;
        file.sync_all()?;
        fs::rename(&part, &path)?;
        fs::File::open(&self.0)?.sync_all()
    }

    /// The paths of all notes.
    pub fn all(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
    }
}
