//! Random networks for tests: small, always valid, and full of what makes cutting hard.
//!
//! Public so that other crates can run slices of them on a real engine.

use crate::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_shape_proto::{Dimension, dimension},
};
use crate::onnx::tensor_of;
use crate::tensor::{DType, Tensor};
use std::collections::{BTreeSet, HashSet};

/// splitmix64: a tiny generator that is the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is at least 1.
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end.max(1) as u64) as usize
    }

    /// A number in -1..1 with a short binary fraction, so that sums are often exact.
    pub fn unit(&mut self) -> f32 {
        (self.below(513) as f32 - 256.0) / 256.0
    }
}

/// What the generator needs to know of a value: element type and shape.
type Kind = (DType, &'static [usize]);

const MATRIX: Kind = (DType::Fp32, &[2, 3]);
const TURNED: Kind = (DType::Fp32, &[3, 2]);
const ROW: Kind = (DType::Fp32, &[1, 3]);
const SCALAR: Kind = (DType::Fp32, &[]);
const IMAGE: Kind = (DType::Fp32, &[1, 2, 4, 4]);
const MASK: Kind = (DType::Bool, &[2, 3]);
const FLAG: Kind = (DType::Bool, &[]);
const WHOLE: Kind = (DType::Int64, &[2, 3]);

/// A random network, the same for the same `seed`, with 4 to 33 random steps.
///
/// Operator set 13; every value is a fixed small tensor (2×3 mostly; scalars, images of 2 channels) of FP32, INT64 or
/// BOOL, and inputs in -1..1 keep everything finite. It has several inputs (one of them perhaps unread) and outputs
/// (some made early, perhaps a plain copy of an input or a constant), nodes with several results of which some are
/// unread, dead nodes, constants as initializers of both storage forms and as nodes, copies, omitted optional inputs,
/// subgraphs that capture outer tensors, and convolutions with all that can be folded into them.
pub fn random_model(seed: u64) -> ModelProto {
    let mut b = Builder {
        random: Random::new(seed),
        nodes: Vec::new(),
        initializers: Vec::new(),
        inputs: Vec::new(),
        values: Vec::new(),
        unread: BTreeSet::new(),
        names: 0,
    };
    for index in 0..1 + b.random.below(3) {
        b.input(&format!("in{index}"), MATRIX);
    }
    for (name, kind) in [("image", IMAGE), ("flag", FLAG), ("whole", WHOLE), ("scalar", SCALAR)] {
        if b.random.below(2) == 0 {
            b.input(name, kind);
        }
    }
    for _ in 0..4 + b.random.below(30) {
        b.step();
    }
    b.finish(seed)
}

struct Builder {
    random: Random,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    inputs: Vec<ValueInfoProto>,
    values: Vec<(String, Kind)>,
    /// Which of `values` no node reads.
    unread: BTreeSet<usize>,
    names: usize,
}

impl Builder {
    fn name(&mut self, of: &str) -> String {
        self.names += 1;
        format!("{of}_{}", self.names)
    }

    fn input(&mut self, name: &str, kind: Kind) {
        self.inputs.push(value(name, kind));
        self.value(name, kind);
    }

    fn value(&mut self, name: &str, kind: Kind) {
        self.unread.insert(self.values.len());
        self.values.push((name.to_owned(), kind));
    }

    /// A value of `kind`, preferably one that nothing reads yet, so that little of the network is dead; a new constant
    /// if there is none.
    fn pick(&mut self, kind: Kind) -> String {
        let fitting: Vec<usize> = (0..self.values.len()).filter(|&i| self.values[i].1 == kind).collect();
        if fitting.is_empty() || self.random.below(12) == 0 {
            return self.constant(kind);
        }
        let unread: Vec<usize> = fitting.iter().copied().filter(|i| self.unread.contains(i)).collect();
        let from = if unread.is_empty() || self.random.below(3) == 0 { fitting } else { unread };
        let chosen = from[self.random.below(from.len())];
        self.unread.remove(&chosen);
        self.values[chosen].0.clone()
    }

    fn tensor(&mut self, name: &str, kind: Kind) -> TensorProto {
        let (dtype, shape) = kind;
        let count: usize = shape.iter().product();
        let mut data = Vec::new();
        for _ in 0..count {
            match dtype {
                DType::Int64 => data.extend((self.random.below(7) as i64 - 3).to_le_bytes()),
                DType::Bool => data.push(self.random.below(2) as u8),
                _ => data.extend(self.random.unit().to_le_bytes()),
            }
        }
        let mut tensor = tensor_of(name, Tensor { dtype, shape: shape.to_vec(), data });
        // Half of the float constants use the typed field.
        if dtype == DType::Fp32 && self.random.below(2) == 0 {
            let raw = tensor.raw_data.take().unwrap_or_default();
            let (values, _) = raw.as_chunks::<4>();
            tensor.float_data = values.iter().map(|v| f32::from_le_bytes(*v)).collect();
        }
        tensor
    }

    /// A new constant, as an initializer or as a node.
    fn constant(&mut self, kind: Kind) -> String {
        let name = self.name("const");
        let tensor = self.tensor(&name, kind);
        if self.random.below(3) == 0 {
            let mut node = op("Constant", &[], &[&name]);
            node.attribute.push(AttributeProto { t: Some(tensor), ..attribute("value", AttributeType::Tensor) });
            self.nodes.push(node);
        } else {
            self.initializers.push(tensor);
        }
        name
    }

    fn weights(&mut self, shape: &'static [usize]) -> String {
        let name = self.name("w");
        let tensor = self.tensor(&name, (DType::Fp32, shape));
        self.initializers.push(tensor);
        name
    }

    /// Adds a node with one result of `kind` and gives the result's name.
    fn add(&mut self, op_type: &str, inputs: &[&str], kind: Kind) -> String {
        let name = self.name(&op_type.to_lowercase());
        self.nodes.push(op(op_type, inputs, &[&name]));
        self.value(&name, kind);
        name
    }

    fn with_int(&mut self, name: &str, value: i64) {
        let attribute = AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) };
        self.nodes.last_mut().expect("a node was just added").attribute.push(attribute);
    }

    fn step(&mut self) {
        match self.random.below(17) {
            0 | 1 => {
                let (a, b) = (self.pick(MATRIX), self.pick(MATRIX));
                self.add("Add", &[&a, &b], MATRIX);
            }
            2 => {
                let x = self.pick(MATRIX);
                let gate = self.add("Sigmoid", &[&x], MATRIX);
                self.add("Mul", &[&x, &gate], MATRIX);
            }
            3 => {
                let x = self.pick(MATRIX);
                self.add("Relu", &[&x], MATRIX);
            }
            4 => {
                let (x, w) = (self.pick(MATRIX), self.weights(&[3, 3]));
                let y = self.add("MatMul", &[&x, &w], MATRIX);
                let bias = self.weights(&[3]);
                let y = self.add("Add", &[&y, &bias], MATRIX);
                self.add("Tanh", &[&y], MATRIX);
            }
            5 => {
                let x = self.pick(MATRIX);
                self.add("Transpose", &[&x], TURNED);
            }
            6 => {
                let x = self.pick(TURNED);
                self.add("Transpose", &[&x], MATRIX);
            }
            7 => {
                let x = self.pick(MATRIX);
                let (top, bottom) = (self.name("top"), self.name("bottom"));
                self.nodes.push(op("Split", &[&x], &[&top, &bottom]));
                self.with_int("axis", 0);
                self.value(&top, ROW);
                self.value(&bottom, ROW);
            }
            8 => {
                let (a, b) = (self.pick(ROW), self.pick(ROW));
                self.add("Concat", &[&a, &b], MATRIX);
                self.with_int("axis", 0);
            }
            9 => {
                let (a, b) = (self.pick(MATRIX), self.pick(MATRIX));
                self.add("Greater", &[&a, &b], MASK);
            }
            10 => {
                let (mask, a, b) = (self.pick(MASK), self.pick(MATRIX), self.pick(MATRIX));
                self.add("Where", &[&mask, &a, &b], MATRIX);
            }
            11 => {
                let mask = self.pick(MASK);
                let n = self.add("Cast", &[&mask], WHOLE);
                self.with_int("to", 7);
                let m = self.pick(WHOLE);
                self.add("Add", &[&n, &m], WHOLE);
            }
            12 => {
                // The lower bound is left out: an empty name.
                let (x, high) = (self.pick(MATRIX), self.pick(SCALAR));
                self.add("Clip", &[&x, "", &high], MATRIX);
            }
            13 => {
                let kind = [MATRIX, WHOLE, IMAGE][self.random.below(3)];
                let x = self.pick(kind);
                self.add("Identity", &[&x], kind);
            }
            14 => {
                let x = self.pick(MATRIX);
                self.add("ReduceMean", &[&x], SCALAR);
                self.with_int("keepdims", 0);
            }
            15 => self.conv(),
            _ => self.branch(),
        }
    }

    /// A convolution with some of what is folded into it, and an activation.
    fn conv(&mut self) {
        let (x, w) = (self.pick(IMAGE), self.weights(&[2, 2, 1, 1]));
        let mut y = match self.random.below(2) {
            0 => self.add("Conv", &[&x, &w], IMAGE),
            _ => {
                let bias = self.weights(&[2]);
                self.add("Conv", &[&x, &w, &bias], IMAGE)
            }
        };
        if self.random.below(2) == 0 {
            let [scale, bias, mean] = std::array::from_fn(|_| self.weights(&[2]));
            let variance = self.name("variance");
            let positive = Tensor::from_f32(vec![2], &[0.5, 2.0]).expect("two values");
            self.initializers.push(tensor_of(&variance, positive));
            y = self.add("BatchNormalization", &[&y, &scale, &bias, &mean, &variance], IMAGE);
        }
        if self.random.below(2) == 0 {
            let bias = self.weights(&[1, 2, 1, 1]);
            y = self.add("Add", &[&y, &bias], IMAGE);
        }
        self.add("Tanh", &[&y], IMAGE);
    }

    /// An `If` whose branches read outer tensors, one of them perhaps only in a branch of a branch.
    fn branch(&mut self) {
        let (flag, a, b) = (self.pick(FLAG), self.pick(MATRIX), self.pick(MATRIX));
        let sum = self.name("sum");
        let then = graph(vec![op("Add", &[&a, &b], &[&sum])], &sum);
        let inner = self.name("less");
        let mut otherwise = graph(vec![op("Neg", &[&b], &[&inner])], &inner);
        if self.random.below(2) == 0 {
            let (c, d) = (self.pick(MATRIX), self.name("deep"));
            let deep = graph(vec![op("Abs", &[&c], &[&d])], &d);
            let name = self.name("inner_if");
            otherwise = graph(vec![if_node(&flag, deep, otherwise, &name)], &name);
        }
        let name = self.name("if");
        self.nodes.push(if_node(&flag, then, otherwise, &name));
        self.value(&name, MATRIX);
    }

    fn finish(mut self, seed: u64) -> ModelProto {
        let mut outputs: Vec<(String, Kind)> = Vec::new();
        let made: Vec<(String, Kind)> = self.values.iter().skip(self.inputs.len()).cloned().collect();
        outputs.extend(made.last().cloned());
        for _ in 0..self.random.below(3) {
            if !made.is_empty() {
                outputs.push(made[self.random.below(made.len())].clone());
            }
        }
        // Most of what nothing reads becomes an output; the rest is dead.
        for index in self.unread.clone().into_iter().filter(|&i| i >= self.inputs.len()) {
            if self.random.below(3) > 0 {
                outputs.push(self.values[index].clone());
            }
        }
        if outputs.is_empty() || self.random.below(6) == 0 {
            let x = self.pick(MATRIX);
            outputs.push((self.add("Identity", &[&x], MATRIX), MATRIX));
        }
        if self.random.below(8) == 0 {
            let copied = self.values[0].clone();
            outputs.push((self.add("Identity", &[&copied.0], copied.1), copied.1));
        }
        let mut seen = HashSet::new();
        outputs.retain(|(name, _)| seen.insert(name.clone()));
        let graph = GraphProto {
            name: Some(format!("random_{seed}")),
            node: self.nodes,
            initializer: self.initializers,
            input: self.inputs,
            output: outputs.iter().map(|(name, kind)| value(name, *kind)).collect(),
            ..Default::default()
        };
        ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(13) }],
            graph: Some(graph),
            ..Default::default()
        }
    }
}

