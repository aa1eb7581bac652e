//! A node's artifacts on disk, named by their SHA-256.
//!
//! Files are immutable: written to a temporary name, synced, renamed into place, and only ever unlinked, never truncated
//! or overwritten, since a running stage has them mapped. A verified file is marked with its size, inode and modification
//! time, so that a restart need not hash gigabytes. When the mark itself was last modified says when the artifact was last
//! asked for: over the limit, those go first that nobody has asked for the longest. That is the one use of the wall clock
//! here; a time in the future, from before the clock was set back, counts as the longest ago.

use super::writer::{Part, Writer};
use crate::artifact::Digest;
use crate::http::status_of;
use axum::body::Body;
use axum::http::StatusCode;
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use thiserror::Error;

/// A use noted so far in the future may still be one: clocks are set back by seconds all the time.
const SKEW: Duration = Duration::from_secs(60);

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("cannot use the state directory {path}", path = path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("the state directory {path} is in use by another process; give each its own --state-dir", path = path.display())]
    Locked { path: PathBuf },
    #[error("the upload's SHA-256 is {got}, its name says {want}; it was damaged on the way, send it again")]
    Mismatch { want: Digest, got: Digest },
    #[error("no space left for the artifact in {path}; free some, or lower --store-limit", path = path.display())]
    Full { path: PathBuf },
    #[error("the upload broke off")]
    Upload(#[source] axum::Error),
    #[error("the upload is larger than what the node keeps, {limit} bytes (serve --store-limit)")]
    TooLarge { limit: u64 },
    #[error(
        "uploads under way take {under_way} bytes; with {bytes} more it is over the {limit} that the node keeps (serve \
         --store-limit); send it again when they are done"
    )]
    Crowded { under_way: u64, bytes: u64, limit: u64 },
    #[error("cannot write {path}", path = path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl StoreError {
    /// What to answer whoever sent an upload that was not kept.
    pub fn status(&self) -> StatusCode {
        let status = match self {
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Full { .. } | Self::Crowded { .. } => StatusCode::INSUFFICIENT_STORAGE,
            Self::Mismatch { .. } | Self::Upload(_) => StatusCode::BAD_REQUEST,
            Self::Open { .. } | Self::Locked { .. } | Self::Write { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        status_of(self, status)
    }
}

/// The store of one node.
#[derive(Debug)]
pub struct Store {
    /// Without symbolic links: onnxruntime resolves them, and refuses what then lies outside.
    folder: PathBuf,
    /// Bytes to keep at most; what is in use stays even beyond it.
    limit: u64,
    uploads: Mutex<Uploads>,
    _lock: File,
}

/// What is being written.
#[derive(Debug, Default)]
struct Uploads {
    /// Number of the last one.
    last: u64,
    /// Bytes of all that are under way, as far as they are announced or have come.
    bytes: u64,
}

/// One upload's part of [`Uploads::bytes`], given back when dropped.
struct UnderWay<'a> {
    store: &'a Store,
    bytes: u64,
}

impl UnderWay<'_> {
    /// Makes room for `bytes` in all.
    fn grow(&mut self, bytes: u64) -> Result<(), StoreError> {
        let limit = self.store.limit;
        if bytes > limit {
            return Err(StoreError::TooLarge { limit });
        }
        let more = bytes.saturating_sub(self.bytes);
        let mut uploads = self.store.uploads();
        let under_way = uploads.bytes;
        if under_way.saturating_add(more) > limit {
            return Err(StoreError::Crowded { under_way, bytes: more, limit });
        }
        uploads.bytes += more;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.store.uploads().bytes -= self.bytes;
    }
}

/// What a verified file looked like.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    size: u64,
    inode: u64,
    modified_ns: i128,
}

impl Mark {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        let modified_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        Ok(Self { size: meta.size(), inode: meta.ino(), modified_ns })
    }
}

