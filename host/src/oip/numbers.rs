//! One number between JSON and a tensor's bytes: exact, or refused.

use defer_partition::DType;
use half::{bf16, f16};
use std::fmt;

/// A JSON scalar as the parser gives it. Integers that fit neither 64-bit type arrive as `Float`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar {
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    Float(f64),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Bool(v) => v.fmt(f),
            Scalar::Unsigned(v) => v.fmt(f),
            Scalar::Negative(v) => v.fmt(f),
            Scalar::Float(v) => write!(f, "{v:?}"),
        }
    }
}

impl Scalar {
    fn integer<T: TryFrom<u64> + TryFrom<i64>>(self) -> Option<T> {
        match self {
            Scalar::Unsigned(v) => T::try_from(v).ok(),
            Scalar::Negative(v) => T::try_from(v).ok(),
            Scalar::Bool(_) | Scalar::Float(_) => None,
        }
    }

    /// The nearest value of a floating-point type, by `cast`s that round to nearest, ties to even.
    fn float<T>(
        self,
        unsigned: impl Fn(u64) -> T,
        negative: impl Fn(i64) -> T,
        float: impl Fn(f64) -> T,
        finite: impl Fn(&T) -> bool,
    ) -> Option<T> {
        let value = match self {
            Scalar::Unsigned(v) => unsigned(v),
            Scalar::Negative(v) => negative(v),
            Scalar::Float(v) => float(v),
            Scalar::Bool(_) => return None,
        };
        finite(&value).then_some(value)
    }

    fn truth(self) -> Option<u8> {
        match self {
            Scalar::Bool(v) => Some(u8::from(v)),
            Scalar::Unsigned(v @ 0..=1) => Some(u8::from(v == 1)),
            _ => None,
        }
    }
}

/// Appends `value` to `out` as one little-endian element of `dtype`. Integers must fit exactly and be written without
/// a fraction; floating-point values are rounded to the nearest, and must not overflow to infinity.
///
/// # Errors
/// The rest of a sentence that begins with the tensor's name.
pub(super) fn push(out: &mut Vec<u8>, dtype: DType, value: Scalar) -> Result<(), String> {
    fn bytes<const N: usize>(out: &mut Vec<u8>, bytes: Option<[u8; N]>) -> Option<()> {
        out.extend_from_slice(&bytes?);
        Some(())
    }
    let pushed = match dtype {
        DType::Bool => bytes(out, value.truth().map(|v| [v])),
        DType::Uint8 => bytes(out, value.integer().map(u8::to_le_bytes)),
        DType::Int8 => bytes(out, value.integer().map(i8::to_le_bytes)),
        DType::Uint16 => bytes(out, value.integer().map(u16::to_le_bytes)),
        DType::Int16 => bytes(out, value.integer().map(i16::to_le_bytes)),
        DType::Uint32 => bytes(out, value.integer().map(u32::to_le_bytes)),
        DType::Int32 => bytes(out, value.integer().map(i32::to_le_bytes)),
        DType::Uint64 => bytes(out, value.integer().map(u64::to_le_bytes)),
        DType::Int64 => bytes(out, value.integer().map(i64::to_le_bytes)),
        DType::Fp64 => {
            bytes(out, value.float(|v| v as f64, |v| v as f64, |v| v, |v: &f64| v.is_finite()).map(f64::to_le_bytes))
        }
        DType::Fp32 => bytes(
            out,
            value.float(|v| v as f32, |v| v as f32, |v| v as f32, |v: &f32| v.is_finite()).map(f32::to_le_bytes),
        ),
        DType::Fp16 => {
            let near = value.float(
                |v| f16::from_f64(v as f64),
                |v| f16::from_f64(v as f64),
                f16::from_f64,
                |v: &f16| v.is_finite(),
            );
            bytes(out, near.map(f16::to_le_bytes))
        }
        DType::Bf16 => {
            let near = value.float(
                |v| bf16::from_f64(v as f64),
                |v| bf16::from_f64(v as f64),
                bf16::from_f64,
                |v: &bf16| v.is_finite(),
            );
            bytes(out, near.map(bf16::to_le_bytes))
        }
    };
    pushed.ok_or_else(|| match (dtype, value) {
        (DType::Bool, _) => format!("holds {value}, which is no truth value; write true or false"),
        (_, Scalar::Bool(_)) => format!("holds {value}, which is no {dtype}"),
        (DType::Fp16 | DType::Bf16 | DType::Fp32 | DType::Fp64, _) => format!("holds {value}, too large for {dtype}"),
        (_, Scalar::Float(v)) if v.fract() != 0.0 || v.abs() < 1e15 => {
            format!("holds {value}; an {dtype} is written without a fraction or an exponent")
        }
        _ => format!("holds {value}, which is out of range for {dtype}"),
    })
}
