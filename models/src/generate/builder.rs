//! Writes an ONNX graph node by node, with random weights and statistics measured on made-up pictures.

use super::maps::{Maps, Window};
use super::random::Random;
use bytes::Bytes;
use defer_partition::DType;
use defer_partition::onnx::proto::attribute_proto::AttributeType;
use defer_partition::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use defer_partition::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use prost::Message;

/// ONNX 1.12: old enough for every engine.
const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;
const EPSILON: f32 = 1e-5;

/// A tensor in the making: its name, and what it holds for the pictures that statistics are measured on.
pub(super) struct Value {
    name: String,
    maps: Maps,
}

impl Value {
    pub(super) fn channels(&self) -> usize {
        self.maps.channels()
    }
}

pub(super) struct Builder {
    graph: GraphProto,
    random: Random,
}

impl Builder {
    pub(super) fn new(name: &str, seed: u64) -> Self {
        Self { graph: GraphProto { name: Some(name.to_owned()), ..Default::default() }, random: Random::new(seed) }
    }

    /// An input of shape \[N, channels, side, side\], normalised as ImageNet pictures are.
    pub(super) fn picture(&mut self, name: &str, channels: usize, side: usize) -> Value {
        self.graph.input.push(value_info(name, &[channels, side, side]));
        Value { name: name.to_owned(), maps: Maps::pictures(channels, &mut self.random) }
    }

    /// A convolution without bias, its weights scaled after He et al., 2015 (<https://arxiv.org/abs/1502.01852>).
    pub(super) fn conv(&mut self, name: &str, input: &Value, out: usize, window: Window) -> Value {
        let inputs = input.channels();
        let size = window.size;
        let deviation = (2.0 / (inputs * size * size) as f64).sqrt();
        let weights = self.normal(out * inputs * size * size, deviation);
        let parameter = self.parameter(name, "weight", &[out, inputs, size, size], &weights);
        self.node("Conv", name, &[&input.name, &parameter], sliding(window));
        Value { name: name.to_owned(), maps: input.maps.conv(&weights, out, window) }
    }

