//! Stages on disk: whole files, renamed into place, `pipeline.json` last.

use super::scratch::Scratch;
use super::{BuildError, GUEST};
use crate::artifact::{self, Artifact, Digest, Manifest};
use crate::pipeline::{self, Pipeline};
use defer_partition::slice::Slice;
use sha2::{Digest as _, Sha256};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Room for the name and padding of a section, whose size must fit 32 bits.
const SECTION_LIMIT: u64 = u32::MAX as u64 - 4096;

/// Name of a stage's artifact in the pipeline's folder.
pub(super) fn file_name(index: usize) -> String {
    format!("stage-{index}.wasm")
}

/// The stage whose artifact is called `file`.
fn stage_index(file: &OsStr) -> Option<usize> {
    let digits = file.to_str()?.strip_prefix("stage-")?.strip_suffix(".wasm")?;
    digits.parse().ok().filter(|index| OsStr::new(&file_name(*index)) == file)
}

/// Writes one stage's artifact into `scratch` and reads it back as a node would. Gives the file's digest.
pub(super) fn stage(scratch: &Scratch, manifest: Manifest, slice: &Slice) -> Result<Digest, BuildError> {
    let index = manifest.index;
    if slice.weights_len > SECTION_LIMIT {
        return Err(BuildError::TooLarge { stage: index, bytes: slice.weights_len });
    }
    let path = scratch.path().join(file_name(index));
    let digest =
        artifact(&path, manifest, slice).map_err(|cause| BuildError::write(&path, slice.weights_len, cause))?;
    let read = Artifact::open(&path).and_then(|artifact| artifact.model());
    read.map_err(|cause| BuildError::ReadBack { stage: index, cause })?;
    Ok(digest)
}

fn artifact(path: &Path, manifest: Manifest, slice: &Slice) -> io::Result<Digest> {
    let mut out = Hashing { inner: BufWriter::with_capacity(1 << 20, File::create(path)?), hash: Sha256::new() };
    artifact::write(&mut out, GUEST, manifest, slice)?;
    let file = out.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(Digest::finish(out.hash))
}

/// Moves the stages from `scratch` to `folder` and writes `pipeline.json` there. Until that is in place the folder holds
/// none, so that no half-replaced pipeline is ever taken for a whole one.
pub(super) fn publish(scratch: &Scratch, folder: &Path, pipeline: &Pipeline) -> Result<(), BuildError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |cause| BuildError::write(path, 0, cause)
    };
    let index = folder.join(pipeline::FILE);
    remove(&index).map_err(failed(&index))?;
    for stage in &pipeline.stages {
        let path = folder.join(&stage.file);
        fs::rename(scratch.path().join(&stage.file), &path).map_err(failed(&path))?;
    }
    for entry in fs::read_dir(folder).map_err(failed(folder))?.flatten() {
        if stage_index(&entry.file_name()).is_some_and(|stage| stage >= pipeline.stages.len()) {
            remove(&entry.path()).map_err(failed(&entry.path()))?;
        }
    }
    pipeline.write(folder).map_err(failed(&index))?;
    // The names are safe only when the folder is.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Hashes what is written, so that gigabytes need not be read again.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
