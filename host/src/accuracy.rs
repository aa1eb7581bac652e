//! How far a chain's answers are from the uncut network's, and how far they may be.

use crate::engine::Named;
use defer_partition::{DType, Tensor};
use half::{bf16, f16};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

const MAX_RELATIVE_ERROR: &str = "max-relative-error";
const TOP1_AGREEMENT: &str = "top1-agreement";

/// What lossy codecs may do to the answers. As text `max-relative-error=0.01` or `top1-agreement=0.999`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// The largest difference from the uncut network's outputs, over each output tensor's largest magnitude.
    MaxRelativeError(f64),
    /// The least share of positions at which the largest element is the same: of vectors along the last dimension, such as the
    /// classes of a picture, or the characters at a step. Of outputs of whole numbers, the share of equal elements.
    Top1Agreement(f64),
}

impl Budget {
    /// Whether answers so far off are within it.
    pub fn admits(&self, deviation: &Deviation) -> bool {
        match *self {
            Self::MaxRelativeError(limit) => deviation.max_relative_error <= limit,
            Self::Top1Agreement(least) => deviation.top1_agreement().is_some_and(|share| share >= least),
        }
    }

    /// The agreement that can be told from `positions` positions at most, where that is less than the budget asks for: if all
    /// of them agree, the share of others that do is at least this with a confidence of 95 % (the rule of three).
    pub fn beyond_sample(&self, positions: u64) -> Option<f64> {
        let Self::Top1Agreement(least) = *self else { return None };
        let shown = (1.0 - 3.0 / positions.max(1) as f64).max(0.0);
        (shown < least).then_some(shown)
    }

    /// What it speaks of; `None` where that is no number.
    pub fn figure(&self, deviation: &Deviation) -> Option<f64> {
        let figure = match self {
            Self::MaxRelativeError(_) => Some(deviation.max_relative_error),
            Self::Top1Agreement(_) => deviation.top1_agreement(),
        };
        figure.filter(|figure| figure.is_finite())
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MaxRelativeError(limit) => write!(f, "{MAX_RELATIVE_ERROR}={limit}"),
            Self::Top1Agreement(least) => write!(f, "{TOP1_AGREEMENT}={least}"),
        }
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let number: Option<f64> = value.parse().ok();
        match (name, number) {
            (MAX_RELATIVE_ERROR, Some(limit)) if limit > 0.0 && limit < 1.0 => Ok(Self::MaxRelativeError(limit)),
            (TOP1_AGREEMENT, Some(least)) if least > 0.0 && least <= 1.0 => Ok(Self::Top1Agreement(least)),
            (MAX_RELATIVE_ERROR, _) => Err(format!("{name} takes a number above 0 and below 1, such as {name}=0.01")),
            (TOP1_AGREEMENT, _) => Err(format!("{name} takes a share above 0, at most 1, such as {name}=0.999")),
            _ => Err(format!(
                "\"{text}\" is no budget; there are {MAX_RELATIVE_ERROR}=X, such as 0.01, and {TOP1_AGREEMENT}=Y, such as 0.999"
            )),
        }
    }
}

impl Serialize for Budget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Two answers that cannot be compared: they are not of the same tensors.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Mismatch(String);

/// How far answers are from the uncut network's: the worst, and the sums, over all that were added.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deviation {
    /// Of each tensor, the largest difference between two values, over the largest value of the uncut network's tensor.
    /// Infinite where only one of two values is a number, or all of the uncut network's are 0 and another is not.
    pub max_relative_error: f64,
    /// Vectors along the last dimension (of two elements or more), and elements that are whole numbers.
    pub positions: u64,
    /// Those of them whose largest element, or whose value, is the same.
    pub agreeing: u64,
}

impl Deviation {
    /// Of one answer, with every error taken `stretch` times.
    pub fn of(whole: &[Named], chain: &[Named], stretch: f64) -> Result<Self, Mismatch> {
        if let Some((name, _)) = chain.iter().find(|(name, _)| whole.iter().all(|(other, _)| other != name)) {
            return Err(Mismatch(format!("the chain answered \"{name}\", which the uncut network has not")));
        }
        let mut all = Self::default();
        for (name, whole) in whole {
            let Some((_, chain)) = chain.iter().find(|(other, _)| other == name) else {
                return Err(Mismatch(format!("the chain's answer lacks \"{name}\"")));
            };
            if (whole.dtype, &whole.shape) != (chain.dtype, &chain.shape) {
                return Err(Mismatch(format!(
                    "\"{name}\" is {}{:?} in the chain's answer and {}{:?} in the uncut network's",
                    chain.dtype, chain.shape, whole.dtype, whole.shape
                )));
            }
            all.add(&Self::of_tensor(whole, &values(whole), &values(chain), stretch));
        }
        Ok(all)
    }

    /// Takes note of another answer.
    pub fn add(&mut self, other: &Self) {
        self.max_relative_error = self.max_relative_error.max(other.max_relative_error);
        self.positions += other.positions;
        self.agreeing += other.agreeing;
    }

    /// `None` where there is nothing to compare.
    pub fn top1_agreement(&self) -> Option<f64> {
        (self.positions > 0).then(|| self.agreeing as f64 / self.positions as f64)
    }

