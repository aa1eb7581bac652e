//! What a node comes back with after a restart.

use super::generation::Generation;
use super::notes::Noted;
use super::table::Node;
use std::fs;
use std::path::Path;
use std::sync::Arc;

impl Node {
    /// Starts again what this node ran before it stopped.
    pub async fn restore(&self) {
        for path in self.notes.all() {
            match self.restore_one(&path).await {
                Ok(generation) => generation.activate(),
                Err(error) => {
                    tracing::warn!(path = %path.display(), error = format!("{error:#}"), "cannot restore a generation");
                    let _ = fs::remove_file(&path);
                }
            }
        }
    }

    async fn restore_one(&self, path: &Path) -> anyhow::Result<Arc<Generation>> {
        let noted: Noted = serde_json::from_slice(&fs::read(path)?)?;
        let generation = self.start(&noted).await?;
        // Its dispatcher has to say again that it is alive.
        generation.renew(0);
        Ok(generation)
    }
}
