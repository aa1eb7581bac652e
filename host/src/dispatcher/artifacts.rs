//! The artifacts that a dispatcher can ship: those in the folder that it was given, and those that were sent to it since.

use super::nodes::NodeClient;
use crate::artifact::Digest;
use crate::node::{Store, StoreError};
use crate::pipeline::Pipeline;
use anyhow::{Context as _, Result};
use axum::body::Body;
use futures_util::StreamExt as _;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of a copy between two pauses.
const PIECE: usize = 1 << 20;
/// How many times as long as a piece took the pause after it is; at most [`LONGEST`].
const PAUSES: u32 = 3;
const LONGEST: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct Artifacts {
    /// Where `build-stages` left them.
    files: Mutex<BTreeMap<Digest, PathBuf>>,
    /// Opened when something is first sent, where nobody named a folder to keep it in.
    sent: OnceLock<Sent>,
    limit: u64,
}

/// Where what was sent is kept.
#[derive(Debug)]
struct Sent {
    store: Arc<Store>,
    _folder: Option<Scratch>,
}

/// A folder that goes with its owner.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Artifacts {
    /// Keeps what is sent under `state_dir`, at most `limit` bytes of it; without one, until the end of this process.
    pub fn open(state_dir: Option<&Path>, limit: u64) -> Result<Self> {
        let sent = OnceLock::new();
        if let Some(folder) = state_dir {
            let store = Arc::new(Store::open(folder, limit)?);
            sent.get_or_init(|| Sent { store, _folder: None });
        }
        Ok(Self { files: Mutex::default(), sent, limit })
    }

    /// Where what is sent is kept.
    pub fn store(&self) -> Result<&Arc<Store>, StoreError> {
        if let Some(sent) = self.sent.get() {
            return Ok(&sent.store);
        }
        let unique = getrandom::u64().unwrap_or(u64::from(std::process::id()));
        let folder = std::env::temp_dir().join(format!("defer-host-dispatch-{unique:016x}"));
        let store = Arc::new(Store::open(&folder, self.limit)?);
        // Of two at once the second's folder goes again.
        Ok(&self.sent.get_or_init(|| Sent { store, _folder: Some(Scratch(folder)) }).store)
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<Digest, PathBuf>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the artifacts of `pipeline` known, which lie in `folder`.
    pub fn know(&self, pipeline: &Pipeline, folder: &Path) {
        self.files().extend(pipeline.stages.iter().map(|stage| (stage.digest, folder.join(&stage.file))));
    }

    /// Where an artifact lies, if anywhere here.
    pub async fn find(&self, digest: &Digest) -> Option<PathBuf> {
        let digest = *digest;
        let stored = match self.sent.get().map(|sent| Arc::clone(&sent.store)) {
            Some(store) => tokio::task::spawn_blocking(move || store.find(&digest)).await.ok().flatten(),
            None => None,
        };
        stored.or_else(|| self.files().get(&digest).cloned())
    }

    /// Makes room, but not by what `used` names.
    pub fn evict(&self, used: &HashSet<Digest>) {
        if let Some(Err(error)) = self.sent.get().map(|sent| sent.store.evict(used)) {
            tracing::warn!(%error, "cannot clear the dispatcher's artifacts");
        }
    }

    /// Fetches from `node` what is not here.
    pub async fn fetch(&self, node: &NodeClient, digest: &Digest) -> Result<()> {
        if self.find(digest).await.is_some() {
            return Ok(());
        }
        let mut body = unhurried(Body::new(node.download(digest).await?));
        self.store()?.put(digest, None, &mut body).await.context("cannot keep a copy of the stage")?;
        Ok(())
    }

    /// Sends `node` an artifact that it lacks; `sent` is told the bytes of each chunk, and of all.
    pub async fn ship(
        &self,
        node: &NodeClient,
        digest: &Digest,
        sent: impl Fn(u64, u64) + Send + Sync + 'static,
    ) -> Result<()> {
        if node.has_artifact(digest).await? {
            return Ok(());
        }
        let path = self.find(digest).await;
        let path = path.with_context(|| format!("artifact {digest} is neither on the node nor here; deploy again"))?;
        let total = tokio::fs::metadata(&path)
            .await
            .with_context(|| format!("cannot read {}; was the pipeline moved?", path.display()))?
            .len();
        node.upload(digest, &path, move |bytes| sent(bytes, total)).await
    }
}

/// `body` with pauses: a copy in the background leaves processors, and some of a fast link, to requests. What comes slowly
/// anyway is hardly held up.
fn unhurried(body: Body) -> Body {
    let (mut bytes, mut since) = (0, Instant::now());
    let chunks = body.into_data_stream().then(move |chunk| {
        bytes += chunk.as_ref().map_or(0, |chunk| chunk.len());
        let mut pause = Duration::ZERO;
        if bytes >= PIECE {
            pause = (since.elapsed() * PAUSES).min(LONGEST);
            (bytes, since) = (0, Instant::now() + pause);
        }
        async move {
            // A sleep of no time would take up to a millisecond.
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            chunk
        }
    });
    Body::from_stream(chunks)
}
