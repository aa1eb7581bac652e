//! What a sender is told about codecs: one to use, or to choose by itself.

use super::Codec;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

const AUTO: &str = "auto";

/// As text a codec's own, or `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Fixed(Codec),
    /// Whichever lossless codec, or lossy one that the pipeline allows on this hop, lets the slowest part of the hop take
    /// the least time.
    Auto,
}

impl Choice {
    /// The lossless codecs that `auto` chooses from; each was the best of some network's cuts in `bench codec`.
    pub const LOSSLESS: [Codec; 5] =
        [Codec::Raw, Codec::Sparse, Codec::SparseShuffleLz4, Codec::ShuffleZstd, Codec::SparseShuffleZstd];
    /// Lossy codecs that a hop may be allowed: trying them all costs time.
    pub const MOST_LOSSY: usize = 8;

    /// Whether a pipeline may allow `codec` to `auto`: a lossy one, and not of those that hide how well tensors compress,
    /// which are chosen by hand.
    pub fn may_allow(codec: Codec) -> bool {
        codec.is_lossy() && !matches!(codec, Codec::ConstantSize(_))
    }
}

impl Default for Choice {
    fn default() -> Self {
        Self::Fixed(Codec::Raw)
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(codec) => codec.fmt(f),
            Self::Auto => f.write_str(AUTO),
        }
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == AUTO { Ok(Self::Auto) } else { text.parse().map(Self::Fixed) }
    }
}

impl Serialize for Choice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}
