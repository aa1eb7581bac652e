//! Slices: each stage as an ONNX model of its own, with its weights apart.

use crate::cut::Stage;
use crate::graph::{Network, tensor_value};
use crate::onnx::proto::{
    GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, TensorShapeProto, ValueInfoProto,
    tensor_proto::{DataLocation, DataType},
    tensor_shape_proto::{Dimension, dimension},
};
use crate::tensor::{DType, TensorInfo};
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap};

/// What a slice calls the section with its weights, in `location` of its external data.
pub const WEIGHTS_LOCATION: &str = "weights";
/// Weights start at multiples of this many bytes from the start of the section.
pub const WEIGHTS_ALIGNMENT: u64 = 64;
/// Constants of fewer bytes stay inside the graph.
pub const INLINE_BELOW: usize = 1024;
/// Integer vectors up to this many bytes stay inside the graph as well: they are shapes, axes and indices, which
/// engines want to see when they infer shapes.
const INLINE_INTEGERS: usize = 64 * 1024;

/// Why there is no slice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SliceError {
    #[error(
        "element type and shape of \"{tensor}\", which enters stage {stage}, are not known; run the network once to learn them"
    )]
    Undescribed { tensor: String, stage: usize },
}

/// Bytes of the weights section.
#[derive(Clone, Debug)]
pub struct Weight {
    /// First constant that has these bytes; others may share them.
    pub name: String,
    pub data: Bytes,
    /// Bytes from the start of the section, a multiple of [`WEIGHTS_ALIGNMENT`].
    pub offset: u64,
}

/// A model whose large constants are outside it.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Valid ONNX; its large constants are external data at [`WEIGHTS_LOCATION`].
    pub model: ModelProto,
    /// The section's contents, by ascending offset; the gaps are zeros. Equal constants occur once.
    pub weights: Vec<Weight>,
    /// Bytes of the section.
    pub weights_len: u64,
}

/// Makes `stage` of `network` a model of its own.
///
/// `describe` gives element type and shape (-1 for open dimensions) of tensors that cross a cut. Network inputs that it
/// does not know are declared as in the file; a tensor that the stage produces may stay undescribed.
pub fn slice(
    network: &Network,
    stage: &Stage,
    describe: &dyn Fn(&str) -> Option<TensorInfo>,
) -> Result<Slice, SliceError> {
    let inputs = stage.inputs.iter().map(|name| {
        let from_file = || network.inputs.iter().find(|i| i.name == *name).map(|i| i.value_info());
        let undescribed = || SliceError::Undescribed { tensor: name.clone(), stage: stage.index };
        describe(name).map(|info| value_info(&info)).or_else(from_file).ok_or_else(undescribed)
    });
    let inputs = inputs.collect::<Result<_, _>>()?;
    let outputs = stage.outputs.iter().map(|name| match describe(name) {
        Some(info) => value_info(&info),
        None => untyped(name),
    });
    let outputs = outputs.collect();
    let nodes: Vec<&NodeProto> = stage.nodes.iter().map(|&n| &network.nodes[n].proto).collect();
    let reads = stage.nodes.iter().flat_map(|&n| network.nodes[n].reads()).collect();
    let graph = GraphProto {
        name: Some(format!("{}_stage_{}", network.graph_name, stage.index)),
        node: nodes.into_iter().cloned().collect(),
        input: inputs,
        output: outputs,
        ..Default::default()
    };
    Ok(with_constants(network, graph, &reads))
}

