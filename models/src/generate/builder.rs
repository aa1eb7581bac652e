//! Writes the graph of a network that looks at pictures, with random weights and statistics measured on made-up ones.

use super::attributes::{float, int, sliding};
use super::graph::Graph;
use super::maps::{Maps, Window};
use super::parameter::Drawn;
use super::random::Random;
use defer_partition::{DType, Dim};
use std::io::{self, Write};

const EPSILON: f32 = 1e-5;
/// Where [`Builder::relu6`] cuts off.
const SIX: f32 = 6.0;

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
    graph: Graph,
    random: Random,
    /// Names of the constants 0 and 6, once they are there.
    bounds: Option<[String; 2]>,
}

impl Builder {
    pub(super) fn new(name: &str, seed: u64) -> Self {
        Self { graph: Graph::new(name), random: Random::new(seed), bounds: None }
    }

    /// An input of shape \[N, channels, side, side\], normalised as ImageNet pictures are; statistics are measured on
    /// pictures of `measured` × `measured` pixels.
    pub(super) fn picture(&mut self, name: &str, channels: usize, side: usize, measured: usize) -> Value {
        self.graph.input(name, DType::Fp32, &batch_of(&[channels, side, side]));
        Value { name: name.to_owned(), maps: Maps::pictures(channels, measured, &mut self.random) }
    }

    /// A convolution without bias, its weights scaled after He et al., 2015 (<https://arxiv.org/abs/1502.01852>).
    pub(super) fn conv(&mut self, name: &str, input: &Value, out: usize, window: Window) -> Value {
        self.grouped_conv(name, input, out, 1, window)
    }

    /// A convolution of each channel by itself, without bias.
    pub(super) fn depthwise(&mut self, name: &str, input: &Value, window: Window) -> Value {
        self.grouped_conv(name, input, input.channels(), input.channels(), window)
    }

    fn grouped_conv(&mut self, name: &str, input: &Value, out: usize, groups: usize, window: Window) -> Value {
        let inputs = input.channels() / groups;
        let count = inputs * window.size * window.size;
        let deviation = (2.0 / count as f64).sqrt();
        let random = self.random.clone();
        let weights = self.normal(out * count, deviation);
        let drawn = Drawn { random, row: weights.len(), deviations: vec![deviation] };
        let shape = [out, inputs, window.size, window.size];
        let parameter = self.graph.drawn(&format!("{name}_weight"), &shape, drawn);
        let mut attributes = sliding(window);
        if groups > 1 {
            attributes.push(int("group", groups as i64));
        }
        self.graph.node("Conv", name, &[&input.name, &parameter], attributes);
        Value { name: name.to_owned(), maps: input.maps.conv(&weights, out, groups, window) }
    }

    /// A convolution with bias whose outputs, per channel, have standard deviations around 1 and means around 0: what
    /// [`Builder::conv`] and [`Builder::batch_norm`] would make, in one.
    pub(super) fn fitted_conv(&mut self, name: &str, input: &Value, out: usize, window: Window) -> Value {
        let inputs = input.channels();
        let row = inputs * window.size * window.size;
        let random = self.random.clone();
        let weights = self.normal(out * row, 1.0);
        let maps = input.maps.conv(&weights, out, 1, window);
        let applied: Vec<(f32, f32)> = maps
            .statistics()
            .into_iter()
            .map(|(mean, variance)| {
                let factor = (0.5 + self.random.uniform()) / (variance + f64::from(EPSILON)).sqrt();
                (factor as f32, (0.2 * self.random.normal() - mean * factor) as f32)
            })
            .collect();
        let deviations = applied.iter().map(|&(factor, _)| f64::from(factor)).collect();
        let bias: Vec<f32> = applied.iter().map(|&(_, shift)| shift).collect();
        let shape = [out, inputs, window.size, window.size];
        let weight = self.graph.drawn(&format!("{name}_weight"), &shape, Drawn { random, row, deviations });
        let bias = self.graph.floats(&format!("{name}_bias"), &[out], &bias);
        self.graph.node("Conv", name, &[&input.name, &weight, &bias], sliding(window));
        Value { name: name.to_owned(), maps: maps.affine(&applied) }
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
            inputs.push(self.graph.floats(&format!("{name}_{role}"), &[channels], values));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.graph.node("BatchNormalization", name, &inputs, vec![float("epsilon", EPSILON)]);
        let applied: Vec<(f32, f32)> = (0..channels)
            .map(|i| {
                let factor = scales[i] / (variances[i] + EPSILON).sqrt();
                (factor, shifts[i] - means[i] * factor)
            })
            .collect();
        Value { name: name.to_owned(), maps: input.maps.affine(&applied) }
    }

    pub(super) fn relu(&mut self, name: &str, input: Value) -> Value {
        self.graph.node("Relu", name, &[&input.name], vec![]);
        Value { name: name.to_owned(), maps: input.maps.clamp(f32::INFINITY) }
    }