impl Store {
    /// Opens the store under `state_dir`, creating it, and locks it against other processes.
    pub fn open(state_dir: &Path, limit: u64) -> Result<Self, StoreError> {
        let open = |source| StoreError::Open { path: state_dir.to_owned(), source };
        let folder = state_dir.join("artifacts");
        fs::create_dir_all(&folder).map_err(open)?;
        let lock = File::create(state_dir.join("lock")).map_err(open)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked { path: state_dir.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(open(error)),
        }
        let folder = folder.canonicalize().map_err(open)?;
        for entry in fs::read_dir(&folder).map_err(open)?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "part") {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Self { folder, limit, uploads: Mutex::default(), _lock: lock })
    }

    /// Folder of all artifacts.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.wasm"))
    }

    fn mark(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.verified"))
    }

    /// The file of `digest`, if it is here and whole. One that is not as it was when last verified is hashed again, and
    /// removed if it is damaged. Counts as a use of it.
    pub fn find(&self, digest: &Digest) -> Option<PathBuf> {
        let path = self.path(digest);
        let now = Mark::of(&path).ok()?;
        let before = fs::read(self.mark(digest)).ok().and_then(|json| serde_json::from_slice::<Mark>(&json).ok());
        if before == Some(now) {
            self.touch(digest);
            return Some(path);
        }
        let got = File::open(&path).and_then(Digest::of).ok()?;
        if got != *digest {
            tracing::warn!(%digest, %got, "an artifact on disk is damaged; it is removed and must be sent again");
            let _ = fs::remove_file(&path);
            let _ = fs::remove_file(self.mark(digest));
            return None;
        }
        self.set_mark(digest).ok()?;
        Some(path)
    }

    fn set_mark(&self, digest: &Digest) -> io::Result<()> {
        let json = serde_json::to_vec(&Mark::of(&self.path(digest))?)?;
        fs::write(self.mark(digest), json)?;
        self.touch(digest);
        Ok(())
    }

    /// Notes that `digest` was used now, by a finer clock than a file system's own. The mark's content stays as it is: a
    /// crash meanwhile costs no hash.
    fn touch(&self, digest: &Digest) {
        let mark = File::options().write(true).open(self.mark(digest));
        if let Err(error) = mark.and_then(|mark| mark.set_modified(SystemTime::now())) {
            tracing::warn!(%digest, %error, "cannot note the use of an artifact; it may be evicted too early");
        }
    }

    fn uploads(&self) -> MutexGuard<'_, Uploads> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores an upload under `digest`, if that is what it hashes to. An upload that is larger than the store may become is
    /// refused, before its first byte where its length is announced.
    pub async fn put(
        self: &Arc<Self>,
        digest: &Digest,
        announced: Option<u64>,
        body: &mut Body,
    ) -> Result<(), StoreError> {
        self.take(Some(digest), announced, body).await.map(drop)
    }

    /// Stores an upload under what it hashes to.
    pub async fn put_any(self: &Arc<Self>, announced: Option<u64>, body: &mut Body) -> Result<Digest, StoreError> {
        self.take(None, announced, body).await
    }

    async fn take(
        self: &Arc<Self>,
        want: Option<&Digest>,
        announced: Option<u64>,
        body: &mut Body,
    ) -> Result<Digest, StoreError> {
        let mut under_way = UnderWay { store: self, bytes: 0 };
        under_way.grow(announced.unwrap_or(0))?;
        let number = {
            let mut uploads = self.uploads();
            uploads.last += 1;
            uploads.last
        };
        let name = want.map_or_else(|| "upload".to_owned(), Digest::to_string);
        let part = Part(self.folder.join(format!("{name}.{number}.part")));
        let (part, got) = self.receive(body, part, &mut under_way).await?;
        if let Some(want) = want.filter(|want| **want != got) {
            return Err(StoreError::Mismatch { want: *want, got });
        }
        let store = Arc::clone(self);
        let kept = tokio::task::spawn_blocking(move || store.keep(part, got));
        kept.await.unwrap_or_else(|error| Err(self.unwritten(&self.folder, io::Error::other(error))))
    }

    async fn receive(
        &self,
        body: &mut Body,
        part: Part,
        under_way: &mut UnderWay<'_>,
    ) -> Result<(Part, Digest), StoreError> {
        let path = part.0.clone();
        let write = |source| self.unwritten(&path, source);
        let writer = Writer::start(part).map_err(write)?;
        let mut size = 0;
        while let Some(frame) = body.frame().await {
            let Ok(chunk) = frame.map_err(StoreError::Upload)?.into_data() else { continue };
            size += chunk.len() as u64;
            under_way.grow(size)?;
            if !writer.write(chunk).await {
                break;
            }
        }
        writer.end().await.map_err(write)
    }

    /// Gives what was written, and hashes to `got`, its name.
    fn keep(&self, part: Part, got: Digest) -> Result<Digest, StoreError> {
        let write = |source| self.unwritten(&part.0, source);
        // What runs has it mapped: the same bytes in another file would be another inode for nothing.
        if self.find(&got).is_some() {
            return Ok(got);
        }
        fs::rename(&part.0, self.path(&got)).map_err(write)?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(write)?;
        self.set_mark(&got).map_err(write)?;
        Ok(got)
    }

    fn unwritten(&self, path: &Path, source: io::Error) -> StoreError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { path: self.folder.clone() },
            _ => StoreError::Write { path: path.to_owned(), source },
        }
    }

    /// Unlinks the least recently used artifacts that are not in `used`, until the rest fits the limit.
    pub fn evict(&self, used: &HashSet<Digest>) -> io::Result<()> {
        let mut files = Vec::new();
        let future = SystemTime::now() + SKEW;
        for entry in fs::read_dir(&self.folder)?.flatten() {
            let path = entry.path();
            let digest = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<Digest>().ok());
            if let Some(digest) = digest.filter(|_| path.extension().is_some_and(|e| e == "wasm")) {
                let meta = entry.metadata()?;
                // Without a mark it was never asked for since it was written.
                let last_use = fs::metadata(self.mark(&digest)).and_then(|mark| mark.modified()).or(meta.modified())?;
                let last_use = if last_use > future { SystemTime::UNIX_EPOCH } else { last_use };
                files.push((last_use, digest, meta.len()));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, _, size)| size).sum();
        for (_, digest, size) in files {
            if total <= self.limit {
                break;
            }
            if !used.contains(&digest) {
                fs::remove_file(self.path(&digest))?;
                let _ = fs::remove_file(self.mark(&digest));
                total -= size;
            }
        }
        Ok(())
    }
}
