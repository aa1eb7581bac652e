//! An ONNX graph, node by node, and how it becomes a file.

use super::parameter::{Drawn, Parameter, Values};
use bytes::Bytes;
use defer_partition::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use defer_partition::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};
use defer_partition::{DType, Dim};
use prost::Message;
use std::io::{self, Write};

/// ONNX 1.12: old enough for every engine.
const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;
/// Protobuf keys of `ModelProto.graph` (field 7) and `GraphProto.initializer` (field 5): a length and a message.
const GRAPH: u8 = 7 << 3 | 2;
const INITIALIZER: u8 = 5 << 3 | 2;

pub(super) struct Graph {
    /// Without initializers.
    proto: GraphProto,
    parameters: Vec<Parameter>,
}

impl Graph {
    pub(super) fn new(name: &str) -> Self {
        let proto = GraphProto { name: Some(name.to_owned()), ..Default::default() };
        Self { proto, parameters: Vec::new() }
    }

    pub(super) fn input(&mut self, name: &str, dtype: DType, dims: &[Dim]) {
        self.proto.input.push(value_info(name, dtype, dims));
    }

    pub(super) fn output(&mut self, name: &str, dtype: DType, dims: &[Dim]) {
        self.proto.output.push(value_info(name, dtype, dims));
    }

    /// Adds a node that is named like its output, and gives that name.
    pub(super) fn node(
        &mut self,
        operator: &str,
        output: &str,
        inputs: &[&str],
        attribute: Vec<AttributeProto>,
    ) -> String {
        self.proto.node.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            name: Some(output.to_owned()),
            op_type: Some(operator.to_owned()),
            attribute,
            ..Default::default()
        });
        output.to_owned()
    }

    /// Adds FP32 constants and gives their name.
    pub(super) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.parameter(name, DType::Fp32, shape, Values::Kept(raw.into()))
    }

    /// Adds INT64 constants and gives their name.
    pub(super) fn integers(&mut self, name: &str, shape: &[usize], values: &[i64]) -> String {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.parameter(name, DType::Int64, shape, Values::Kept(Bytes::from(raw)))
    }

    /// Adds random FP32 constants and gives their name.
    pub(super) fn drawn(&mut self, name: &str, shape: &[usize], values: Drawn) -> String {
        self.parameter(name, DType::Fp32, shape, Values::Drawn(values))
    }

    fn parameter(&mut self, name: &str, dtype: DType, shape: &[usize], values: Values) -> String {
        self.parameters.push(Parameter::new(name, dtype, shape, values));
        name.to_owned()
    }

    /// Writes the model file that `ModelProto::encode` would write, one parameter after the other; its metadata says
    /// that it is untrained.
    pub(super) fn write(self, about: &str, out: &mut dyn Write) -> io::Result<()> {
        let Self { proto, parameters } = self;
        // Fields are encoded in the order of their numbers: what comes before the initializers, and what after.
        let (node, name) = (proto.node, proto.name);
        let graph_start = GraphProto { node, name, ..Default::default() }.encode_to_vec();
        let graph_end = GraphProto { input: proto.input, output: proto.output, ..Default::default() }.encode_to_vec();
        let framed = |parameter: &Parameter| {
            let len = parameter.encoded_len();
            1 + prost::length_delimiter_len(len) + len
        };
        let graph_len = graph_start.len() + parameters.iter().map(framed).sum::<usize>() + graph_end.len();
        let start = ModelProto {
            ir_version: Some(IR_VERSION),
            producer_name: Some("defer-models".to_owned()),
            doc_string: Some(about.to_owned()),
            ..Default::default()
        };
        let end = ModelProto {
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
            metadata_props: vec![StringStringEntryProto {
                key: Some("trained".to_owned()),
                value: Some("false".to_owned()),
            }],
            ..Default::default()
        };

        out.write_all(&start.encode_to_vec())?;
        out.write_all(&frame(GRAPH, graph_len))?;
        out.write_all(&graph_start)?;
        for parameter in &parameters {
            out.write_all(&frame(INITIALIZER, parameter.encoded_len()))?;
            parameter.write(out)?;
        }
        out.write_all(&graph_end)?;
        out.write_all(&end.encode_to_vec())
    }
}

/// What precedes a message of `len` bytes.
fn frame(key: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![key];
    prost::encode_length_delimiter(len, &mut bytes).expect("a vector has room");
    bytes
}

fn value_info(name: &str, dtype: DType, dims: &[Dim]) -> ValueInfoProto {
    let value = |dim: &Dim| match dim {
        Dim::Fixed(size) => Some(dimension::Value::DimValue(*size as i64)),
        Dim::Symbol(symbol) => Some(dimension::Value::DimParam(symbol.clone())),
        Dim::Unknown => None,
    };
    let dim = dims.iter().map(|dim| Dimension { value: value(dim), ..Default::default() }).collect();
    let tensor = type_proto::Tensor { elem_type: Some(dtype.onnx()), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    #[test]
    fn the_file_is_what_a_protobuf_library_writes() {
        let mut graph = Graph::new("g");
        graph.input("x", DType::Fp32, &[Dim::Symbol("N".into()), Dim::Unknown, Dim::Fixed(3)]);
        // Lengths that take one, two and three bytes.
        graph.floats("small", &[1], &[0.5]);
        graph.integers("shape", &[2], &[0, -1]);
        graph.drawn("large", &[9, 900], Drawn { random: Random::new(1), row: 900, deviations: vec![1.0; 9] });
        graph.node("Identity", "y", &["x"], vec![]);
        graph.output("y", DType::Fp32, &[]);
        let mut file = Vec::new();
        graph.write("about", &mut file).unwrap();
        let model = ModelProto::decode(&file[..]).unwrap();
        assert_eq!(model.encode_to_vec(), file);
        let initializers = &model.graph.as_ref().unwrap().initializer;
        let lengths: Vec<_> = initializers.iter().map(|tensor| tensor.raw_data().len()).collect();
        assert_eq!(lengths, [4, 16, 9 * 900 * 4]);
    }
}