/// The whole prepared network as one model that gives, besides its outputs, the tensors `extra` (network inputs and
/// outputs among them are left out). Their types need not be known: the engine finds them.
pub fn whole(network: &Network, extra: &[&str]) -> Slice {
    let mut listed: BTreeSet<&str> = network.outputs.iter().map(String::as_str).collect();
    listed.extend(network.inputs.iter().map(|i| i.name.as_str()));
    let stated = network.outputs.iter().map(|name| match network.types.get(name) {
        Some(known) => ValueInfoProto { r#type: Some(known.clone()), ..untyped(name) },
        None => untyped(name),
    });
    let more = extra.iter().filter(|name| listed.insert(name)).map(|name| untyped(name));
    let graph = GraphProto {
        name: Some(network.graph_name.clone()),
        node: network.nodes.iter().map(|n| n.proto.clone()).collect(),
        input: network.inputs.iter().map(|i| i.value_info()).collect(),
        output: stated.chain(more).collect(),
        ..Default::default()
    };
    let reads = network.nodes.iter().flat_map(|n| n.reads()).collect();
    with_constants(network, graph, &reads)
}

impl Network {
    /// [`whole`] with every constant inside the model.
    pub fn model_with_outputs(&self, extra: &[&str]) -> ModelProto {
        whole(self, extra).embedded()
    }
}

impl Slice {
    /// The same model with every constant inside it, for an engine that is given no weights section.
    pub fn embedded(&self) -> ModelProto {
        let data: HashMap<u64, &Bytes> = self.weights.iter().map(|w| (w.offset, &w.data)).collect();
        let mut model = self.model.clone();
        for tensor in model.graph.iter_mut().flat_map(|g| &mut g.initializer) {
            let entry = tensor.external_data.iter().find(|e| e.key() == "offset");
            let Some(bytes) = entry.and_then(|e| data.get(&e.value().parse().ok()?)) else { continue };
            tensor.raw_data = Some((*bytes).clone());
            tensor.data_location = None;
            tensor.external_data.clear();
        }
        model
    }

    /// The weights section as one buffer.
    pub fn weights_section(&self) -> Vec<u8> {
        let mut section = Vec::with_capacity(self.weights_len as usize);
        for weight in &self.weights {
            section.resize(weight.offset as usize, 0);
            section.extend_from_slice(&weight.data);
        }
        section
    }
}

/// Puts the constants among `reads` into `graph`: small ones inline, large ones as external data.
fn with_constants(network: &Network, mut graph: GraphProto, reads: &BTreeSet<&str>) -> Slice {
    let mut section = Section::default();
    for name in reads {
        if let Some(tensor) = network.initializers.get(*name) {
            graph.initializer.push(match is_inline(tensor) {
                true => tensor.clone(),
                false => section.put(tensor),
            });
        }
        if let Some(sparse) = network.sparse.get(*name) {
            graph.sparse_initializer.push(sparse.clone());
        }
    }
    Slice { model: network.with_graph(graph), weights: section.weights, weights_len: section.len }
}

fn is_inline(tensor: &TensorProto) -> bool {
    let len = tensor.raw_data().len();
    let integers = matches!(DataType::try_from(tensor.data_type()), Ok(DataType::Int64 | DataType::Int32));
    // Types that no frame carries (FLOAT8, INT4, complex) have no size that a reader of the section could check.
    let unsized_type = DType::from_onnx(tensor.data_type()).is_none();
    unsized_type || len < INLINE_BELOW || (integers && tensor.dims.len() <= 1 && len <= INLINE_INTEGERS)
}

/// The weights section as it fills.
#[derive(Default)]
struct Section {
    weights: Vec<Weight>,
    len: u64,
    /// Weights of each length, to find equal ones.
    by_len: HashMap<usize, Vec<usize>>,
}

impl Section {
    /// `tensor` as external data in this section.
    fn put(&mut self, tensor: &TensorProto) -> TensorProto {
        let data = tensor.raw_data.clone().unwrap_or_default();
        let same = self.by_len.entry(data.len()).or_default();
        let length = data.len();
        let offset = match same.iter().find(|&&w| self.weights[w].data == data) {
            Some(&known) => self.weights[known].offset,
            None => {
                let offset = self.len.next_multiple_of(WEIGHTS_ALIGNMENT);
                self.len = offset + length as u64;
                same.push(self.weights.len());
                self.weights.push(Weight { name: tensor.name().to_owned(), data, offset });
                offset
            }
        };
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
        TensorProto {
            name: tensor.name.clone(),
            dims: tensor.dims.clone(),
            data_type: tensor.data_type,
            data_location: Some(DataLocation::External as i32),
            external_data: vec![
                entry("location", WEIGHTS_LOCATION.to_owned()),
                entry("offset", offset.to_string()),
                entry("length", length.to_string()),
            ],
            ..Default::default()
        }
    }
}

fn untyped(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.to_owned()), ..Default::default() }
}

fn value_info(info: &TensorInfo) -> ValueInfoProto {
    // An open dimension has neither value nor symbol: symbols of different slices mean nothing to each other.
    let dim =
        |&size: &i64| Dimension { value: (size >= 0).then_some(dimension::Value::DimValue(size)), denotation: None };
    tensor_value(&info.name, info.dtype, TensorShapeProto { dim: info.shape.iter().map(dim).collect() })
}
