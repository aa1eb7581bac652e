//! The codecs that there are, and their numbers on the wire.

use super::constant::{Bounded, Constant};
use super::f16::F16;
use super::int8::{Int8, Steps};
use super::layer::{Layer, Unfit};
use super::lz4::Lz4;
use super::planes::Planes;
use super::raw::Raw;
use super::simd;
use super::sparse::Sparse;
use super::zfp::{Mode, PRECISIONS, Positive, RATES, Zfp};
use super::zstd::Zstd;
use defer_partition::DType;

/// A codec, with its parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// The bytes as they are.
    #[default]
    Raw,
    /// LZ4 over the bytes as they are.
    Lz4,
    /// Byte planes, each by LZ4.
    ShuffleLz4,
    /// Byte planes, each by Zstandard.
    ShuffleZstd,
    /// A bitmap of the values that are not zero, and those.
    Sparse,
    /// The same, the values as `ShuffleLz4`.
    SparseShuffleLz4,
    /// The same, the values as `ShuffleZstd`.
    SparseShuffleZstd,
    /// 16-bit floats.
    F16,
    /// The same, without zeros.
    SparseF16,
    /// 8-bit integers with a scale per channel.
    Int8,
    /// The same, without zeros.
    SparseInt8,
    /// The same with zeros, by Zstandard.
    Int8Zstd,
    /// The same with no more different integers than keep errors within this share of a channel's largest magnitude.
    Int8ZstdWithin(Positive),
    /// ZFP, in one of its modes.
    Zfp(Mode),
    /// One whose encodings have a length that depends on the shape only. Chosen by hand, never by measurement.
    ConstantSize(Constant),
}

/// A codec without parameters.
struct Row {
    codec: Codec,
    /// On the wire. Never changes, and is never used again for another codec.
    id: u8,
    /// In command lines, JSON and reports.
    name: &'static str,
    /// For lossy codecs: what carries tensors that it must not round.
    stand_in: Option<Codec>,
    layer: &'static dyn Layer,
}

const fn row(codec: Codec, id: u8, name: &'static str, layer: &'static dyn Layer) -> Row {
    Row { codec, id, name, stand_in: None, layer }
}

const fn lossy(codec: Codec, id: u8, name: &'static str, stand_in: Codec, layer: &'static dyn Layer) -> Row {
    Row { codec, id, name, stand_in: Some(stand_in), layer }
}

const TABLE: &[Row] = &[
    row(Codec::Raw, 0, "raw", &Raw),
    row(Codec::Lz4, 1, "lz4", &Lz4),
    row(Codec::ShuffleLz4, 2, "shuffle-lz4", &Planes(Lz4)),
    row(Codec::ShuffleZstd, 3, "shuffle-zstd", &Planes(Zstd)),
    row(Codec::Sparse, 4, "sparse", &Sparse(Raw)),
    row(Codec::SparseShuffleLz4, 5, "sparse+shuffle-lz4", &Sparse(Planes(Lz4))),
    row(Codec::SparseShuffleZstd, 6, "sparse+shuffle-zstd", &Sparse(Planes(Zstd))),
    lossy(Codec::F16, 7, "f16", Codec::ShuffleZstd, &F16(Raw)),
    lossy(Codec::SparseF16, 8, "sparse+f16", Codec::SparseShuffleZstd, &F16(Sparse(Raw))),
    lossy(Codec::Int8, 9, "int8", Codec::ShuffleZstd, &Int8 { next: Raw, steps: Steps::All }),
    lossy(
        Codec::SparseInt8,
        10,
        "sparse+int8",
        Codec::SparseShuffleZstd,
        &Int8 { next: Sparse(Raw), steps: Steps::All },
    ),
    lossy(Codec::Int8Zstd, 11, "int8+zstd", Codec::ShuffleZstd, &Int8 { next: Planes(Zstd), steps: Steps::All }),
];

/// ZFP's number, in all modes.
const ZFP: u8 = 12;
/// The number of [`Constant::Density`]; the other constant ones travel as what they are.
const BOUNDED: u8 = 13;

/// Parameters on the wire are at most so long.
const MAX_PARAMETERS: usize = 9;

impl Codec {
    /// Every codec, those with parameters in each of their modes, with some value.
    pub const ALL: [Codec; TABLE.len() + 5] = {
        let mut all = [Codec::Zfp(Mode::Reversible); TABLE.len() + 5];
        let mut i = 0;
        while i < TABLE.len() {
            all[i] = TABLE[i].codec;
            i += 1;
        }
        all[i + 1] = Codec::Zfp(Mode::Accuracy(Positive::of(1e-3)));
        all[i + 2] = Codec::Zfp(Mode::Rate(Positive::of(8.0)));
        all[i + 3] = Codec::Zfp(Mode::Precision(16));
        all[i + 4] = Codec::ConstantSize(Constant::Density(Positive::of(0.5)));
        all
    };

    /// The codecs without parameters, in the order of their numbers.
    pub fn plain() -> impl Iterator<Item = Codec> {
        TABLE.iter().map(|row| row.codec)
    }

    /// Its number on the wire.
    pub fn id(self) -> u8 {
        match self.as_it_travels() {
            Codec::Zfp(_) => ZFP,
            Codec::ConstantSize(_) => BOUNDED,
            plain => plain.row().expect("all others are in the table").id,
        }
    }

