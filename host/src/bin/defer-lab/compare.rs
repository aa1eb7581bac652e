//! How far two answers to one request are apart.

use anyhow::{Result, bail};
use defer_host::engine::Named;
use defer_partition::{DType, Tensor};
use half::{bf16, f16};

/// Results of one network differ by less when it is cut, or computed by another engine: engines then add up in another
/// order, which makes some 1e-6.
pub const ROUNDING: f64 = 1e-4;

/// The largest relative difference over all tensors: of each, the largest difference between two values, over the
/// largest value of the tensor in `whole`. Infinite where only one of two values is a number.
///
/// # Errors
/// When the tensors are not of the same names, types and shapes.
pub fn difference(whole: &[Named], chain: &[Named]) -> Result<f64> {
    if let Some((name, _)) = chain.iter().find(|(name, _)| whole.iter().all(|(other, _)| other != name)) {
        bail!("the chain answered \"{name}\", which the uncut network has not");
    }
    let mut largest = 0.0;
    for (name, whole) in whole {
        let Some((_, chain)) = chain.iter().find(|(other, _)| other == name) else {
            bail!("the chain's answer lacks \"{name}\"");
        };
        if (whole.dtype, &whole.shape) != (chain.dtype, &chain.shape) {
            bail!(
                "\"{name}\" is {}{:?} in the chain's answer and {}{:?} in the uncut network's",
                chain.dtype,
                chain.shape,
                whole.dtype,
                whole.shape
            );
        }
        largest = f64::max(largest, of_tensor(&values(whole), &values(chain)));
    }
    Ok(largest)
}

fn of_tensor(whole: &[f64], chain: &[f64]) -> f64 {
    let scale = whole.iter().map(|value| value.abs()).filter(|value| value.is_finite()).fold(0.0, f64::max);
    let apart = whole.iter().zip(chain).map(|(a, b)| match (a, b) {
        _ if a == b || (a.is_nan() && b.is_nan()) => 0.0,
        _ if a.is_finite() && b.is_finite() => (a - b).abs() / scale,
        _ => f64::INFINITY,
    });
    // Where all of `whole` is 0, whatever is not is infinitely far off.
    apart.fold(0.0, f64::max)
}

fn values(tensor: &Tensor) -> Vec<f64> {
    fn read<const N: usize>(data: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        let (chunks, _) = data.as_chunks::<N>();
        chunks.iter().map(|bytes| value(*bytes)).collect()
    }
    let data = &tensor.data;
    match tensor.dtype {
        DType::Fp16 => read(data, |b| f16::from_le_bytes(b).into()),
        DType::Bf16 => read(data, |b| bf16::from_le_bytes(b).into()),
        DType::Fp32 => read(data, |b| f32::from_le_bytes(b).into()),
        DType::Fp64 => read(data, f64::from_le_bytes),
        DType::Uint8 | DType::Bool => read(data, |b| u8::from_le_bytes(b).into()),
        DType::Int8 => read(data, |b| i8::from_le_bytes(b).into()),
        DType::Uint16 => read(data, |b| u16::from_le_bytes(b).into()),
        DType::Int16 => read(data, |b| i16::from_le_bytes(b).into()),
        DType::Uint32 => read(data, |b| u32::from_le_bytes(b).into()),
        DType::Int32 => read(data, |b| i32::from_le_bytes(b).into()),
        // Differences beyond 2^53 are lost, and far below what counts as equal here.
        DType::Uint64 => read(data, |b| u64::from_le_bytes(b) as f64),
        DType::Int64 => read(data, |b| i64::from_le_bytes(b) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, values: &[f32]) -> Named {
        (name.to_owned(), Tensor::from_f32(vec![values.len()], values).unwrap())
    }

    #[test]
    fn a_difference_is_relative_to_the_tensors_largest_value() {
        for (whole, chain, want) in [
            (&[1.0, -4.0][..], &[1.0, -4.0][..], 0.0),
            (&[1.0, -4.0], &[2.0, -4.0], 0.25),
            (&[0.0, 0.0], &[0.0, 1e-9], f64::INFINITY),
            (&[f32::NAN, 1.0], &[f32::NAN, 1.0], 0.0),
            (&[f32::NAN, 1.0], &[0.0, 1.0], f64::INFINITY),
            (&[f32::INFINITY, 1.0], &[f32::INFINITY, 1.0], 0.0),
        ] {
            assert_eq!(difference(&[named("y", whole)], &[named("y", chain)]).unwrap(), want, "{whole:?} {chain:?}");
        }
    }

    #[test]
    fn answers_of_other_tensors_have_no_difference() {
        let y = named("y", &[1.0]);
        for (whole, chain) in [
            (vec![y.clone()], vec![]),
            (vec![], vec![y.clone()]),
            (vec![y.clone()], vec![named("z", &[1.0])]),
            (vec![y], vec![named("y", &[1.0, 1.0])]),
        ] {
            assert!(difference(&whole, &chain).is_err());
        }
    }
}