    fn of_tensor(tensor: &Tensor, whole: &[f64], chain: &[f64], stretch: f64) -> Self {
        let scale = whole.iter().map(|value| value.abs()).filter(|value| value.is_finite()).fold(0.0, f64::max);
        let apart = whole.iter().zip(chain).map(|(a, b)| match (a, b) {
            _ if a == b || (a.is_nan() && b.is_nan()) => 0.0,
            _ if a.is_finite() && b.is_finite() => stretch * (a - b).abs() / scale,
            _ => f64::INFINITY,
        });
        let max_relative_error = apart.fold(0.0, f64::max);
        let same = |positions: usize, agreeing: usize| Self {
            max_relative_error,
            positions: positions as u64,
            agreeing: agreeing as u64,
        };
        if !matches!(tensor.dtype, DType::Fp16 | DType::Bf16 | DType::Fp32 | DType::Fp64) {
            return same(whole.len(), whole.iter().zip(chain).filter(|(a, b)| a == b).count());
        }
        match tensor.shape.last() {
            Some(&length) if length > 1 => {
                let rows = whole.chunks_exact(length).zip(chain.chunks_exact(length));
                let agree = |(whole, chain): &(&[f64], &[f64])| {
                    // Equal infinities have no difference that is a number.
                    let stretched =
                        whole.iter().zip(*chain).map(|(a, b)| if a == b { *a } else { a + stretch * (b - a) });
                    let alike = whole.iter().zip(*chain).all(|(a, b)| a.is_nan() == b.is_nan());
                    alike && largest(whole.iter().copied()) == largest(stretched)
                };
                same(whole.len() / length, rows.filter(agree).count())
            }
            _ => same(0, 0),
        }
    }
}

/// The largest relative difference of two answers, see [`Deviation::max_relative_error`].
///
/// # Errors
/// When the tensors are not of the same names, types and shapes.
pub fn difference(whole: &[Named], chain: &[Named]) -> Result<f64, Mismatch> {
    Ok(Deviation::of(whole, chain, 1.0)?.max_relative_error)
}

/// Where the largest is: the first, if there are several.
fn largest(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (index, value) in values.enumerate() {
        if value > best.1 {
            best = (index, value);
        }
    }
    best.0
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
    fn few_positions_cannot_show_a_high_agreement() {
        let budget = Budget::Top1Agreement(0.999);
        for (positions, want) in
            [(3000, None), (2999, Some(0.998_999)), (300, Some(0.99)), (2, Some(0.0)), (0, Some(0.0))]
        {
            let got = budget.beyond_sample(positions);
            assert!(
                got.is_some() == want.is_some() && (got.unwrap_or(0.0) - want.unwrap_or(0.0)).abs() < 1e-5,
                "{positions}: {got:?}"
            );
        }
        assert_eq!(Budget::MaxRelativeError(0.01).beyond_sample(1), None);
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

    #[test]
    fn agreement_is_of_the_largest_along_the_last_dimension() {
        let tensor =
            |shape: &[usize], values: &[f32]| vec![("y".to_owned(), Tensor::from_f32(shape.to_vec(), values).unwrap())];
        let whole = [1.0, 3.0, 2.0, 5.0, 4.0, 0.0];
        for (shape, chain, stretch, want) in [
            (&[2, 3][..], [1.0, 3.0, 2.0, 5.0, 4.0, 0.0], 1.0, Some(1.0)),
            (&[2, 3], [1.0, 2.0, 3.0, 5.0, 4.0, 0.0], 1.0, Some(0.5)),
            (&[6], [1.0, 3.0, 2.0, 4.5, 4.0, 0.0], 1.0, Some(1.0)),
            // What is no number agrees with none, the first one included.
            (&[2, 3], [1.0, 3.0, 2.0, f32::NAN, f32::NAN, f32::NAN], 1.0, Some(0.5)),
            (&[6], [1.0, 3.0, 2.0, 5.0, 4.0, f32::NAN], 1.0, Some(0.0)),
            // Twice the error would make the fifth the largest.
            (&[6], [1.0, 3.0, 2.0, 4.4, 4.0, 0.0], 2.0, Some(0.0)),
            (&[6, 1], [0.0; 6], 1.0, None),
        ] {
            let deviation = Deviation::of(&tensor(shape, &whole), &tensor(shape, &chain), stretch).unwrap();
            assert_eq!(deviation.top1_agreement(), want, "{shape:?} {chain:?} {stretch}");
        }
        let classes = |ids: [i64; 4]| {
            let data = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            vec![("y".to_owned(), Tensor::new(DType::Int64, vec![4], data).unwrap())]
        };
        let deviation = Deviation::of(&classes([1, 2, 3, 4]), &classes([1, 2, 3, 5]), 1.0).unwrap();
        assert_eq!(deviation.top1_agreement(), Some(0.75));
    }

    #[test]
    fn budgets_are_named_numbers() {
        for text in ["max-relative-error=0.01", "top1-agreement=0.999", "top1-agreement=1"] {
            assert_eq!(text.parse::<Budget>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "0.01",
            "max-relative-error",
            "max-relative-error=0",
            "max-relative-error=1",
            "max-relative-error=NaN",
            "max-relative-error=x",
            "top1-agreement=0",
            "top1-agreement=1.1",
            "top1-agreement=-1",
            "psnr=40",
        ] {
            let error = text.parse::<Budget>().unwrap_err();
            assert!(error.contains("0.01") || error.contains("0.999"), "{text}: {error}");
        }
    }

    #[test]
    fn a_budget_admits_what_is_within_it() {
        let deviation = Deviation { max_relative_error: 0.01, positions: 1000, agreeing: 999 };
        for (budget, want) in [
            (Budget::MaxRelativeError(0.01), true),
            (Budget::MaxRelativeError(0.009), false),
            (Budget::Top1Agreement(0.999), true),
            (Budget::Top1Agreement(1.0), false),
        ] {
            assert_eq!(budget.admits(&deviation), want, "{budget}");
        }
        // Nothing to compare is no agreement.
        assert!(!Budget::Top1Agreement(0.5).admits(&Deviation::default()));
    }
}
