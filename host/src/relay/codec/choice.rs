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
    /// Whichever lossless codec lets the slowest part of the hop take the least time.
    Auto,
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
