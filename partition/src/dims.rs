//! Dimensions that a model leaves open, and the sizes a user gives them for profiling.

use crate::graph::{Dim, InputInfo};
use std::collections::{BTreeMap, BTreeSet};

/// Why the shapes of the inputs are not settled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DimError {
    #[error("input \"{input}\" leaves dimension \"{symbol}\" open; give a size to profile with: --dim {symbol}=SIZE")]
    Open { input: String, symbol: String },
    #[error("no input has a dimension \"{symbol}\"; open dimensions of this model: {known}")]
    Unknown { symbol: String, known: String },
    #[error("\"{text}\" is no dimension; write --dim name=size with a size of at least 1")]
    Syntax { text: String },
}

/// Parses the value of one `--dim name=size` flag. The name may itself contain an equals sign.
pub fn parse_dim(text: &str) -> Result<(String, usize), DimError> {
    let syntax = || DimError::Syntax { text: text.to_owned() };
    let (name, size) = text.rsplit_once('=').ok_or_else(syntax)?;
    let size: usize = size.trim().parse().map_err(|_| syntax())?;
    if name.is_empty() || size == 0 {
        return Err(syntax());
    }
    Ok((name.to_owned(), size))
}

/// The name by which `--dim` calls dimension `axis` of `input`: its symbol, or `input.axis` where the file names none.
pub fn dim_name(input: &InputInfo, axis: usize) -> Option<String> {
    match input.dims.get(axis)? {
        Dim::Fixed(_) => None,
        Dim::Symbol(symbol) => Some(symbol.clone()),
        Dim::Unknown => Some(format!("{}.{axis}", input.name)),
    }
}

/// One concrete shape per input: fixed dimensions as they are, open ones from `sizes`, and the first dimension of an
/// input (the batch) 1 where nothing else is said.
pub fn resolve_dims(inputs: &[InputInfo], sizes: &BTreeMap<String, usize>) -> Result<Vec<Vec<usize>>, DimError> {
    let mut known = BTreeSet::new();
    for input in inputs {
        known.extend((0..input.dims.len()).filter_map(|axis| dim_name(input, axis)));
    }
    if let Some(symbol) = sizes.keys().find(|s| !known.contains(*s)) {
        let known = match known.is_empty() {
            true => "none".to_owned(),
            false => known.into_iter().collect::<Vec<_>>().join(", "),
        };
        return Err(DimError::Unknown { symbol: symbol.clone(), known });
    }
    // A batch symbol that occurs elsewhere too (a square of unknown size) is the same number everywhere.
    let batch: BTreeSet<String> = inputs.iter().filter_map(|input| dim_name(input, 0)).collect();
    let size = |input: &InputInfo, axis: usize, dim: &Dim| match (dim, dim_name(input, axis)) {
        (Dim::Fixed(size), _) => Ok(*size),
        (_, Some(symbol)) => match sizes.get(&symbol) {
            Some(&size) => Ok(size),
            None if batch.contains(&symbol) => Ok(1),
            None => Err(DimError::Open { input: input.name.clone(), symbol }),
        },
        (_, None) => Ok(1),
    };
    inputs
        .iter()
        .map(|input| input.dims.iter().enumerate().map(|(axis, dim)| size(input, axis, dim)).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    fn input(name: &str, dims: Vec<Dim>) -> InputInfo {
        InputInfo { name: name.to_owned(), dtype: DType::Fp32, dims }
    }

    #[test]
    fn open_dimensions_come_from_flags_and_the_batch_is_one() {
        let inputs = [
            input("x", vec![Dim::Symbol("N".into()), Dim::Fixed(3), Dim::Symbol("W".into())]),
            input("m", vec![Dim::Symbol("N".into()), Dim::Unknown]),
        ];
        let sizes = BTreeMap::from([("W".to_owned(), 320), ("m.1".to_owned(), 7)]);
        assert_eq!(resolve_dims(&inputs, &sizes), Ok(vec![vec![1, 3, 320], vec![1, 7]]));

        let open = resolve_dims(&inputs, &BTreeMap::new()).unwrap_err().to_string();
        assert!(open.contains("\"x\"") && open.contains("--dim W=SIZE"), "{open}");

        let typo = BTreeMap::from([("H".to_owned(), 1)]);
        let typo = resolve_dims(&inputs, &typo).unwrap_err().to_string();
        assert!(typo.contains("\"H\"") && typo.contains("N, W, m.1"), "{typo}");
    }

    #[test]
    fn a_flag_is_a_name_and_a_positive_size() {
        assert_eq!(parse_dim("a=b=4"), Ok(("a=b".to_owned(), 4)));
        for bad in ["a", "=4", "a=0", "a=-1", "a=x"] {
            assert!(parse_dim(bad).is_err(), "{bad}");
        }
    }
}
