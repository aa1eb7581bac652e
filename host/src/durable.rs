//! Small files of a state directory, as JSON.

use serde::Serialize;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

/// Writes `path`: after a crash, the process's or the machine's, either the whole of it is there or what was before.
pub(crate) fn write(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut file = fs::File::create(&part)?;
    file.write_all(&serde_json::to_vec(content)?)?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