    /// A Clip to 0 … 6.
    pub(super) fn relu6(&mut self, name: &str, input: Value) -> Value {
        let graph = &mut self.graph;
        let [zero, six] = self
            .bounds
            .get_or_insert_with(|| [graph.floats("relu6_min", &[], &[0.0]), graph.floats("relu6_max", &[], &[SIX])]);
        graph.node("Clip", name, &[&input.name, zero, six], vec![]);
        Value { name: name.to_owned(), maps: input.maps.clamp(SIX) }
    }

    pub(super) fn add(&mut self, name: &str, a: Value, b: &Value) -> Value {
        self.graph.node("Add", name, &[&a.name, &b.name], vec![]);
        Value { name: name.to_owned(), maps: a.maps.add(&b.maps) }
    }

    pub(super) fn max_pool(&mut self, name: &str, input: &Value, window: Window) -> Value {
        self.graph.node("MaxPool", name, &[&input.name], sliding(window));
        Value { name: name.to_owned(), maps: input.maps.max_pool(window) }
    }

    /// \[N, C, H, W\] → \[N, C\]
    pub(super) fn average_and_flatten(&mut self, name: &str, flat: &str, input: &Value) -> Value {
        self.graph.node("GlobalAveragePool", name, &[&input.name], vec![]);
        self.graph.node("Flatten", flat, &[name], vec![int("axis", 1)]);
        Value { name: flat.to_owned(), maps: input.maps.average() }
    }

    /// \[N, C, side, side\] → \[N, C · side²\], whatever the side of the pictures that are measured on.
    pub(super) fn flatten(&mut self, name: &str, input: &Value, side: usize) -> Value {
        self.graph.node("Flatten", name, &[&input.name], vec![int("axis", 1)]);
        Value { name: name.to_owned(), maps: input.maps.spread(side) }
    }

    /// A fully connected layer inside the network; its values have standard deviations around `deviation` over the
    /// pictures, and means around 0. Its weights are never all in memory.
    pub(super) fn fitted_dense(&mut self, name: &str, input: &Value, out: usize, deviation: f64) -> Value {
        let inputs = input.channels();
        let random = self.random.clone();
        let maps = input.maps.dense(out, |row| row.fill_with(|| self.random.normal() as f32));
        let statistics = maps.statistics();
        let variance = statistics.iter().map(|(_, variance)| variance).sum::<f64>() / out as f64;
        let factor = deviation / variance.sqrt();
        let shift = |&(mean, _): &(f64, f64)| (0.2 * deviation * self.random.normal() - mean * factor) as f32;
        let bias: Vec<f32> = statistics.iter().map(shift).collect();
        let drawn = Drawn { random, row: inputs, deviations: vec![factor; out] };
        let weight = self.graph.drawn(&format!("{name}_weight"), &[out, inputs], drawn);
        let applied: Vec<(f32, f32)> = bias.iter().map(|&shift| (factor as f32, shift)).collect();
        let bias = self.graph.floats(&format!("{name}_bias"), &[out], &bias);
        self.graph.node("Gemm", name, &[&input.name, &weight, &bias], vec![int("transB", 1)]);
        Value { name: name.to_owned(), maps: maps.affine(&applied) }
    }

    /// A fully connected layer, the network's output; its values have mean 0 and standard deviation `deviation`.
    pub(super) fn dense(&mut self, name: &str, output: &str, input: &Value, out: usize, deviation: f64) {
        let inputs = input.channels();
        let mut weights = self.normal(out * inputs, 1.0);
        let statistics = input.maps.conv(&weights, out, 1, Window::POINT).statistics();
        let variance = statistics.iter().map(|(_, variance)| variance).sum::<f64>() / out as f64;
        let scale = deviation / variance.sqrt();
        weights.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * scale) as f32);
        let bias: Vec<f32> =
            statistics.iter().map(|(mean, _)| (0.1 * deviation * self.random.normal() - mean * scale) as f32).collect();
        let weight = self.graph.floats(&format!("{name}_weight"), &[out, inputs], &weights);
        let bias = self.graph.floats(&format!("{name}_bias"), &[out], &bias);
        self.graph.node("Gemm", output, &[&input.name, &weight, &bias], vec![int("transB", 1)]);
        self.graph.output(output, DType::Fp32, &batch_of(&[out]));
    }

    /// Writes the finished file, which says what it is `about`.
    pub(super) fn write(self, about: &str, out: &mut dyn Write) -> io::Result<()> {
        self.graph.write(about, out)
    }

    fn normal(&mut self, count: usize, deviation: f64) -> Vec<f32> {
        (0..count).map(|_| (self.random.normal() * deviation) as f32).collect()
    }
}

/// \[N, dims…\]
fn batch_of(dims: &[usize]) -> Vec<Dim> {
    std::iter::once(Dim::Symbol("N".to_owned())).chain(dims.iter().copied().map(Dim::Fixed)).collect()
}
