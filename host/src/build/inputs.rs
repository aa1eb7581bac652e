//! What the network is run with while it is profiled.

use super::BuildError;
use crate::engine::Named;
use crate::pipeline::Calibration;
use defer_models::Entry;
use defer_partition::dims::{dim_name, resolve_dims};
use defer_partition::{DType, InputInfo, Tensor, byte_len};
use half::{bf16, f16};
use std::collections::{BTreeMap, BTreeSet};

/// Random inputs to calibrate with.
const RANDOM: u64 = 6;

/// Inputs to profile with: the model's own sample where it has one and the user gave no sizes, else pseudo-random values
/// in the shapes that `dims` settle.
pub(super) fn real(
    inputs: &[InputInfo],
    entry: Option<&Entry>,
    dims: &[(String, usize)],
) -> Result<Vec<Named>, BuildError> {
    if dims.is_empty()
        && let Some(entry) = entry
        && let Some((_, sample)) = entry.sample_inputs().map_err(BuildError::Sample)?.into_iter().next()
        && fits(inputs, &sample)
    {
        return Ok(sample);
    }
    let sizes: BTreeMap<String, usize> = dims.iter().cloned().collect();
    let shapes = resolve_dims(inputs, &sizes)?;
    random(inputs, &shapes, 0).ok_or_else(|| {
        let (input, shape) = inputs
            .iter()
            .zip(shapes)
            .max_by_key(|(input, shape)| byte_len(input.dtype, shape).unwrap_or(usize::MAX))
            .expect("a network without inputs has none that is too large");
        BuildError::InputSize { input: input.name.clone(), shape }
    })
}

fn fits(inputs: &[InputInfo], sample: &[Named]) -> bool {
    inputs.iter().all(|input| {
        let given = |(name, tensor): &Named| {
            *name == input.name && tensor.dtype == input.dtype && input.info().admits(&tensor.shape)
        };
        sample.iter().any(given)
    })
}

/// Inputs to calibrate lossy codecs with, and where they come from: the model's own where it has some and the user gave no
/// sizes, else pseudo-random values in the shapes of `profiled`.
pub(super) fn calibration(
    inputs: &[InputInfo],
    entry: Option<&Entry>,
    dims: &[(String, usize)],
    profiled: &[Named],
) -> Result<(Calibration, Vec<Vec<Named>>), BuildError> {
    if dims.is_empty()
        && let Some(entry) = entry
    {
        let samples = entry.calibration_inputs().map_err(BuildError::Sample)?;
        let samples: Vec<_> = samples.into_iter().map(|(_, sample)| sample).filter(|s| fits(inputs, s)).collect();
        if !samples.is_empty() {
            return Ok((Calibration::Samples, samples));
        }
    }
    let shape = |input: &InputInfo| {
        let given = profiled.iter().find(|(name, _)| *name == input.name);
        given.map(|(_, tensor)| tensor.shape.clone()).unwrap_or_default()
    };
    let shapes: Vec<_> = inputs.iter().map(shape).collect();
    Ok((Calibration::Random, (1..=RANDOM).map_while(|seed| random(inputs, &shapes, seed)).collect()))
}

/// The open dimensions of `inputs` by the names that `--dim` knows them by.
pub(super) fn open_dims(inputs: &[InputInfo]) -> BTreeSet<String> {
    inputs.iter().flat_map(|input| (0..input.dims.len()).filter_map(|axis| dim_name(input, axis))).collect()
}

/// The shapes of `request`, in the order of `inputs`, with the dimension `name` replaced by what `size` makes of it.
pub(super) fn resized(
    inputs: &[InputInfo],
    request: &[Named],
    name: &str,
    size: impl Fn(usize) -> usize,
) -> Vec<Vec<usize>> {
    let shape = |input: &InputInfo| {
        let given = request.iter().find(|(given, _)| *given == input.name);
        let shape = given.map(|(_, tensor)| tensor.shape.as_slice()).unwrap_or_default();
        let dim = |(axis, &old): (usize, &usize)| match dim_name(input, axis).as_deref() == Some(name) {
            true => size(old),
            false => old,
        };
        shape.iter().enumerate().map(dim).collect()
    };
    inputs.iter().map(shape).collect()
}

/// Pseudo-random inputs, the same for the same `seed`: floats from -1 to 1, integers 0 and 1, which index anything.
/// `None` if one does not fit memory.
pub fn random(inputs: &[InputInfo], shapes: &[Vec<usize>], seed: u64) -> Option<Vec<Named>> {
    let tensor = |(input, shape): (&InputInfo, &Vec<usize>)| {
        let count = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim))?;
        let mut data = Vec::new();
        data.try_reserve_exact(byte_len(input.dtype, shape)?).ok()?;
        (0..count as u64).for_each(|index| put(&mut data, input.dtype, scatter(index, seed)));
        Some((input.name.clone(), Tensor::new(input.dtype, shape.clone(), data)?))
    };
    inputs.iter().zip(shapes).map(tensor).collect()
}

/// The finaliser of splitmix64 (Steele et al., 2014).
fn scatter(index: u64, seed: u64) -> u64 {
    let mut z = index.wrapping_add(seed << 32).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn put(data: &mut Vec<u8>, dtype: DType, bits: u64) {
    let float = (bits >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
    let bit = (bits >> 63) as u8;
    match dtype {
        DType::Fp32 => data.extend(float.to_le_bytes()),
        DType::Fp64 => data.extend(f64::from(float).to_le_bytes()),
        DType::Fp16 => data.extend(f16::from_f32(float).to_le_bytes()),
        DType::Bf16 => data.extend(bf16::from_f32(float).to_le_bytes()),
        // Little-endian: the low byte, then zeros.
        _ => {
            data.push(bit);
            data.extend(std::iter::repeat_n(0, dtype.size() - 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use defer_partition::Dim;

    #[test]
    fn values_are_small_repeatable_and_of_every_type() {
        for dtype in DType::ALL {
            let input = InputInfo { name: "x".into(), dtype, dims: vec![Dim::Fixed(2), Dim::Symbol("n".into())] };
            let make = |seed| random(std::slice::from_ref(&input), &[vec![2, 50]], seed).unwrap();
            assert_eq!(make(0), make(0));
            assert_ne!(make(0), make(1), "{dtype}");
            let (_, tensor) = &make(0)[0];
            assert_eq!(tensor.data.len(), 100 * dtype.size());
            if let Some(values) = tensor.to_f32() {
                assert!(values.iter().all(|v| v.abs() <= 1.0) && values.iter().any(|v| *v < -0.5), "{values:?}");
            }
        }
    }

    #[test]
    fn a_dimension_changes_wherever_its_name_occurs() {
        let input = |name: &str, dims| InputInfo { name: name.into(), dtype: DType::Int64, dims };
        let n = || Dim::Symbol("n".into());
        let inputs = [input("a", vec![n(), Dim::Fixed(3), n()]), input("b", vec![Dim::Unknown, n()])];
        assert_eq!(open_dims(&inputs), BTreeSet::from(["b.0".to_owned(), "n".to_owned()]));
        let request = random(&inputs, &[vec![4, 3, 4], vec![1, 4]], 0).unwrap();
        assert_eq!(resized(&inputs, &request, "n", |old| 2 * old), [vec![8, 3, 8], vec![1, 8]]);
        assert_eq!(resized(&inputs, &request, "b.0", |old| old + 1), [vec![4, 3, 4], vec![2, 4]]);
    }
}
