//! The whole network in the form that everything else works on: nodes in topological order, constants by name.

mod build;
mod prune;
mod subgraph;

use crate::onnx::ValueError;
use crate::onnx::proto::{
    GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};
use crate::tensor::{DType, TensorInfo};
use std::collections::{BTreeMap, HashMap};

pub(crate) use subgraph::{inner_names, rename_reads};

/// Why a model cannot be cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    #[error("the model holds no graph")]
    NoGraph,
    #[error(transparent)]
    Value(#[from] ValueError),
    #[error("the network computes nothing: no node leads to an output")]
    Empty,
    #[error("the network has no outputs")]
    NoOutputs,
    #[error("{role} \"{name}\" is {what}; only dense tensors can enter or leave the network")]
    NotATensor { role: &'static str, name: String, what: &'static str },
    #[error("{role} \"{name}\" has element type {dtype}, which cannot travel between stages")]
    DataType { role: &'static str, name: String, dtype: String },
    #[error("input \"{name}\" has no rank in the model; run shape inference on it, or export it with a shape")]
    Rank { name: String },
    #[error("tensor \"{name}\" is defined twice")]
    Twice { name: String },
    #[error("node {node} reads \"{name}\", which nothing produces")]
    Missing { node: String, name: String },
    #[error("output \"{name}\" is produced by nothing")]
    MissingOutput { name: String },
    #[error("nodes feed each other in a circle, among them {node}")]
    Cycle { node: String },
}

/// One dimension of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    Fixed(usize),
    /// Open, under a name; equal names are equal sizes.
    Symbol(String),
    /// Open, without a name.
    Unknown,
}

/// A tensor that the user gives the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputInfo {
    pub name: String,
    pub dtype: DType,
    pub dims: Vec<Dim>,
}

impl InputInfo {
    /// Name, element type and shape, -1 for open dimensions.
    pub fn info(&self) -> TensorInfo {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size as i64,
            _ => -1,
        };
        TensorInfo { name: self.name.clone(), dtype: self.dtype, shape: self.dims.iter().map(size).collect() }
    }

    /// As the model's own graph declares it, symbols included.
    pub fn value_info(&self) -> ValueInfoProto {
        let dim = |dim: &Dim| Dimension {
            value: match dim {
                Dim::Fixed(size) => Some(dimension::Value::DimValue(*size as i64)),
                Dim::Symbol(symbol) => Some(dimension::Value::DimParam(symbol.clone())),
                Dim::Unknown => None,
            },
            denotation: None,
        };
        let shape = TensorShapeProto { dim: self.dims.iter().map(dim).collect() };
        tensor_value(&self.name, self.dtype, shape)
    }
}

pub(crate) fn tensor_value(name: &str, dtype: DType, shape: TensorShapeProto) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(dtype.onnx()), shape: Some(shape) };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(r#type), ..Default::default() }
}

/// One node and the names it reads inside its subgraphs.
#[derive(Clone, Debug)]
pub struct Node {
    pub proto: NodeProto,
    /// Names of the outer graph that the node's subgraphs read.
    pub captures: Vec<String>,
}

impl Node {
    pub(crate) fn new(proto: NodeProto) -> Self {
        Self { captures: subgraph::captures(&proto), proto }
    }

    /// Every tensor that the node depends on: its inputs that are given, and what its subgraphs capture. Repeats kept.
    pub fn reads(&self) -> impl Iterator<Item = &str> {
        self.proto.input.iter().chain(&self.captures).map(String::as_str).filter(|n| !n.is_empty())
    }

    /// Every tensor that the node produces; omitted outputs left out.
    pub fn writes(&self) -> impl Iterator<Item = &str> {
        self.proto.output.iter().map(String::as_str).filter(|n| !n.is_empty())
    }

    /// Operator type, if it is one of ONNX's own; empty for those of other domains.
    pub fn op(&self) -> &str {
        if self.is_onnx() { self.proto.op_type() } else { "" }
    }

    pub(crate) fn is_onnx(&self) -> bool {
        matches!(self.proto.domain(), "" | "ai.onnx")
    }

    /// What messages call the node: its name, operator and first output.
    pub fn label(&self) -> String {
        let output = self.writes().next().unwrap_or("nothing");
        match self.proto.name() {
            "" => format!("{} producing \"{output}\"", self.proto.op_type()),
            name => format!("\"{name}\" ({} producing \"{output}\")", self.proto.op_type()),
        }
    }

    pub(crate) fn int(&self, name: &str, default: i64) -> i64 {
        self.proto.attribute.iter().find(|a| a.name() == name).map_or(default, |a| a.i())
    }

    pub(crate) fn float(&self, name: &str, default: f32) -> f32 {
        self.proto.attribute.iter().find(|a| a.name() == name).map_or(default, |a| a.f())
    }
}

