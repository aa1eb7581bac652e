//! An upload on its way to disk. It is hashed and written on a thread that stands back: requests are answered meanwhile.

use crate::artifact::Digest;
use crate::cpu;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::thread;
use tokio::sync::{mpsc, oneshot};

/// Chunks between the network and the disk: each is up to half a megabyte that a small machine does without.
const BETWEEN: usize = 1;

/// A file that is being written; unlinked when dropped, unless it was renamed.
pub struct Part(pub PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What writes one file. Dropped before its [`Self::end`], as for a client that goes away, it leaves nothing behind.
pub struct Writer {
    // Dropped first: the thread must find that nobody listens when no more chunks come.
    written: oneshot::Receiver<io::Result<(Part, Digest)>>,
    chunks: mpsc::Sender<Bytes>,
}

impl Writer {
    /// Creates `part`, and writes to it.
    pub fn start(part: Part) -> io::Result<Self> {
        let (chunks, coming) = mpsc::channel(BETWEEN);
        let (tell, written) = oneshot::channel();
        let write = move || {
            cpu::stand_back();
            let digest = File::create(&part.0).and_then(|file| write(file, coming, || tell.is_closed()));
            // Nobody listens any more where the upload broke off.
            let _ = tell.send(digest.map(|digest| (part, digest)));
        };
        thread::Builder::new().name("upload".to_owned()).spawn(write)?;
        Ok(Self { written, chunks })
    }

    /// Hands on a chunk, once the disk has taken those before but one or two. `false` where writing has failed:
    /// [`Self::end`] says why.
    pub async fn write(&self, chunk: Bytes) -> bool {
        self.chunks.send(chunk).await.is_ok()
    }

    /// Waits until all is on disk, and tells its digest.
    pub async fn end(self) -> io::Result<(Part, Digest)> {
        drop(self.chunks);
        self.written.await.unwrap_or_else(|_| Err(io::Error::other("the thread that writes ended")))
    }
}

/// Writes what is `coming`, and syncs it, unless it is broken off.
fn write(mut file: File, mut coming: mpsc::Receiver<Bytes>, is_broken_off: impl Fn() -> bool) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    while let Some(chunk) = coming.blocking_recv().filter(|_| !is_broken_off()) {
        hasher.update(&chunk);
        file.write_all(&chunk)?;
    }
    if !is_broken_off() {
        file.sync_all()?;
    }
    Ok(Digest::finish(hasher))
}

#[cfg(test)]
mod tests {
    use super::write;
    use bytes::Bytes;
    use std::fs::File;
    use std::io::ErrorKind;
    use tokio::sync::mpsc;

    #[test]
    fn a_full_disk_is_an_error_of_that_kind() {
        let (chunks, coming) = mpsc::channel(1);
        chunks.try_send(Bytes::from_static(b"more than there is room for")).unwrap();
        drop(chunks);
        let full = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(write(full, coming, || false).unwrap_err().kind(), ErrorKind::StorageFull);
    }
}
