//! Memory of ours for the outputs of a run, where their types and shapes are known beforehand: from the latest run with
//! inputs of the same shapes.

use super::tensors::by_element;
use crate::buffer::Pool;
use crate::engine::Named;
use bytemuck::Pod;
use defer_partition::{DType, Tensor, byte_len};
use ort::value::{DynValueRefMut, PrimitiveTensorElementType, TensorRefMut};
use std::fmt::Debug;

/// What a session's outputs are expected to be.
#[derive(Debug, Default)]
pub(super) enum Expected {
    #[default]
    Unknown,
    Known {
        inputs: Vec<Vec<usize>>,
        outputs: Vec<(DType, Vec<usize>)>,
    },
    /// Inputs of one shape gave outputs of several: they depend on the data.
    Never,
}

impl Expected {
    /// Memory for the outputs of a run over `inputs`, if it is known what they will be.
    pub fn memory(&self, inputs: &[Named], pool: &Pool) -> Option<Vec<Tensor>> {
        let Self::Known { inputs: shapes, outputs } = self else { return None };
        let same = inputs.len() == shapes.len() && inputs.iter().zip(shapes).all(|((_, t), shape)| t.shape == *shape);
        same.then(|| {
            let make = |(dtype, shape): &(DType, Vec<usize>)| {
                let len = byte_len(*dtype, shape).expect("the length of a tensor that there was");
                Tensor { dtype: *dtype, shape: shape.clone(), data: pool.take_filled(len) }
            };
            outputs.iter().map(make).collect()
        })
    }

    /// Takes note of a run.
    pub fn learn(&mut self, inputs: &[Named], outputs: &[Named]) {
        // The runtime takes no empty memory, and its truth values are not any byte.
        let fits = |tensor: &Tensor| tensor.dtype != DType::Bool && !tensor.data.is_empty();
        *self = match self {
            Self::Never => Self::Never,
            _ if !outputs.iter().all(|(_, tensor)| fits(tensor)) => Self::Unknown,
            _ => Self::Known {
                inputs: inputs.iter().map(|(_, tensor)| tensor.shape.clone()).collect(),
                outputs: outputs.iter().map(|(_, tensor)| (tensor.dtype, tensor.shape.clone())).collect(),
            },
        };
    }
}

/// `tensor`'s memory, for the runtime to write to.
pub(super) fn writable(tensor: &mut Tensor) -> ort::Result<DynValueRefMut<'_>> {
    let refused = || Err(ort::Error::new("truth values are not written in place"));
    by_element!(tensor.dtype, T => view::<T>(tensor), bool => refused())
}

fn view<T: Pod + PrimitiveTensorElementType + Debug>(tensor: &mut Tensor) -> ort::Result<DynValueRefMut<'_>> {
    let values: &mut [T] =
        bytemuck::try_cast_slice_mut(&mut tensor.data).map_err(|error| ort::Error::new(error.to_string()))?;
    Ok(TensorRefMut::from_array_view_mut((tensor.shape.clone(), values))?.into_dyn())
}
