//! Layers that are too large for any machine, as several: matrix products and convolutions by their output columns or
//! channels.
//!
//! Each part multiplies the whole input by some of the columns; its results are those of the whole layer there, so that
//! joining them is exact. What follows the layer stays behind the join.

use crate::graph::{Network, Node};
use crate::onnx::proto::{AttributeProto, NodeProto, TensorProto, attribute_proto::AttributeType};
use bytes::Bytes;
use std::ops::Range;

/// Columns of a part are a multiple of this where there are enough of them: as many as engines compute at a time.
const COLUMNS: usize = 16;
/// Since this version of ONNX's operators `Concat` counts axes from the end, too.
const NEGATIVE_AXES: i64 = 11;

/// A layer that was split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The tensor that it makes.
    pub name: String,
    pub weights_bytes: u64,
    pub parts: usize,
}

/// Splits each layer for which `room` gives fewer bytes than its weights have, by its index among the nodes of `network`,
/// into as few parts as need no more than that, or as it has columns.
///
/// Weights of which a part is contiguous are not copied: each part is a view into the same buffer.
pub fn split(network: &mut Network, room: &dyn Fn(usize) -> Option<u64>) -> Vec<Split> {
    let mut splits = Vec::new();
    let mut nodes = Vec::with_capacity(network.nodes.len());
    // The network keeps its own meanwhile: their names are not to be given twice.
    for (index, node) in network.nodes.clone().into_iter().enumerate() {
        let layer = room(index).and_then(|room| Some((Layer::of(network, &node)?, room)));
        let layer = layer.filter(|(layer, room)| layer.bytes > *room);
        let parts = layer.map(|(layer, room)| (layer.parts(room), layer));
        match parts.filter(|(parts, _)| parts.len() > 1) {
            Some((parts, layer)) => {
                let name = node.proto.output[0].clone();
                splits.push(Split { name, weights_bytes: layer.bytes, parts: parts.len() });
                nodes.extend(layer.split(network, &node, &parts));
            }
            None => nodes.push(node),
        }
    }
    network.nodes = nodes;
    network.drop_dead();
    splits
}

/// A node that can be split.
struct Layer {
    weights: String,
    /// The weights' axis that counts columns, and how many there are.
    axis: usize,
    columns: usize,
    bytes: u64,
    /// The result's axis that counts them.
    joined: i64,
    bias: Option<Bias>,
}

/// What is added to the product.
struct Bias {
    name: String,
    /// Its axis that counts columns; none where all columns share it.
    axis: Option<usize>,
}

impl Layer {
    fn of(network: &Network, node: &Node) -> Option<Self> {
        let [_, weights, ..] = node.proto.input.as_slice() else { return None };
        let [output] = node.proto.output.as_slice() else { return None };
        let tensor = network.initializers.get(weights)?;
        let (rank, bytes) = (tensor.dims.len(), tensor.raw_data().len() as u64);
        let transposed = node.int("transB", 0) != 0;
        let (axis, joined) = match node.op() {
            "Conv" if rank > 2 && node.int("group", 1) == 1 => (0, 1),
            "Gemm" if rank == 2 => (if transposed { 0 } else { 1 }, 1),
            "MatMul" if rank == 2 => (1, last_axis(network, output)?),
            _ => return None,
        };
        let columns = usize::try_from(tensor.dims[axis]).ok()?;
        element_bytes(tensor)?;
        let bias = match node.proto.input.get(2).filter(|name| !name.is_empty()) {
            Some(name) => Some(Bias::of(network, name, columns)?),
            None => None,
        };
        Some(Self { weights: weights.clone(), axis, columns, bytes, joined, bias })
    }

    /// Columns of each part, where the weights of one may have `room` bytes.
    fn parts(&self, room: u64) -> Vec<Range<usize>> {
        let column = (self.bytes / self.columns.max(1) as u64).max(1);
        let most = usize::try_from(room / column).unwrap_or(usize::MAX).clamp(1, self.columns.max(1));
        let even = self.columns.div_ceil(self.columns.div_ceil(most).max(1));
        let rounded = even.next_multiple_of(COLUMNS);
        // Even parts, unless rounding makes them larger than there is room for.
        let size = if rounded <= most { rounded } else { even }.max(1);
        (0..self.columns).step_by(size).map(|from| from..(from + size).min(self.columns)).collect()
    }