    /// BatchNormalization with statistics near those of `input`, scales around `scale` and shifts around 0.
    pub(super) fn batch_norm(&mut self, name: &str, input: Value, scale: f64) -> Value {
        let channels = input.channels();
        let scales: Vec<f32> = (0..channels).map(|_| (scale * (0.5 + self.random.uniform())) as f32).collect();
        let shifts = self.normal(channels, 0.2 * scale);
        let (mut means, mut variances) = (Vec::with_capacity(channels), Vec::with_capacity(channels));
        for (mean, variance) in input.maps.statistics() {
            // A trained network's statistics never quite fit the next picture either.
            means.push((mean + 0.1 * variance.sqrt() * self.random.normal()) as f32);
            variances.push((variance * (0.8 + 0.4 * self.random.uniform())) as f32);
        }
        let mut inputs = vec![input.name];
        for (role, values) in [("scale", &scales), ("bias", &shifts), ("mean", &means), ("var", &variances)] {
            inputs.push(self.parameter(name, role, &[channels], values));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.node("BatchNormalization", name, &inputs, vec![float("epsilon", EPSILON)]);
        let applied: Vec<(f32, f32)> = (0..channels)
            .map(|i| {
                let factor = scales[i] / (variances[i] + EPSILON).sqrt();
                (factor, shifts[i] - means[i] * factor)
            })
            .collect();
        Value { name: name.to_owned(), maps: input.maps.affine(&applied) }
    }

    pub(super) fn relu(&mut self, name: &str, input: Value) -> Value {
        self.node("Relu", name, &[&input.name], vec![]);
        Value { name: name.to_owned(), maps: input.maps.relu() }
    }

    pub(super) fn add(&mut self, name: &str, a: Value, b: &Value) -> Value {
        self.node("Add", name, &[&a.name, &b.name], vec![]);
        Value { name: name.to_owned(), maps: a.maps.add(&b.maps) }
    }

    pub(super) fn max_pool(&mut self, name: &str, input: &Value, window: Window) -> Value {
        self.node("MaxPool", name, &[&input.name], sliding(window));
        Value { name: name.to_owned(), maps: input.maps.max_pool(window) }
    }

    /// \[N, C, H, W\] → \[N, C\]
    pub(super) fn average_and_flatten(&mut self, name: &str, flat: &str, input: &Value) -> Value {
        self.node("GlobalAveragePool", name, &[&input.name], vec![]);
        self.node("Flatten", flat, &[name], vec![int("axis", 1)]);
        Value { name: flat.to_owned(), maps: input.maps.average() }
    }

    /// A fully connected layer, the network's output; its values have mean 0 and standard deviation `deviation`.
    pub(super) fn dense(&mut self, name: &str, output: &str, input: &Value, out: usize, deviation: f64) {
        let inputs = input.channels();
        let mut weights = self.normal(out * inputs, 1.0);
        let statistics = input.maps.conv(&weights, out, Window::POINT).statistics();
        let variance = statistics.iter().map(|(_, variance)| variance).sum::<f64>() / out as f64;
        let scale = deviation / variance.sqrt();
        weights.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * scale) as f32);
        let bias: Vec<f32> =
            statistics.iter().map(|(mean, _)| (0.1 * deviation * self.random.normal() - mean * scale) as f32).collect();
        let weight = self.parameter(name, "weight", &[out, inputs], &weights);
        let bias = self.parameter(name, "bias", &[out], &bias);
        self.node("Gemm", output, &[&input.name, &weight, &bias], vec![int("transB", 1)]);
        self.graph.output.push(value_info(output, &[out]));
    }

    /// The finished file.
    pub(super) fn finish(self, about: &str, metadata: &[(&str, &str)]) -> Vec<u8> {
        let property = |&(key, value): &(&str, &str)| StringStringEntryProto {
            key: Some(key.to_owned()),
            value: Some(value.to_owned()),
        };
        let model = ModelProto {
            ir_version: Some(IR_VERSION),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
            producer_name: Some("defer-models".to_owned()),
            doc_string: Some(about.to_owned()),
            graph: Some(self.graph),
            metadata_props: metadata.iter().map(property).collect(),
            ..Default::default()
        };
        model.encode_to_vec()
    }

    fn normal(&mut self, count: usize, deviation: f64) -> Vec<f32> {
        (0..count).map(|_| (self.random.normal() * deviation) as f32).collect()
    }

    /// Adds an initializer and gives its name.
    fn parameter(&mut self, layer: &str, role: &str, shape: &[usize], values: &[f32]) -> String {
        let name = format!("{layer}_{role}");
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.graph.initializer.push(TensorProto {
            dims: shape.iter().map(|&dim| dim as i64).collect(),
            data_type: Some(DType::Fp32.onnx()),
            name: Some(name.clone()),
            raw_data: Some(Bytes::from(raw)),
            ..Default::default()
        });
        name
    }

    /// Adds a node that is named like its output.
    fn node(&mut self, operator: &str, output: &str, inputs: &[&str], attribute: Vec<AttributeProto>) {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            name: Some(output.to_owned()),
            op_type: Some(operator.to_owned()),
            attribute,
            ..Default::default()
        });
    }
}

/// FP32 \[N, dims…\]
fn value_info(name: &str, dims: &[usize]) -> ValueInfoProto {
    let batch = dimension::Value::DimParam("N".to_owned());
    let fixed = dims.iter().map(|&dim| dimension::Value::DimValue(dim as i64));
    let dim = std::iter::once(batch).chain(fixed).map(|value| Dimension { value: Some(value), ..Default::default() });
    let tensor = type_proto::Tensor {
        elem_type: Some(DType::Fp32.onnx()),
        shape: Some(TensorShapeProto { dim: dim.collect() }),
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind as i32), ..Default::default() }
}

fn ints(name: &str, values: &[usize]) -> AttributeProto {
    AttributeProto { ints: values.iter().map(|&v| v as i64).collect(), ..attribute(name, AttributeType::Ints) }
}

fn sliding(window: Window) -> Vec<AttributeProto> {
    vec![
        ints("kernel_shape", &[window.size; 2]),
        ints("strides", &[window.stride; 2]),
        ints("pads", &[window.padding; 4]),
    ]
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}
