//! BERT: Devlin et al., 2018 (<https://arxiv.org/abs/1810.04805>), in the size that Turc et al., 2019
//! (<https://arxiv.org/abs/1908.08962>) call "mini": token ids in, one vector per token and one for all of them out.

use super::attributes::{float, int, ints};
use super::graph::Graph;
use super::parameter::Drawn;
use super::random::Random;
use defer_partition::onnx::proto::{AttributeProto, tensor_proto::DataType};
use defer_partition::{DType, Dim};
use std::io::{self, Write};

const EPSILON: f32 = 1e-12;
/// What a masked position adds to its attention score: nothing is left of it after the softmax.
const MASKED: f32 = -10_000.0;

/// Sizes of the network.
pub(super) struct Bert {
    seed: u64,
    layers: usize,
    width: usize,
    heads: usize,
    vocabulary: usize,
    positions: usize,
    types: usize,
}

pub(super) const MINI: Bert =
    Bert { seed: 4256, layers: 4, width: 256, heads: 4, vocabulary: 30_522, positions: 512, types: 2 };

/// Writes the network: inputs `input_ids`, `attention_mask` and `token_type_ids` INT64 \[batch,sequence\], up to 512
/// tokens; outputs `last_hidden_state` FP32 \[batch,sequence,256\] and `pooler_output` FP32 \[batch,256\].
///
/// Every layer makes what it adds to its scores from `attention_mask` itself, which is so needed up to the last layer.
pub(super) fn write(bert: &Bert, out: &mut dyn Write) -> io::Result<()> {
    let graph = Graph::new("bert-mini");
    let mut net = Net { bert, graph, random: Random::new(bert.seed) };
    let symbol = |name: &str| Dim::Symbol(name.to_owned());
    let (batch, sequence, width) = (symbol("batch"), symbol("sequence"), Dim::Fixed(bert.width));
    for input in ["input_ids", "attention_mask", "token_type_ids"] {
        net.graph.input(input, DType::Int64, &[batch.clone(), sequence.clone()]);
    }
    net.constants();
    let mut x = net.embeddings();
    for layer in 1..=bert.layers {
        let output = if layer == bert.layers { "last_hidden_state".to_owned() } else { format!("layer_{layer}") };
        x = net.layer(&format!("layer_{layer}"), &x, &output);
    }
    net.pooler(&x);
    net.graph.output("last_hidden_state", DType::Fp32, &[batch.clone(), sequence, width.clone()]);
    net.graph.output("pooler_output", DType::Fp32, &[batch, width]);
    net.graph.write("BERT-mini with random weights. It was never trained: its answers mean nothing.", out)
}

struct Net<'a> {
    bert: &'a Bert,
    graph: Graph,
    random: Random,
}

