//! Per-channel multiply-and-add, `y = x · scale + shift`: what BatchNormalization is at inference, and what adding or
//! multiplying by a constant per channel is.

use crate::graph::{Network, Node};
use crate::onnx::proto::TensorProto;
use crate::tensor::DType;

/// One scale and one shift per output channel, in double precision.
pub(super) struct Affine {
    pub(super) scale: Vec<f64>,
    pub(super) shift: Vec<f64>,
}

/// The values of a constant of 32-bit floats; `None` for any other type.
fn floats(tensor: &TensorProto) -> Option<Vec<f64>> {
    if tensor.data_type() != DType::Fp32.onnx() {
        return None;
    }
    let (values, rest) = tensor.raw_data().as_chunks::<4>();
    rest.is_empty().then(|| values.iter().map(|v| f64::from(f32::from_le_bytes(*v))).collect())
}

impl Affine {
    /// What `node` does to its input `data`, a tensor of `rank` dimensions with `channels` channels on axis `axis`, if
    /// it is nothing but a scale and a shift per channel by constants.
    pub(super) fn of(
        network: &Network,
        node: &Node,
        data: &str,
        rank: usize,
        axis: usize,
        channels: usize,
    ) -> Option<Self> {
        match node.op() {
            "BatchNormalization" if axis == 1 => Self::of_batch_norm(network, node, data, channels),
            op @ ("Add" | "Sub" | "Mul" | "Div") => {
                let [left, right] = node.proto.input.as_slice() else { return None };
                let other = match (left == data, right == data) {
                    (true, false) => right,
                    // A constant less, or divided by, the data is no scale and shift.
                    (false, true) if matches!(op, "Add" | "Mul") => left,
                    _ => return None,
                };
                // Before operator set 7 `axis` and `broadcast` said how shapes match.
                if !node.proto.attribute.is_empty() {
                    return None;
                }
                let values = per_channel(network.initializers.get(other)?, rank, axis, channels)?;
                let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
                Some(match op {
                    "Add" => Self { scale: ones, shift: values },
                    "Sub" => Self { scale: ones, shift: values.iter().map(|v| -v).collect() },
                    "Mul" => Self { scale: values, shift: zeros },
                    _ => Self { scale: values.iter().map(|v| 1.0 / v).collect(), shift: zeros },
                })
            }
            _ => None,
        }
    }

    fn of_batch_norm(network: &Network, node: &Node, data: &str, channels: usize) -> Option<Self> {
        let [input, scale, bias, mean, variance] = node.proto.input.as_slice() else { return None };
        let trains = node.int("training_mode", 0) != 0 || (network.opset() < 7 && node.int("is_test", 0) == 0);
        let per_element = node.int("spatial", 1) != 1;
        if input != data || trains || per_element || node.writes().count() != 1 {
            return None;
        }
        let vector = |name: &str| floats(network.initializers.get(name)?).filter(|v| v.len() == channels);
        let (scale, bias, mean, variance) = (vector(scale)?, vector(bias)?, vector(mean)?, vector(variance)?);
        let epsilon = f64::from(node.float("epsilon", 1e-5));
        let scale: Vec<f64> = scale.iter().zip(&variance).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
        let shift = bias.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        Some(Self { scale, shift })
    }

    /// Whether every number is one that 32-bit floats can hold.
    pub(super) fn is_finite(&self) -> bool {
        self.scale.iter().chain(&self.shift).all(|v| v.is_finite())
    }
}

/// One value per channel from a constant that broadcasts against `rank` dimensions along `axis` only.
pub(super) fn per_channel(tensor: &TensorProto, rank: usize, axis: usize, channels: usize) -> Option<Vec<f64>> {
    let lead = rank.checked_sub(tensor.dims.len())?;
    let fits = tensor.dims.iter().enumerate().all(|(i, &dim)| dim == 1 || (lead + i == axis && dim == channels as i64));
    let values = floats(tensor).filter(|_| fits)?;
    match values.as_slice() {
        [one] => Some(vec![*one; channels]),
        all => Some(all.to_vec()).filter(|v| v.len() == channels),
    }
}
