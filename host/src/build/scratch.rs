//! The folder that a build works in, and slices loaded from there.

use super::BuildError;
use crate::engine::{Engine, EngineError, Model, Options, Session};
use defer_partition::slice::{Slice, WEIGHTS_LOCATION};
use prost::Message as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

const PREFIX: &str = ".build-";

/// A hidden folder inside the pipeline's, removed with all that is in it when dropped. On the same file system, so that
/// finished files can be renamed out of it.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes the folder in `out`, which is made too, and removes those of builds that were killed.
    pub fn new(out: &Path) -> Result<Self, BuildError> {
        fs::create_dir_all(out).map_err(|cause| BuildError::write(out, 0, cause))?;
        for entry in fs::read_dir(out).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
            if process.is_some_and(is_gone) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let path = out.join(format!("{PREFIX}{}", std::process::id()));
        match fs::create_dir(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(BuildError::write(path, 0, cause)),
            _ => Ok(Self(path)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Whether no process has this id; `false` where that cannot be told.
fn is_gone(process: u32) -> bool {
    let proc = Path::new("/proc");
    proc.join("self").exists() && !proc.join(process.to_string()).exists()
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An engine, and the folder from which it reads weights.
pub(super) struct Bench<'a> {
    pub engine: &'a dyn Engine,
    pub options: Options,
    pub scratch: &'a Scratch,
}

impl Bench<'_> {
    /// Loads `slice` as a node would: its weights in place from a file. What the engine has against it is told apart
    /// from what stands in the way of writing that file.
    pub fn load(&self, slice: &Slice) -> Result<Result<Box<dyn Session>, EngineError>, BuildError> {
        let weights = self.scratch.path().join(WEIGHTS_LOCATION);
        write_weights(&weights, slice).map_err(|cause| BuildError::write(&weights, slice.weights_len, cause))?;
        let bytes = slice.model.encode_to_vec();
        let loaded = self.engine.load(Model { bytes: &bytes, weights_folder: Some(self.scratch.path()) }, self.options);
        // What the engine mapped stays readable, and the next slice's file is another one.
        fs::remove_file(&weights).map_err(|cause| BuildError::write(&weights, 0, cause))?;
        Ok(loaded)
    }
}

fn write_weights(path: &Path, slice: &Slice) -> io::Result<()> {
    const GAP: [u8; defer_partition::slice::WEIGHTS_ALIGNMENT as usize] = [0; _];
    let mut file = BufWriter::new(File::create(path)?);
    let mut at = 0;
    for weight in &slice.weights {
        file.write_all(&GAP[..(weight.offset - at) as usize])?;
        file.write_all(&weight.data)?;
        at = weight.offset + weight.data.len() as u64;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(())
}