impl Net<'_> {
    /// What several layers read.
    fn constants(&mut self) {
        let (heads, width) = (self.bert.heads, self.bert.width);
        let graph = &mut self.graph;
        graph.integers("mask_axes", &[2], &[1, 2]);
        // 0: as it is.
        graph.integers("split_shape", &[4], &[0, 0, heads as i64, (width / heads) as i64]);
        graph.integers("merged_shape", &[3], &[0, 0, width as i64]);
        let size = (width / heads) as f64;
        graph.floats("score_scale", &[], &[(1.0 / size.sqrt()) as f32]);
        graph.floats("one", &[], &[1.0]);
        graph.floats("half", &[], &[0.5]);
        graph.floats("root_of_two", &[], &[std::f32::consts::SQRT_2]);
        graph.floats("masked", &[], &[MASKED]);
    }

    /// Tokens, positions and types as vectors, summed and normalised.
    fn embeddings(&mut self) -> String {
        let Bert { width, vocabulary, positions, types, .. } = *self.bert;
        for (name, rows) in [("word", vocabulary), ("position", positions), ("type", types)] {
            let drawn = self.draw(rows * width, 1.0);
            self.graph.drawn(&format!("{name}_embeddings"), &[rows, width], drawn);
        }
        let graph = &mut self.graph;
        let (from, until, axis) = (
            graph.integers("length_from", &[1], &[1]),
            graph.integers("length_until", &[1], &[2]),
            graph.integers("first", &[1], &[0]),
        );
        let words = graph.node("Gather", "words", &["word_embeddings", "input_ids"], vec![]);
        let types = graph.node("Gather", "types", &["type_embeddings", "token_type_ids"], vec![]);
        let shape = graph.node("Shape", "shape", &["input_ids"], vec![]);
        let length = graph.node("Slice", "length", &[&shape, &from, &until, &axis], vec![]);
        let table = ["position_embeddings", &axis, &length, &axis];
        let positions = graph.node("Slice", "positions", &table, vec![]);
        let sum = graph.node("Add", "words_and_types", &[&words, &types], vec![]);
        let sum = graph.node("Add", "embeddings", &[&sum, &positions], vec![]);
        self.norm("embeddings_norm", &sum)
    }

    /// One transformer layer, whose output is called `output`.
    fn layer(&mut self, name: &str, input: &str, output: &str) -> String {
        let named = |part: &str| format!("{name}_{part}");
        let width = self.bert.width;
        let context = self.attention(name, input);
        let attended = self.dense(&named("attention_output"), &context, width, width);
        let sum = self.graph.node("Add", &named("attention_add"), &[&attended, input], vec![]);
        let attended = self.norm(&named("attention_norm"), &sum);

        let x = self.dense(&named("intermediate"), &attended, width, 4 * width);
        let x = self.gelu(&named("gelu"), &x);
        let x = self.dense(&named("output"), &x, 4 * width, width);
        let sum = self.graph.node("Add", &named("output_add"), &[&x, &attended], vec![]);
        self.norm(output, &sum)
    }

    /// What each token gathers from those that it attends to: \[batch, sequence, width\].
    fn attention(&mut self, name: &str, input: &str) -> String {
        let named = |part: &str| format!("{name}_{part}");
        let width = self.bert.width;
        let mut heads = Vec::new();
        // The keys with positions last, ready for the product.
        for (part, order) in [("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])] {
            let x = self.dense(&named(part), input, width, width);
            let x = self.graph.node("Reshape", &named(&format!("{part}_split")), &[&x, "split_shape"], vec![]);
            let order = vec![ints("perm", &order)];
            heads.push(self.graph.node("Transpose", &named(&format!("{part}_heads")), &[&x], order));
        }
        let graph = &mut self.graph;
        let mut node = |operator: &str, part: &str, inputs: &[&str], attributes: Vec<AttributeProto>| {
            graph.node(operator, &named(part), inputs, attributes)
        };
        let to_float = vec![int("to", DataType::Float as i64)];
        let mask = node("Unsqueeze", "mask", &["attention_mask", "mask_axes"], vec![]);
        let mask = node("Cast", "mask_float", &[&mask], to_float);
        let mask = node("Sub", "mask_inverse", &["one", &mask], vec![]);
        let mask = node("Mul", "mask_scores", &[&mask, "masked"], vec![]);
        let scores = node("MatMul", "products", &[&heads[0], &heads[1]], vec![]);
        let scores = node("Mul", "scores", &[&scores, "score_scale"], vec![]);
        let scores = node("Add", "masked_scores", &[&scores, &mask], vec![]);
        let shares = node("Softmax", "softmax", &[&scores], vec![int("axis", -1)]);
        let context = node("MatMul", "context_heads", &[&shares, &heads[2]], vec![]);
        let context = node("Transpose", "context_split", &[&context], vec![ints("perm", &[0, 2, 1, 3])]);
        node("Reshape", "context", &[&context, "merged_shape"], vec![])
    }

    /// The first token's vector, once more transformed.
    fn pooler(&mut self, input: &str) {
        let width = self.bert.width;
        let zero = self.graph.integers("first_token", &[], &[0]);
        let first = self.graph.node("Gather", "pooler_first", &[input, &zero], vec![int("axis", 1)]);
        let dense = self.dense("pooler", &first, width, width);
        self.graph.node("Tanh", "pooler_output", &[&dense], vec![]);
    }

    /// x · (1 + erf(x / √2)) / 2, as exports of this opset have it.
    fn gelu(&mut self, name: &str, input: &str) -> String {
        let x = self.graph.node("Div", &format!("{name}_div"), &[input, "root_of_two"], vec![]);
        let x = self.graph.node("Erf", &format!("{name}_erf"), &[&x], vec![]);
        let x = self.graph.node("Add", &format!("{name}_add"), &[&x, "one"], vec![]);
        let x = self.graph.node("Mul", &format!("{name}_mul"), &[input, &x], vec![]);
        self.graph.node("Mul", name, &[&x, "half"], vec![])
    }

    /// Weights that keep the variance (Glorot and Bengio, 2010), and a small bias.
    fn dense(&mut self, name: &str, input: &str, inputs: usize, out: usize) -> String {
        let drawn = self.draw(inputs * out, (1.0 / inputs as f64).sqrt());
        let weight = self.graph.drawn(&format!("{name}_weight"), &[inputs, out], drawn);
        let drawn = self.draw(out, 0.1);
        let bias = self.graph.drawn(&format!("{name}_bias"), &[out], drawn);
        let product = self.graph.node("MatMul", &format!("{name}_matmul"), &[input, &weight], vec![]);
        self.graph.node("Add", name, &[&product, &bias], vec![])
    }

    fn norm(&mut self, name: &str, input: &str) -> String {
        let width = self.bert.width;
        let scales: Vec<f32> = (0..width).map(|_| (0.5 + self.random.uniform()) as f32).collect();
        let scale = self.graph.floats(&format!("{name}_scale"), &[width], &scales);
        let drawn = self.draw(width, 0.2);
        let bias = self.graph.drawn(&format!("{name}_bias"), &[width], drawn);
        let attributes = vec![int("axis", -1), float("epsilon", EPSILON)];
        self.graph.node("LayerNormalization", name, &[input, &scale, &bias], attributes)
    }

    fn draw(&mut self, count: usize, deviation: f64) -> Drawn {
        let random = self.random.clone();
        self.random.skip(count);
        Drawn { random, row: count, deviations: vec![deviation] }
    }
}