/// A node of ONNX's own operators.
pub fn op(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.to_owned()),
        input: inputs.iter().map(|&s| s.to_owned()).collect(),
        output: outputs.iter().map(|&s| s.to_owned()).collect(),
        ..Default::default()
    }
}

fn attribute(name: &str, r#type: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(r#type as i32), ..Default::default() }
}

fn if_node(flag: &str, then: GraphProto, otherwise: GraphProto, output: &str) -> NodeProto {
    let branch = |name, graph| AttributeProto { g: Some(graph), ..attribute(name, AttributeType::Graph) };
    let mut node = op("If", &[flag], &[output]);
    node.attribute = vec![branch("then_branch", then), branch("else_branch", otherwise)];
    node
}

/// A subgraph without inputs that gives the 2×3 matrix `output`.
fn graph(node: Vec<NodeProto>, output: &str) -> GraphProto {
    GraphProto {
        name: Some(format!("{output}_graph")),
        node,
        output: vec![value(output, MATRIX)],
        ..Default::default()
    }
}

fn value(name: &str, (dtype, shape): Kind) -> ValueInfoProto {
    let dim = |&size: &usize| Dimension { value: Some(dimension::Value::DimValue(size as i64)), denotation: None };
    crate::graph::tensor_value(name, dtype, TensorShapeProto { dim: shape.iter().map(dim).collect() })
}
