//! Mutations of an ONNX model, field by field, so that it stays one that can be decoded.

use super::{WORDS, number};
use defer_partition::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto,
    attribute_proto::AttributeType, type_proto::Value,
};
use defer_partition::testing::Random;

const OPERATORS: [&str; 24] = [
    "Add",
    "Mul",
    "Sub",
    "Div",
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "BatchNormalization",
    "Identity",
    "Constant",
    "Reshape",
    "Shape",
    "Gather",
    "Concat",
    "Relu",
    "Cast",
    "If",
    "Loop",
    "Split",
    "SequenceConstruct",
    "Pad",
    "DequantizeLinear",
    "Optional",
];
const ATTRIBUTES: [&str; 16] = [
    "group",
    "transB",
    "beta",
    "epsilon",
    "axis",
    "to",
    "value",
    "value_float",
    "value_floats",
    "value_ints",
    "value_string",
    "sparse_value",
    "then_branch",
    "body",
    "training_mode",
    "perm",
];
const LOCATIONS: [&str; 6] = ["weights", "weights/..", "/etc/passwd", "", "stage.wasm", "../weights"];

pub fn mutate(random: &mut Random, model: &mut ModelProto) {
    match random.below(24) {
        0 => model.ir_version = Some(number(random) as i64),
        1 => {
            if let Some(opset) = model.opset_import.first_mut() {
                opset.version = Some(number(random) as i64);
            }
        }
        2 => model.graph = None,
        3 => {
            // A function of the graph's own nodes.
            let node = model.graph.iter().flat_map(|graph| graph.node.clone()).take(3).collect();
            model.functions.push(defer_partition::onnx::proto::FunctionProto {
                name: Some(pick(random, &OPERATORS).into()),
                domain: Some(String::new()),
                node,
                ..Default::default()
            });
        }
        _ => model.graph.iter_mut().for_each(|graph| of_graph(random, graph)),
    }
}

fn pick<'a>(random: &mut Random, words: &[&'a str]) -> &'a str {
    words[random.below(words.len())]
}

/// A name that the graph has, or hardly ever one that it has not.
fn name(random: &mut Random, graph: &GraphProto) -> String {
    let nodes = graph.node.iter().flat_map(|node| node.input.iter().chain(&node.output)).map(String::as_str);
    let values = graph.input.iter().chain(&graph.output).map(ValueInfoProto::name);
    let all: Vec<&str> = nodes.chain(values).chain(graph.initializer.iter().map(TensorProto::name)).collect();
    match random.below(12) {
        0 => pick(random, &WORDS).to_owned(),
        1 => String::new(),
        _ if all.is_empty() => "x".to_owned(),
        _ => all[random.below(all.len())].to_owned(),
    }
}

fn of_graph(random: &mut Random, graph: &mut GraphProto) {
    let new = name(random, graph);
    let inner = graph.clone();
    match random.below(9) {
        0 | 1 if !graph.node.is_empty() => {
            let at = random.below(graph.node.len());
            of_node(random, &mut graph.node[at], new, inner);
        }
        2 if !graph.node.is_empty() => {
            let (from, to) = (random.below(graph.node.len()), random.below(graph.node.len()));
            match random.below(3) {
                0 => graph.node.swap(from, to),
                1 => drop(graph.node.remove(from)),
                _ => {
                    // As it is its results are made twice; under another name it is one more node.
                    let mut copy = graph.node[from].clone();
                    if random.below(2) == 0 {
                        copy.output.iter_mut().for_each(|output| output.push('\''));
                    }
                    graph.node.insert(to, copy);
                }
            }
        }
        3..=5 if !graph.initializer.is_empty() => {
            let at = random.below(graph.initializer.len());
            of_tensor(random, &mut graph.initializer[at], new);
        }
        6 if !graph.input.is_empty() => {
            let at = random.below(graph.input.len());
            of_value(random, &mut graph.input[at], new);
        }
        7 if !graph.output.is_empty() => {
            let at = random.below(graph.output.len());
            of_value(random, &mut graph.output[at], new);
        }
        _ => graph.output.push(ValueInfoProto { name: Some(new), ..Default::default() }),
    }
}

