//! The stage artifact: one `.wasm` file that holds everything a stage needs.
//!
//! A component (the guest, the same for every stage), followed by three custom sections: `defer:manifest` (JSON),
//! `defer:graph` (the ONNX slice, its large initializers marked external) and `defer:weights` (raw little-endian tensors).
//! The weights' offsets count from the first multiple of [`ALIGN`] in the file at or after the start of that section's
//! payload, so that every tensor is aligned in a mapped file.

mod graph;
mod manifest;
mod read;
mod sizes;
mod write;

pub use manifest::{FORMAT, Manifest};
pub use read::Artifact;
pub use write::write;

use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::str::FromStr;
use thiserror::Error;

pub const MANIFEST: &str = "defer:manifest";
pub const GRAPH: &str = "defer:graph";
pub const WEIGHTS: &str = "defer:weights";
/// Alignment of tensors in the file, in bytes: a cache line, and more than any SIMD load needs.
pub const ALIGN: u64 = 64;

/// Bytes of the component: two hundred times the guest's. What is compiled takes many times its size in memory.
pub const MAX_COMPONENT: u64 = 4 << 20;
/// Bytes of the manifest: some ten thousand tensors.
pub const MAX_MANIFEST: u64 = 1 << 20;
/// Bytes of the graph without its large initializers, thousands of nodes. Decoded, it takes many times its size.
pub const MAX_GRAPH: u64 = 8 << 20;

/// SHA-256 of a whole artifact file: its name everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of all that `reader` gives.
    pub fn of(mut reader: impl Read) -> io::Result<Self> {
        let mut hasher = Sha256::new();
        io::copy(&mut reader, &mut hasher)?;
        Ok(Self(hasher.finalize().into()))
    }

    /// The digest that `hasher` has come to.
    pub fn finish(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// The first twelve hexadecimal digits, for tables.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no SHA-256 in 64 hexadecimal digits");
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(wrong());
        }
        let mut digest = [0; 32];
        for (i, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(digest))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a file is no stage artifact.
#[derive(Debug, Error)]
pub enum ArtifactError {
    #[error("cannot read {path}: {cause}", path = path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("not a WASI component: {0}")]
    NoComponent(String),
    #[error("the component has no {0} section; was it written by build-stages?")]
    Missing(&'static str),
    #[error("its {part} of {bytes} bytes is over the limit of {limit}")]
    TooLarge { part: &'static str, bytes: u64, limit: u64 },
    #[error("malformed {section} section: {cause}")]
    Malformed { section: &'static str, cause: String },
    #[error("artifact format {got}, this version reads {FORMAT}; build the stages again or update the older side")]
    Format { got: u32 },
    #[error("initializer \"{tensor}\" lies {cause}; only the builder's own {WEIGHTS} section may be named")]
    Foreign { tensor: String, cause: String },
}
