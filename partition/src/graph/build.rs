//! From the file's graph to a [`Network`].

use super::{Dim, GraphError, InputInfo, Network, Node};
use crate::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, TypeProto, ValueInfoProto,
    tensor_proto::DataType,
    tensor_shape_proto::dimension,
    type_proto::{self, Value},
};
use crate::onnx::{normalise, tensor_of};
use crate::tensor::{DType, Tensor};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Initializers count as constants of their own only since this IR version; before, each had to be an input as well.
const IR_WITH_PLAIN_INITIALIZERS: i64 = 4;

impl Network {
    /// Prepares `model` for cutting; it must hold all its tensors itself, as [`crate::onnx::read`] gives it.
    ///
    /// Nodes are sorted, `Constant` nodes become initializers, `Identity` nodes vanish where nothing needs them, and
    /// whatever leads to no output is dropped. Inputs that the file also gives a value for are constants.
    pub fn new(mut model: ModelProto) -> Result<Self, GraphError> {
        normalise(&mut model)?;
        let graph = model.graph.take().ok_or(GraphError::NoGraph)?;
        let ir = model.ir_version().max(IR_WITH_PLAIN_INITIALIZERS);
        let header = ModelProto {
            ir_version: Some(ir),
            opset_import: model.opset_import,
            producer_name: model.producer_name,
            producer_version: model.producer_version,
            domain: model.domain,
            model_version: model.model_version,
            metadata_props: model.metadata_props,
            functions: model.functions,
            ..Default::default()
        };
        let mut network = Self {
            header,
            graph_name: graph.name().to_owned(),
            nodes: Vec::new(),
            initializers: BTreeMap::new(),
            sparse: BTreeMap::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            types: types(&graph),
            aliases: BTreeMap::new(),
        };
        network.add_constants(&graph)?;
        network.add_interface(&graph)?;
        for proto in graph.node {
            match constant(&proto, network.is_onnx(&proto)) {
                Some(Constant::Dense(tensor)) => network.add_dense(*tensor)?,
                Some(Constant::Sparse(name, sparse)) => {
                    if network.sparse.insert(name.clone(), *sparse).is_some() {
                        return Err(GraphError::Twice { name });
                    }
                }
                None => network.nodes.push(Node::new(proto)),
            }
        }
        network.check_names()?;
        network.materialise_outputs();
        network.sort()?;
        network.drop_identities();
        network.drop_dead();
        if network.nodes.is_empty() {
            return Err(GraphError::Empty);
        }
        Ok(network)
    }

    fn is_onnx(&self, proto: &NodeProto) -> bool {
        matches!(proto.domain(), "" | "ai.onnx")
    }

    fn add_constants(&mut self, graph: &GraphProto) -> Result<(), GraphError> {
        for tensor in &graph.initializer {
            self.add_dense(tensor.clone())?;
        }
        for sparse in &graph.sparse_initializer {
            let name = sparse.values.as_ref().map(|v| v.name().to_owned()).unwrap_or_default();
            if self.sparse.insert(name.clone(), sparse.clone()).is_some() {
                return Err(GraphError::Twice { name });
            }
        }
        Ok(())
    }

    fn add_dense(&mut self, tensor: TensorProto) -> Result<(), GraphError> {
        let name = tensor.name().to_owned();
        match self.initializers.insert(name.clone(), tensor) {
            Some(_) => Err(GraphError::Twice { name }),
            None => Ok(()),
        }
    }

    fn add_interface(&mut self, graph: &GraphProto) -> Result<(), GraphError> {
        for value in &graph.input {
            if !self.is_constant(value.name()) {
                self.inputs.push(input(value)?);
            }
        }
        for value in &graph.output {
            if let Some(r#type) = &value.r#type {
                // An output may have no type at all: then the engine says what it is.
                if r#type.value.is_some() {
                    tensor_type("output", value.name(), r#type)?;
                }
            }
            self.outputs.push(value.name().to_owned());
        }
        if self.outputs.is_empty() {
            return Err(GraphError::NoOutputs);
        }
        Ok(())
    }

    /// Checks that every name is defined once, and before anything that reads it, wherever that is in the file.
    fn check_names(&self) -> Result<(), GraphError> {
        let mut known = HashSet::new();
        let constants = self.initializers.keys().chain(self.sparse.keys()).map(String::as_str);
        let inputs = self.inputs.iter().map(|i| i.name.as_str());
        let written = self.nodes.iter().flat_map(Node::writes);
        for name in constants.chain(inputs).chain(written) {
            if !known.insert(name) {
                return Err(GraphError::Twice { name: name.to_owned() });
            }
        }
        for node in &self.nodes {
            if let Some(name) = node.reads().find(|n| !known.contains(n)) {
                return Err(GraphError::Missing { node: node.label(), name: name.to_owned() });
            }
        }
        let mut listed = HashSet::new();
        for name in &self.outputs {
            if !known.contains(name.as_str()) {
                return Err(GraphError::MissingOutput { name: name.clone() });
            }
            if !listed.insert(name) {
                return Err(GraphError::Twice { name: name.clone() });
            }
        }
        Ok(())
    }
}

