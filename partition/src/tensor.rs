//! Element types and tensors, as ONNX defines them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Element type of a tensor. The discriminants are ONNX's `TensorProto.DataType`; the names in JSON are the ones that
/// the Open Inference Protocol uses (`FP32`, `INT64`, `BOOL`, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[repr(u8)]
pub enum DType {
    Fp32 = 1,
    Uint8 = 2,
    Int8 = 3,
    Uint16 = 4,
    Int16 = 5,
    Int32 = 6,
    Int64 = 7,
    Bool = 9,
    Fp16 = 10,
    Fp64 = 11,
    Uint32 = 12,
    Uint64 = 13,
    Bf16 = 16,
}

impl DType {
    pub const ALL: [DType; 13] = [
        DType::Fp32,
        DType::Uint8,
        DType::Int8,
        DType::Uint16,
        DType::Int16,
        DType::Int32,
        DType::Int64,
        DType::Bool,
        DType::Fp16,
        DType::Fp64,
        DType::Uint32,
        DType::Uint64,
        DType::Bf16,
    ];

    /// The type with ONNX's number `value`; `None` for strings, complex numbers and the types narrower than a byte.
    pub fn from_onnx(value: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.onnx() == value)
    }

    /// ONNX's number of this type.
    pub fn onnx(self) -> i32 {
        i32::from(self as u8)
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            DType::Uint8 | DType::Int8 | DType::Bool => 1,
            DType::Uint16 | DType::Int16 | DType::Fp16 | DType::Bf16 => 2,
            DType::Fp32 | DType::Int32 | DType::Uint32 => 4,
            DType::Fp64 | DType::Int64 | DType::Uint64 => 8,
        }
    }

    /// Name in the Open Inference Protocol.
    pub fn name(self) -> &'static str {
        match self {
            DType::Fp32 => "FP32",
            DType::Uint8 => "UINT8",
            DType::Int8 => "INT8",
            DType::Uint16 => "UINT16",
            DType::Int16 => "INT16",
            DType::Int32 => "INT32",
            DType::Int64 => "INT64",
            DType::Bool => "BOOL",
            DType::Fp16 => "FP16",
            DType::Fp64 => "FP64",
            DType::Uint32 => "UINT32",
            DType::Uint64 => "UINT64",
            DType::Bf16 => "BF16",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is known of a tensor before it exists: its name, element type and shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorInfo {
    pub name: String,
    pub dtype: DType,
    /// One entry per dimension; -1 where it may differ from request to request.
    pub shape: Vec<i64>,
}

impl TensorInfo {
    /// Whether a tensor of `shape` fits: same rank, and every fixed dimension equal.
    pub fn admits(&self, shape: &[usize]) -> bool {
        self.shape.len() == shape.len()
            && self.shape.iter().zip(shape).all(|(&want, &got)| want < 0 || usize::try_from(want) == Ok(got))
    }
}

impl fmt::Display for TensorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" {}{:?}", self.name, self.dtype, self.shape)
    }
}

/// A dense tensor, row-major, little-endian.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

impl Tensor {
    /// A tensor over `data`; `None` unless its length is that of `shape`.
    pub fn new(dtype: DType, shape: Vec<usize>, data: Vec<u8>) -> Option<Self> {
        (byte_len(dtype, &shape)? == data.len()).then_some(Self { dtype, shape, data })
    }

    /// A tensor of 32-bit floats; `None` unless the number of values is that of `shape`.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Option<Self> {
        Self::new(DType::Fp32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// The values, if the element type is `FP32`.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        (self.dtype == DType::Fp32).then(|| {
            let (values, _) = self.data.as_chunks::<4>();
            values.iter().map(|v| f32::from_le_bytes(*v)).collect()
        })
    }
}

/// Bytes of a dense tensor; `None` when that number does not fit a `usize`.
pub fn byte_len(dtype: DType, shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(dtype.size(), |len, &dim| len.checked_mul(dim))
}