    /// Its name, without parameters.
    pub fn name(self) -> &'static str {
        match self {
            Codec::Zfp(_) => "zfp",
            Codec::ConstantSize(_) => "constant-size",
            Codec::Int8ZstdWithin(_) => Codec::Int8Zstd.name(),
            plain => plain.row().expect("all others are in the table").name,
        }
    }

    /// Whether it may change values.
    pub fn is_lossy(self) -> bool {
        match self {
            Codec::Zfp(mode) => mode != Mode::Reversible,
            Codec::ConstantSize(_) | Codec::Int8ZstdWithin(_) => true,
            plain => plain.row().is_some_and(|row| row.stand_in.is_some()),
        }
    }

    /// The lossless codec that carries what this one must not round, or cannot.
    pub(super) fn stand_in(self) -> Codec {
        self.row().map_or(Codec::ShuffleZstd, |row| row.stand_in.unwrap_or(row.codec))
    }

    /// Its parameters as they stand in the head of a frame, or nothing for most codecs.
    pub fn parameters(self) -> Parameters {
        let mut parameters = Parameters { bytes: [0; MAX_PARAMETERS], len: 0 };
        match self {
            Codec::Zfp(Mode::Reversible) => parameters.put(&[0]),
            // A relative one is settled before anything is encoded.
            Codec::Zfp(Mode::Accuracy(number) | Mode::Relative(number)) => parameters.put_number(&[1], number),
            Codec::Zfp(Mode::Rate(number)) | Codec::ConstantSize(Constant::ZfpRate(number)) => {
                parameters.put_number(&[2], number);
            }
            Codec::Zfp(Mode::Precision(planes)) => parameters.put(&[3, planes]),
            Codec::ConstantSize(Constant::Density(number)) => parameters.put_number(&[], number),
            _ => {}
        }
        parameters
    }

    /// The codec with the wire's number `id` and these parameters.
    pub fn from_wire(id: u8, parameters: &[u8]) -> Result<Self, String> {
        if id == ZFP {
            return zfp(parameters).map(Codec::Zfp).ok_or_else(|| format!("unknown parameters of zfp: {parameters:?}"));
        }
        if id == BOUNDED {
            let density = number(parameters).filter(|density| density.get() <= 1.0);
            let density = density.ok_or_else(|| format!("unknown parameters of constant-size: {parameters:?}"))?;
            return Ok(Codec::ConstantSize(Constant::Density(density)));
        }
        let row = TABLE.iter().find(|row| row.id == id).ok_or_else(|| format!("unknown codec {id}"))?;
        if parameters.is_empty() { Ok(row.codec) } else { Err(format!("codec {} takes no parameters", row.name)) }
    }

    /// Settles parameters that depend on the tensor's values.
    pub(super) fn settle(self, dtype: DType, data: &[u8]) -> Result<Self, Unfit> {
        match self {
            Codec::Zfp(mode @ Mode::Relative(_)) => match dtype {
                DType::Fp32 => mode.settle(simd::survey(data).magnitude).map(Codec::Zfp),
                _ => Err(Unfit::NotFloats),
            },
            settled => Ok(settled),
        }
    }

    /// The codec that a frame names.
    pub(super) fn as_it_travels(self) -> Self {
        match self {
            Codec::Int8ZstdWithin(_) => Codec::Int8Zstd,
            Codec::ConstantSize(Constant::F16) => Codec::F16,
            Codec::ConstantSize(Constant::Int8) => Codec::Int8,
            Codec::ConstantSize(Constant::ZfpRate(rate)) => Codec::Zfp(Mode::Rate(rate)),
            other => other,
        }
    }

    pub(super) fn with_layer<R>(self, work: impl FnOnce(&dyn Layer) -> R) -> R {
        if let Codec::Int8ZstdWithin(share) = self {
            return work(&Int8 { next: Planes(Zstd), steps: Steps::Within(share) });
        }
        match self.as_it_travels() {
            Codec::Zfp(mode) => work(&Zfp(mode)),
            Codec::ConstantSize(Constant::Density(density)) => work(&Bounded(density)),
            plain => work(plain.row().expect("all others are in the table").layer),
        }
    }

    fn row(self) -> Option<&'static Row> {
        TABLE.iter().find(|row| row.codec == self)
    }
}

fn number(bytes: &[u8]) -> Option<Positive> {
    Positive::new(f64::from_le_bytes(bytes.try_into().ok()?))
}

fn zfp(parameters: &[u8]) -> Option<Mode> {
    match parameters {
        [0] => Some(Mode::Reversible),
        [1, tolerance @ ..] => number(tolerance).map(Mode::Accuracy),
        [2, rate @ ..] => number(rate).filter(|rate| RATES.contains(&rate.get())).map(Mode::Rate),
        [3, planes] if PRECISIONS.contains(planes) => Some(Mode::Precision(*planes)),
        _ => None,
    }
}

/// A codec's parameters on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    bytes: [u8; MAX_PARAMETERS],
    len: usize,
}

impl Parameters {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn put_number(&mut self, mode: &[u8], number: Positive) {
        self.put(mode);
        self.put(&number.get().to_le_bytes());
    }
}

impl std::ops::Deref for Parameters {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