    /// The nodes that stand for `node`: its parts, and what joins their results.
    fn split(&self, network: &mut Network, node: &Node, parts: &[Range<usize>]) -> Vec<Node> {
        let output = &node.proto.output[0];
        let mut nodes = Vec::with_capacity(parts.len() + 1);
        let mut made = Vec::with_capacity(parts.len());
        for (index, columns) in parts.iter().enumerate() {
            let mut proto = node.proto.clone();
            proto.input[1] = part(network, &self.weights, self.axis, columns);
            if let Some(Bias { name, axis: Some(axis) }) = &self.bias {
                proto.input[2] = part(network, name, *axis, columns);
            }
            proto.output[0] = network.free_name(&format!("{output}/part-{index}"));
            proto.name = node.proto.name.as_ref().map(|name| format!("{name}/part-{index}"));
            made.push(proto.output[0].clone());
            nodes.push(Node::new(proto));
        }
        let axis = AttributeProto {
            name: Some("axis".to_owned()),
            i: Some(self.joined),
            r#type: Some(AttributeType::Int as i32),
            ..Default::default()
        };
        let join = NodeProto {
            op_type: Some("Concat".to_owned()),
            name: node.proto.name.as_ref().map(|name| format!("{name}/join")),
            input: made,
            output: vec![output.clone()],
            attribute: vec![axis],
            ..Default::default()
        };
        nodes.push(Node::new(join));
        nodes
    }
}

impl Bias {
    /// `None` where it cannot be told which column has which value.
    fn of(network: &Network, name: &str, columns: usize) -> Option<Self> {
        let tensor = network.initializers.get(name)?;
        element_bytes(tensor)?;
        let axis = match tensor.dims.split_last() {
            Some((&last, _)) if last != 1 => {
                (usize::try_from(last) == Ok(columns)).then_some(tensor.dims.len() - 1).map(Some)?
            }
            _ => None,
        };
        Some(Self { name: name.to_owned(), axis })
    }
}

/// The last axis of `output`, as `Concat` wants it.
fn last_axis(network: &Network, output: &str) -> Option<i64> {
    use crate::onnx::proto::type_proto::Value;
    if network.opset() >= NEGATIVE_AXES {
        return Some(-1);
    }
    match network.known_type(output)?.value.as_ref()? {
        Value::TensorType(tensor) => Some(tensor.shape.as_ref()?.dim.len() as i64 - 1).filter(|axis| *axis >= 0),
        _ => None,
    }
}

/// Bytes of one element; `None` where elements share bytes, or there are none.
fn element_bytes(tensor: &TensorProto) -> Option<usize> {
    let elements = tensor.dims.iter().try_fold(1usize, |all, dim| all.checked_mul(usize::try_from(*dim).ok()?))?;
    let bytes = tensor.raw_data().len();
    (elements > 0 && bytes > 0 && bytes.is_multiple_of(elements)).then(|| bytes / elements)
}

/// The name of a constant that is `columns` of constant `name`, which is made unless it is there.
fn part(network: &mut Network, name: &str, axis: usize, columns: &Range<usize>) -> String {
    let whole = &network.initializers[name];
    let mut dims = whole.dims.clone();
    let size = |dims: &[i64]| dims.iter().map(|dim| *dim as usize).product::<usize>();
    let element = element_bytes(whole).expect("layers are made of whole elements");
    let (rows, inner) = (size(&dims[..axis]), size(&dims[axis + 1..]) * element);
    let row = dims[axis] as usize * inner;
    let of_row = columns.start * inner..columns.end * inner;
    let raw = whole.raw_data.clone().unwrap_or_default();
    let data = match rows {
        1 => raw.slice(of_row),
        _ => Bytes::from(raw.chunks_exact(row).flat_map(|row| &row[of_row.clone()]).copied().collect::<Vec<u8>>()),
    };
    dims[axis] = columns.len() as i64;
    let data_type = whole.data_type;
    let name = format!("{name}/{}-{}", columns.start, columns.end);
    // Two layers may share their weights.
    let same = |known: &TensorProto| known.dims == dims && known.data_type == data_type && known.raw_data() == data;
    if network.initializers.get(&name).is_some_and(same) {
        return name;
    }
    let name = network.free_name(&name);
    let tensor = TensorProto { name: Some(name.clone()), dims, data_type, raw_data: Some(data), ..Default::default() };
    network.initializers.insert(name.clone(), tensor);
    name
}