fn of_node(random: &mut Random, node: &mut NodeProto, new: String, graph: GraphProto) {
    match random.below(6) {
        0 if !node.input.is_empty() => {
            let at = random.below(node.input.len());
            node.input[at] = new;
        }
        1 if !node.output.is_empty() => {
            let at = random.below(node.output.len());
            node.output[at] = new;
        }
        2 => node.op_type = Some(pick(random, &OPERATORS).into()),
        3 => node.input.push(new),
        4 => node.domain = Some(["", "ai.onnx", "org.example"][random.below(3)].into()),
        _ => {
            let attribute = attribute(random, graph);
            match node.attribute.first_mut() {
                Some(first) if random.below(2) == 0 => *first = attribute,
                _ => node.attribute.push(attribute),
            }
        }
    }
}

/// An attribute of any kind; a graph inside is the whole one around it.
fn attribute(random: &mut Random, graph: GraphProto) -> AttributeProto {
    let mut attribute = AttributeProto { name: Some(pick(random, &ATTRIBUTES).into()), ..Default::default() };
    let kind = match random.below(5) {
        0 => {
            attribute.i = Some(number(random) as i64);
            AttributeType::Int
        }
        1 => {
            attribute.f = Some(f32::from_bits(number(random) as u32));
            AttributeType::Float
        }
        2 => {
            attribute.ints = (0..random.below(5)).map(|_| number(random) as i64).collect();
            attribute.floats = (0..random.below(5)).map(|_| f32::from_bits(number(random) as u32)).collect();
            AttributeType::Ints
        }
        3 => {
            attribute.t = graph.initializer.first().cloned();
            attribute.t.iter_mut().for_each(|tensor| of_tensor(random, tensor, "t".into()));
            AttributeType::Tensor
        }
        _ => {
            attribute.g = Some(graph);
            AttributeType::Graph
        }
    };
    attribute.r#type = Some(kind as i32);
    attribute
}

fn of_tensor(random: &mut Random, tensor: &mut TensorProto, new: String) {
    let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    match random.below(8) {
        0 => tensor.name = Some(new),
        1 => tensor.dims.push([0, 1, 1, -1, number(random) as i64][random.below(5)]),
        2 if !tensor.dims.is_empty() => {
            let at = random.below(tensor.dims.len());
            tensor.dims[at] = number(random) as i64;
        }
        3 => tensor.data_type = Some(random.below(26) as i32),
        4 => tensor.raw_data = Some(vec![number(random) as u8; random.below(64)].into()),
        5 => tensor.data_location = Some(random.below(3) as i32),
        6 => tensor.external_data.push(match random.below(3) {
            0 => entry("location", pick(random, &LOCATIONS).into()),
            1 => entry(["offset", "length", "checksum"][random.below(3)], number(random).to_string()),
            _ => entry("offset", pick(random, &WORDS).into()),
        }),
        _ => {
            let at = random.below(tensor.external_data.len().max(1));
            let value = if random.below(3) == 0 { pick(random, &LOCATIONS).into() } else { number(random).to_string() };
            tensor.external_data.iter_mut().skip(at).take(1).for_each(|entry| entry.value = Some(value.clone()));
        }
    }
}

fn of_value(random: &mut Random, value: &mut ValueInfoProto, new: String) {
    let tensor = value.r#type.as_mut().and_then(|of| match of.value.as_mut() {
        Some(Value::TensorType(tensor)) => Some(tensor),
        _ => None,
    });
    match (random.below(5), tensor) {
        (0, _) => value.name = Some(new),
        (1, _) => value.r#type = None,
        (2, Some(tensor)) => tensor.elem_type = Some(random.below(26) as i32),
        (3, Some(tensor)) => tensor.shape = None,
        (_, Some(tensor)) => {
            for dim in tensor.shape.iter_mut().flat_map(|shape| &mut shape.dim).take(1) {
                *dim = Default::default();
            }
        }
        (_, None) => value.name = Some(new),
    }
}
