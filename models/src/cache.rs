//! The cache directory, and files in it that are known by their digest.

use sha2::{Digest, Sha256};
use std::fs::{File, Permissions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The cache cannot be used. (The cause is part of each message, hence no `source` to repeat it.)
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("no cache directory: none of DEFER_CACHE, XDG_CACHE_HOME and HOME is set; set DEFER_CACHE to a directory")]
    NoDirectory,
    #[error("cannot {action} {}: {cause}; check the permissions and the free space there, or set DEFER_CACHE to another directory", path.display())]
    Io { action: &'static str, path: PathBuf, cause: io::Error },
}

/// A directory that keeps what was fetched or generated, and can be deleted at any time.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// A cache in `root`, which need not exist yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The user's cache: `DEFER_CACHE`, else `$XDG_CACHE_HOME/defer-host`, else `$HOME/.cache/defer-host`.
    pub fn from_env() -> Result<Self, CacheError> {
        Self::from_vars(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
            .ok_or(CacheError::NoDirectory)
    }

    fn from_vars(var: impl Fn(&str) -> Option<PathBuf>) -> Option<Self> {
        var("DEFER_CACHE")
            // The XDG specification wants relative paths ignored.
            .or_else(|| var("XDG_CACHE_HOME").filter(|dir| dir.is_absolute()).map(|dir| dir.join("defer-host")))
            .or_else(|| var("HOME").map(|home| home.join(".cache/defer-host")))
            .map(Self::at)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the model called `name` is kept.
    pub fn model(&self, name: &str) -> PathBuf {
        self.root.join("models").join(format!("{name}.onnx"))
    }

    /// Puts a file at `path` as a whole or not at all: `write` fills a temporary file beside it, which is then renamed
    /// over it, so that neither a crash nor a second process shows anyone half a file.
    pub(crate) fn store<E: From<CacheError>>(
        &self,
        path: &Path,
        write: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |action| move |cause| CacheError::Io { action, path: path.to_owned(), cause };
        let parent = path.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(parent).map_err(failed("create the directory of"))?;
        let mut temporary = tempfile::Builder::new()
            // As any other file: the default is for the owner's eyes only, and nothing here is secret.
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(parent)
            .map_err(failed("create a temporary file for"))?;
        write(temporary.as_file_mut())?;
        temporary.persist(path).map_err(|error| failed("rename a temporary file to")(error.error))?;
        Ok(())
    }
}

/// SHA-256 of the file at `path`, in lower-case hexadecimal; `None` when there is no such file.
pub(crate) fn digest(path: &Path) -> Result<Option<String>, CacheError> {
    let read = || -> io::Result<Option<String>> {
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        digest_of(&mut file).map(Some)
    };
    read().map_err(|cause| CacheError::Io { action: "read", path: path.to_owned(), cause })
}

/// SHA-256 of all of `file`, wherever its cursor is.
pub(crate) fn digest_of(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let mut hash = Sha256::new();
    io::copy(file, &mut hash)?;
    Ok(hexadecimal(hash))
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hands on what is written to it, and knows its SHA-256: a large file need not be read again.
pub(crate) struct Hashed<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Hashed<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, hash: Sha256::new() }
    }

    /// SHA-256 of all that was written, in lower-case hexadecimal.
    pub(crate) fn digest(self) -> String {
        hexadecimal(self.hash)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_follows_the_environment_in_order() {
        type Variables = &'static [(&'static str, &'static str)];
        let cases: [(Variables, Option<&str>); 6] = [
            (&[("DEFER_CACHE", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")], Some("/a")),
            (&[("XDG_CACHE_HOME", "/b"), ("HOME", "/c")], Some("/b/defer-host")),
            (&[("XDG_CACHE_HOME", "b"), ("HOME", "/c")], Some("/c/.cache/defer-host")),
            (&[("DEFER_CACHE", "a")], Some("a")),
            (&[("HOME", "/c")], Some("/c/.cache/defer-host")),
            (&[], None),
        ];
        for (variables, want) in cases {
            let value = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v));
            let cache = Cache::from_vars(value);
            assert_eq!(cache.as_ref().map(Cache::root), want.map(Path::new), "{variables:?}");
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let path = cache.model("m");
        let write = |file: &mut File| {
            file.write_all(b"old").unwrap();
            Ok::<(), CacheError>(())
        };
        cache.store(&path, write).unwrap();
        cache.store(&path, |_| Err(CacheError::NoDirectory)).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