fn types(graph: &GraphProto) -> HashMap<String, TypeProto> {
    let values = graph.value_info.iter().chain(&graph.input).chain(&graph.output);
    values.filter_map(|v| Some((v.name().to_owned(), v.r#type.clone()?))).collect()
}

fn input(value: &ValueInfoProto) -> Result<InputInfo, GraphError> {
    let name = value.name().to_owned();
    let rank = || GraphError::Rank { name: name.clone() };
    let (dtype, tensor) = tensor_type("input", &name, value.r#type.as_ref().ok_or_else(rank)?)?;
    let shape = tensor.shape.as_ref().ok_or_else(rank)?;
    let dims = shape.dim.iter().map(|dim| match &dim.value {
        // Some exporters write -1 for "any".
        Some(dimension::Value::DimValue(size)) => usize::try_from(*size).map_or(Dim::Unknown, Dim::Fixed),
        Some(dimension::Value::DimParam(symbol)) if !symbol.is_empty() => Dim::Symbol(symbol.clone()),
        _ => Dim::Unknown,
    });
    let dims = dims.collect();
    Ok(InputInfo { name, dtype, dims })
}

/// The element type of a value that enters or leaves the network.
fn tensor_type<'a>(
    role: &'static str,
    name: &str,
    r#type: &'a TypeProto,
) -> Result<(DType, &'a type_proto::Tensor), GraphError> {
    let what = match &r#type.value {
        Some(Value::TensorType(tensor)) => {
            let number = tensor.elem_type();
            return match DType::from_onnx(number) {
                Some(dtype) => Ok((dtype, tensor)),
                None => {
                    let dtype =
                        DataType::try_from(number).map_or_else(|_| number.to_string(), |d| d.as_str_name().to_owned());
                    Err(GraphError::DataType { role, name: name.to_owned(), dtype })
                }
            };
        }
        Some(Value::SequenceType(_)) => "a sequence",
        Some(Value::MapType(_)) => "a map",
        Some(Value::OptionalType(_)) => "an optional value",
        Some(Value::SparseTensorType(_)) => "a sparse tensor",
        Some(Value::OpaqueType(_)) => "an opaque value",
        None => "of no stated type",
    };
    Err(GraphError::NotATensor { role, name: name.to_owned(), what })
}

enum Constant {
    Dense(Box<TensorProto>),
    Sparse(String, Box<SparseTensorProto>),
}

/// The value of a `Constant` node under the name of its output.
fn constant(node: &NodeProto, is_onnx: bool) -> Option<Constant> {
    if !is_onnx || node.op_type() != "Constant" {
        return None;
    }
    let name = node.output.first()?;
    let attribute = node.attribute.first()?;
    let dense =
        |tensor: TensorProto| Some(Constant::Dense(Box::new(TensorProto { name: Some(name.clone()), ..tensor })));
    let floats = |shape: Vec<usize>, values: &[f32]| dense(tensor_of(name, Tensor::from_f32(shape, values)?));
    let ints = |shape: Vec<usize>, values: &[i64]| {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        dense(tensor_of(name, Tensor::new(DType::Int64, shape, data)?))
    };
    let strings = |dims: Vec<i64>, values: &[Bytes]| {
        let data_type = Some(DataType::String as i32);
        dense(TensorProto { dims, data_type, string_data: values.to_vec(), ..Default::default() })
    };
    let AttributeProto { t, sparse_tensor, s, .. } = attribute;
    match attribute.name() {
        "value" => dense(t.clone()?),
        "value_float" => floats(vec![], &[attribute.f()]),
        "value_floats" => floats(vec![attribute.floats.len()], &attribute.floats),
        "value_int" => ints(vec![], &[attribute.i()]),
        "value_ints" => ints(vec![attribute.ints.len()], &attribute.ints),
        "value_string" => strings(vec![], &[s.clone().unwrap_or_default()]),
        "value_strings" => strings(vec![attribute.strings.len() as i64], &attribute.strings),
        "sparse_value" => {
            let mut sparse = sparse_tensor.clone()?;
            sparse.values.as_mut()?.name = Some(name.clone());
            Some(Constant::Sparse(name.clone(), Box::new(sparse)))
        }
        _ => None,
    }
}
