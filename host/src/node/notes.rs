//! What a node ran, on disk, so that it comes back with it after a restart.

use super::generation::Prepare;
use crate::durable;
use crate::relay::frame::PipelineId;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
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

    /// Notes a generation.
    pub fn write(&self, noted: &Noted) -> io::Result<()> {
        durable::write(&self.path(&noted.pipeline, noted.generation), noted)
    }

    /// The paths of all notes.
    pub fn all(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
    }
}
