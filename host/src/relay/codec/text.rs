//! Codecs as text: in command lines, in JSON, in reports. A name, and where there are parameters `:key=value`.

use super::constant::Constant;
use super::table::Codec;
use super::zfp::{Mode, PRECISIONS, Positive, RATES};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// The modes of ZFP, for messages.
const ZFP: &str = "zfp:reversible, zfp:accuracy=, zfp:relative=, zfp:rate=, zfp:precision=";
/// And those of constant size.
const CONSTANT: &str = "constant-size:f16, constant-size:int8, constant-size:zfp-rate=, constant-size:density=";

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Codec::Int8ZstdWithin(share) => write!(f, ":relative={:e}", share.get()),
            Codec::Zfp(Mode::Reversible) => f.write_str(":reversible"),
            Codec::Zfp(Mode::Accuracy(number)) => write!(f, ":accuracy={:e}", number.get()),
            Codec::Zfp(Mode::Relative(number)) => write!(f, ":relative={:e}", number.get()),
            Codec::Zfp(Mode::Rate(number)) => write!(f, ":rate={}", number.get()),
            Codec::Zfp(Mode::Precision(planes)) => write!(f, ":precision={planes}"),
            Codec::ConstantSize(Constant::F16) => f.write_str(":f16"),
            Codec::ConstantSize(Constant::Int8) => f.write_str(":int8"),
            Codec::ConstantSize(Constant::ZfpRate(number)) => write!(f, ":zfp-rate={}", number.get()),
            Codec::ConstantSize(Constant::Density(number)) => write!(f, ":density={}", number.get()),
            _ => Ok(()),
        }
    }
}

impl FromStr for Codec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(codec) = Codec::plain().find(|codec| codec.name() == text) {
            return Ok(codec);
        }
        let known = || {
            let plain: Vec<&str> = Codec::plain().map(Codec::name).collect();
            format!("{}, int8+zstd:relative=, {ZFP}, {CONSTANT}", plain.join(", "))
        };
        match text.split_once(':').unwrap_or((text, "")) {
            ("int8+zstd", parameter) => match parameter.split_once('=') {
                Some(("relative", value)) => number(parameter, value).map(Codec::Int8ZstdWithin),
                _ => Err(format!("codec int8+zstd takes relative= and nothing else, got \"{parameter}\"")),
            },
            ("zfp", mode) => zfp(mode).map(Codec::Zfp),
            ("constant-size", kind) => constant(kind).map(Codec::ConstantSize),
            (name, parameter) if Codec::plain().any(|codec| codec.name() == name) => {
                Err(format!("codec {name} takes no parameters, got \"{parameter}\""))
            }
            _ => Err(format!("unknown codec \"{text}\"; this version has {}", known())),
        }
    }
}

fn number(text: &str, value: &str) -> Result<Positive, String> {
    let number = value.parse().ok().and_then(Positive::new);
    number.ok_or_else(|| format!("{text} needs a number above 0"))
}

fn rate(text: &str, value: &str) -> Result<Positive, String> {
    match number(text, value)? {
        rate if RATES.contains(&rate.get()) => Ok(rate),
        _ => Err(format!("{text} needs a rate from {} to {} bits per value", RATES.start(), RATES.end())),
    }
}

fn zfp(text: &str) -> Result<Mode, String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("reversible", "") => Ok(Mode::Reversible),
        ("accuracy", value) => number(text, value).map(Mode::Accuracy),
        ("relative", value) => number(text, value).map(Mode::Relative),
        ("rate", value) => rate(text, value).map(Mode::Rate),
        ("precision", value) => match value.parse() {
            Ok(planes) if PRECISIONS.contains(&planes) => Ok(Mode::Precision(planes)),
            _ => Err(format!("{text} needs {} to {} bit planes", PRECISIONS.start(), PRECISIONS.end())),
        },
        _ => Err(format!("unknown mode \"{text}\" of codec zfp; there are {ZFP}")),
    }
}

fn constant(text: &str) -> Result<Constant, String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("f16", "") => Ok(Constant::F16),
        ("int8", "") => Ok(Constant::Int8),
        ("zfp-rate", value) => rate(text, value).map(Constant::ZfpRate),
        ("density", value) => match number(text, value)? {
            density if density.get() <= 1.0 => Ok(Constant::Density(density)),
            _ => Err(format!("{text} needs a share of the values, at most 1")),
        },
        _ => Err(format!("unknown kind \"{text}\" of codec constant-size; there are {CONSTANT}")),
    }
}

impl Serialize for Codec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Codec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}
