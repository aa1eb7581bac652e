//! Tensors as JSON arrays, read and written without an intermediate tree: a value of two characters must not cost
//! 32 bytes of memory.
//!
//! Reading accepts both forms of the protocol: flat, in row-major order, and nested as the shape says. Writing gives
//! the flat form. JSON has no NaN and no infinity; a tensor that holds one is an error that asks for binary data
//! rather than a `null`, or a token that a strict parser chokes on.

use super::numbers::{Scalar, push};
use defer_partition::{DType, Tensor, byte_len};
use half::{bf16, f16};
use serde::de::{self, DeserializeSeed, SeqAccess, Visitor};
use serde::ser::{SerializeSeq, Serializer};
use std::fmt;

/// Reads the `data` of one tensor of known type and shape.
pub(crate) struct DataSeed<'a> {
    /// How messages name the tensor, such as `input "x"`.
    label: &'a str,
    dtype: DType,
    shape: &'a [usize],
    /// Elements that the shape has.
    count: usize,
    out: Vec<u8>,
    /// How deep the first number was found: 1 for the flat form, the rank for the nested one.
    leaf_depth: Option<usize>,
}

impl<'a> DataSeed<'a> {
    /// `body_bytes` bounds the memory taken at once: a shape costs a client nothing to claim.
    ///
    /// # Errors
    /// A message naming the tensor where its size overflows.
    pub(crate) fn new(label: &'a str, dtype: DType, shape: &'a [usize], body_bytes: usize) -> Result<Self, String> {
        let len = byte_len(dtype, shape)
            .ok_or_else(|| format!("{label} has shape {shape:?}, more bytes than can be counted"))?;
        // A number takes at least two characters, one of them the separator.
        let most = body_bytes.div_ceil(2).saturating_mul(dtype.size());
        let out = Vec::with_capacity(len.min(most));
        Ok(Self { label, dtype, shape, count: len / dtype.size(), out, leaf_depth: None })
    }

    fn have(&self) -> usize {
        self.out.len() / self.dtype.size()
    }

    fn push<E: de::Error>(&mut self, depth: usize, value: Scalar) -> Result<(), E> {
        let label = self.label;
        let rank = self.shape.len();
        let leaf = *self.leaf_depth.get_or_insert(depth);
        if leaf != depth || (depth != 1 && depth != rank) {
            let shape = self.shape;
            return Err(E::custom(format!("{label} has data that is neither flat nor nested as its shape {shape:?}")));
        }
        if self.have() == self.count {
            let (shape, count) = (self.shape, self.count);
            return Err(E::custom(format!("{label} has more values than the {count} of its shape {shape:?}")));
        }
        push(&mut self.out, self.dtype, value).map_err(|e| E::custom(format!("{label} {e}")))
    }

    /// Checks the length of an array that ended at `depth`, where only the nested form has one to keep.
    fn ended<E: de::Error>(&self, depth: usize, len: usize) -> Result<(), E> {
        let flat = depth == 0 && (self.leaf_depth == Some(1) || (len == 0 && self.count == 0));
        if flat || self.shape.get(depth) == Some(&len) {
            return Ok(());
        }
        let (label, shape) = (self.label, self.shape);
        Err(E::custom(format!("{label} has an array of {len} at depth {depth}, which its shape {shape:?} has not")))
    }

    fn finish<E: de::Error>(self) -> Result<Vec<u8>, E> {
        if self.have() != self.count {
            let (label, shape, count, have) = (self.label, self.shape, self.count, self.have());
            return Err(E::custom(format!("{label} has {have} values, its shape {shape:?} takes {count}")));
        }
        Ok(self.out)
    }
}

impl<'de> DeserializeSeed<'de> for DataSeed<'_> {
    type Value = Vec<u8>;

    fn deserialize<D: de::Deserializer<'de>>(mut self, deserializer: D) -> Result<Vec<u8>, D::Error> {
        Level { data: &mut self, depth: 0 }.deserialize(deserializer)?;
        self.finish()
    }
}

/// One value, array or number, `depth` arrays deep. The parser's own recursion limit bounds the depth.
struct Level<'d, 'a> {
    data: &'d mut DataSeed<'a>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Level<'_, '_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "numbers for {}", self.data.label)
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<(), E> {
        self.data.push(self.depth, Scalar::Bool(v))
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<(), E> {
        self.data.push(self.depth, Scalar::Unsigned(v))
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<(), E> {
        self.data.push(self.depth, Scalar::Negative(v))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<(), E> {
        self.data.push(self.depth, Scalar::Float(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Level { data, depth } = self;
        let mut len = 0;
        while seq.next_element_seed(Level { data: &mut *data, depth: depth + 1 })?.is_some() {
            len += 1;
        }
        data.ended(depth, len)
    }
}

/// The index of the first value that JSON cannot carry, and that value.
pub fn not_finite(tensor: &Tensor) -> Option<(usize, f64)> {
    let data = &tensor.data;
    let found = |(i, v): (usize, f64)| (!v.is_finite()).then_some((i, v));
    match tensor.dtype {
        DType::Fp16 => values(data, |b| f64::from(f16::from_le_bytes(b))).enumerate().find_map(found),
        DType::Bf16 => values(data, |b| f64::from(bf16::from_le_bytes(b))).enumerate().find_map(found),
        DType::Fp32 => values(data, |b| f64::from(f32::from_le_bytes(b))).enumerate().find_map(found),
        DType::Fp64 => values(data, f64::from_le_bytes).enumerate().find_map(found),
        _ => None,
    }
}

/// Serializes a tensor's values as a flat array; floats with the fewest digits that read back to the same value.
pub fn serialize_data<S: Serializer>(tensor: &Tensor, serializer: S) -> Result<S::Ok, S::Error> {
    let data = &tensor.data;
    let seq = serializer.serialize_seq(Some(data.len() / tensor.dtype.size()))?;
    match tensor.dtype {
        DType::Bool => each(seq, values(data, |b: [u8; 1]| b != [0])),
        DType::Uint8 => each(seq, values(data, u8::from_le_bytes)),
        DType::Int8 => each(seq, values(data, i8::from_le_bytes)),
        DType::Uint16 => each(seq, values(data, u16::from_le_bytes)),
        DType::Int16 => each(seq, values(data, i16::from_le_bytes)),
        DType::Uint32 => each(seq, values(data, u32::from_le_bytes)),
        DType::Int32 => each(seq, values(data, i32::from_le_bytes)),
        DType::Uint64 => each(seq, values(data, u64::from_le_bytes)),
        DType::Int64 => each(seq, values(data, i64::from_le_bytes)),
        DType::Fp16 => each(seq, values(data, |b| f32::from(f16::from_le_bytes(b)))),
        DType::Bf16 => each(seq, values(data, |b| f32::from(bf16::from_le_bytes(b)))),
        DType::Fp32 => each(seq, values(data, f32::from_le_bytes)),
        DType::Fp64 => each(seq, values(data, f64::from_le_bytes)),
    }
}

fn values<const N: usize, T>(data: &[u8], read: impl Fn([u8; N]) -> T) -> impl Iterator<Item = T> {
    data.as_chunks::<N>().0.iter().map(move |bytes| read(*bytes))
}

fn each<S: SerializeSeq, T: serde::Serialize>(mut seq: S, items: impl Iterator<Item = T>) -> Result<S::Ok, S::Error> {
    for item in items {
        seq.serialize_element(&item)?;
    }
    seq.end()
}