/// A prepared network: sorted, every constant an initializer, nothing in it that no output needs.
#[derive(Clone, Debug)]
pub struct Network {
    /// The model without its graph: versions, operator sets, functions, metadata.
    pub(crate) header: ModelProto,
    pub(crate) graph_name: String,
    pub(crate) nodes: Vec<Node>,
    pub(crate) initializers: BTreeMap<String, TensorProto>,
    pub(crate) sparse: BTreeMap<String, SparseTensorProto>,
    pub(crate) inputs: Vec<InputInfo>,
    pub(crate) outputs: Vec<String>,
    /// Types that the file states, by tensor name.
    pub(crate) types: HashMap<String, TypeProto>,
    /// Names that the file has and the network no longer has, with the name that stands for each.
    pub(crate) aliases: BTreeMap<String, Alias>,
}

/// What became of a name in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Alias {
    /// The same tensor under another name.
    Same(String),
    /// An intermediate value of an operation that was folded; the tensor that the folded operation produces.
    Absorbed(String),
}

impl Network {
    /// Inputs that the user gives, in the file's order. Some may be read by no node.
    pub fn inputs(&self) -> &[InputInfo] {
        &self.inputs
    }

    /// Names of the outputs, in the file's order.
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// Nodes in topological order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Constants by name, each with its bytes in `raw_data`.
    pub fn initializers(&self) -> &BTreeMap<String, TensorProto> {
        &self.initializers
    }

    /// The entry `key` of the model's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata_props.iter().find(|p| p.key() == key).map(|p| p.value())
    }

    /// All entries of the model's metadata.
    pub fn metadata_props(&self) -> impl Iterator<Item = (&str, &str)> {
        self.header.metadata_props.iter().map(|p| (p.key(), p.value()))
    }

    /// Version of ONNX's own operator set that the model imports; 0 if it imports none.
    pub fn opset(&self) -> i64 {
        let onnx = self.header.opset_import.iter().find(|o| matches!(o.domain(), "" | "ai.onnx"));
        onnx.map_or(0, |o| o.version())
    }

    /// The type that the file states for `tensor`, if it states one.
    pub fn known_type(&self, tensor: &str) -> Option<&TypeProto> {
        self.types.get(tensor)
    }

    /// The network's name of what the file calls `tensor`; `None` if it has no such tensor (any more).
    pub fn resolve(&self, tensor: &str) -> Option<&str> {
        let mut name = tensor;
        // Aliases never form a circle: each points at a name that existed when it was made.
        while let Some(Alias::Same(next) | Alias::Absorbed(next)) = self.aliases.get(name) {
            name = next;
        }
        self.own(name)
    }

    /// `name` as a string that the network owns.
    pub(crate) fn own<'a>(&'a self, name: &str) -> Option<&'a str> {
        let constant = self.initializers.get_key_value(name).map(|(k, _)| k.as_str());
        let sparse = || self.sparse.get_key_value(name).map(|(k, _)| k.as_str());
        let input = || self.inputs.iter().map(|i| i.name.as_str()).find(|n| *n == name);
        constant
            .or_else(sparse)
            .or_else(input)
            .or_else(|| self.nodes.iter().flat_map(Node::writes).find(|n| *n == name))
    }

    /// `name`, or one like it that no tensor has.
    pub(crate) fn free_name(&self, name: &str) -> String {
        let mut name = name.to_owned();
        while self.own(&name).is_some() || self.aliases.contains_key(&name) {
            name.push('_');
        }
        name
    }

    /// Whether `name` is a constant.
    pub fn is_constant(&self, name: &str) -> bool {
        self.initializers.contains_key(name) || self.sparse.contains_key(name)
    }

    /// Bytes of all constants.
    pub fn weights_bytes(&self) -> u64 {
        self.initializers.values().map(|t| t.raw_data().len() as u64).sum()
    }

    /// Node that produces each tensor.
    pub(crate) fn producers(&self) -> HashMap<&str, usize> {
        self.nodes.iter().enumerate().flat_map(|(i, n)| n.writes().map(move |w| (w, i))).collect()
    }

    /// Nodes that read each tensor, ascending, each once.
    pub(crate) fn readers(&self) -> HashMap<&str, Vec<usize>> {
        let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for name in node.reads() {
                let list = readers.entry(name).or_default();
                if list.last() != Some(&index) {
                    list.push(index);
                }
            }
        }
        readers
    }

    /// A model of `graph` with the versions, operator sets and functions of this one; its metadata stays here.
    pub(crate) fn with_graph(&self, graph: GraphProto) -> ModelProto {
        let ModelProto { ir_version, opset_import, functions, producer_name, producer_version, .. } =
            self.header.clone();
        ModelProto {
            ir_version,
            opset_import,
            functions,
            producer_name,
            producer_version,
            graph: Some(graph),
            ..Default::default()
        }
    }
}
