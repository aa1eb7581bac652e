//! How fast a machine computes: a standard network, the same everywhere, on the engine that computes stages there.

use crate::buffer::Pool;
use crate::engine::{Engine, EngineError, Model, Named, Options, Session};
use defer_partition::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
    attribute_proto::AttributeType,
};
use defer_partition::{DType, Dim, InputInfo, Tensor};
use prost::Message as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The latest figure of this process.
static LATEST: Mutex<Option<f64>> = Mutex::new(None);
/// Computing that is not counted: caches fill, and what a CPU quota had saved up is used.
const WARM_UP: Duration = Duration::from_millis(300);
/// Rates are taken over as many spans of this length, each many periods of a CPU quota long; the median counts.
const SPANS: usize = 5;
const SPAN: Duration = Duration::from_millis(400);
/// Channels and sides of the maps that the network convolves, one after another. As in residual networks each takes the same
/// arithmetic, about 4 ms of a desktop CPU, while the weights grow from 0.15 to 9.4 MB: some come from a cache, others from
/// memory, whose speed counts as it does for a stage.
const MAPS: [(usize, usize); 4] = [(64, 56), (128, 28), (256, 14), (512, 7)];
/// Classes at the end.
const CLASSES: usize = 1000;

/// The standard network, loaded.
pub struct Standard {
    session: Box<dyn Session>,
    inputs: [Named; 1],
    pool: Pool,
}

impl Standard {
    pub fn load(engine: &dyn Engine, options: Options) -> Result<Self, EngineError> {
        let bytes = network().encode_to_vec();
        let session = engine.load(Model { bytes: &bytes, weights_folder: None }, options)?;
        let (channels, side) = MAPS[0];
        let shape = vec![1, channels, side, side];
        let tensor = Tensor { dtype: DType::Fp32, shape, data: numbers(channels * side * side, 1.0) };
        Ok(Self { session, inputs: [("x".to_owned(), tensor)], pool: Pool::new(8 << 20) })
    }

    /// Computes it once.
    pub fn run(&mut self) -> Result<(), EngineError> {
        let outputs = self.session.run(&self.inputs, &self.pool)?;
        outputs.into_iter().for_each(|(_, tensor)| self.pool.give(tensor.data));
        Ok(())
    }

    /// How often it can be computed per second, as `span` shows.
    fn rate(&mut self, span: Duration) -> Result<f64, EngineError> {
        let (started, mut runs) = (Instant::now(), 0);
        loop {
            self.run()?;
            runs += 1;
            let elapsed = started.elapsed();
            if elapsed >= span {
                return Ok(f64::from(runs) / elapsed.as_secs_f64());
            }
        }
    }
}

/// How often `engine` computes the standard network per second with `options`. Takes about 2.5 s, and blocks for that long.
pub fn measure(engine: &dyn Engine, options: Options) -> Result<f64, EngineError> {
    let mut standard = Standard::load(engine, options)?;
    standard.rate(WARM_UP)?;
    let mut rates = (0..SPANS).map(|_| standard.rate(SPAN)).collect::<Result<Vec<_>, _>>()?;
    rates.sort_unstable_by(f64::total_cmp);
    let median = rates[SPANS / 2];
    *LATEST.lock().unwrap_or_else(PoisonError::into_inner) = Some(median);
    Ok(median)
}

/// What [`measure`] has found in this process, if it was asked.
pub fn latest() -> Option<f64> {
    *LATEST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For each size of maps a convolution and its activation, and between them one that halves the sides; then the mean over the
/// maps, and a matrix product.
fn network() -> ModelProto {
    let weights = |name: &str, shape: &[usize], scale: f32| TensorProto {
        name: Some(name.to_owned()),
        dims: shape.iter().map(|&dim| dim as i64).collect(),
        data_type: Some(DType::Fp32.onnx()),
        raw_data: Some(numbers(shape.iter().product(), scale).into()),
        ..Default::default()
    };
    let ints = |name: &str, ints: &[i64]| AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Ints as i32),
        ints: ints.to_vec(),
        ..Default::default()
    };
    let node = |op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>| NodeProto {
        op_type: Some(op.to_owned()),
        name: Some(output.to_owned()),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..Default::default()
    };
    // So that values neither die out nor grow from layer to layer.
    let scale = |values: usize| (6.0 / values as f32).sqrt();
    let (mut nodes, mut constants) = (Vec::new(), Vec::new());
    let (mut last, mut before) = ("x".to_owned(), None);
    for (at, (channels, _)) in MAPS.into_iter().enumerate() {
        if let Some(before) = before {
            let (w, halved) = (format!("h{at}"), format!("halved{at}"));
            constants.push(weights(&w, &[channels, before, 1, 1], scale(before)));
            nodes.push(node("Conv", &[&last, &w], &halved, vec![ints("strides", &[2, 2])]));
            last = halved;
        }
        let (w, convolved, active) = (format!("w{at}"), format!("convolved{at}"), format!("active{at}"));
        constants.push(weights(&w, &[channels, channels, 3, 3], scale(channels * 9)));
        let window = vec![ints("kernel_shape", &[3, 3]), ints("pads", &[1, 1, 1, 1])];
        nodes.push(node("Conv", &[&last, &w], &convolved, window));
        nodes.push(node("Relu", &[&convolved], &active, Vec::new()));
        (last, before) = (active, Some(channels));
    }
    let ([first, .., (deepest, _)], classes) = (MAPS, "classes");
    constants.push(weights(classes, &[deepest, CLASSES], scale(deepest)));
    nodes.push(node("GlobalAveragePool", &[&last], "mean", Vec::new()));
    nodes.push(node("Flatten", &["mean"], "flat", Vec::new()));
    nodes.push(node("MatMul", &["flat", classes], "y", Vec::new()));
    let dims = [1, first.0, first.1, first.1].map(Dim::Fixed).to_vec();
    let input = InputInfo { name: "x".to_owned(), dtype: DType::Fp32, dims };
    let graph = GraphProto {
        name: Some("speed".to_owned()),
        node: nodes,
        input: vec![input.value_info()],
        output: vec![ValueInfoProto { name: Some("y".to_owned()), ..Default::default() }],
        initializer: constants,
        ..Default::default()
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(13) }],
        graph: Some(graph),
        ..Default::default()
    }
}

/// Floats between -scale and scale, always the same: a linear congruential generator (Knuth, MMIX).
fn numbers(count: usize, scale: f32) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
    };
    (0..count).flat_map(|_| next().to_le_bytes()).collect()
}

#[cfg(all(test, feature = "tract"))]
mod tests {
    use super::*;
    use crate::engine::tract::Tract;

    #[test]
    fn the_standard_network_runs_and_its_rate_is_kept() {
        let rate = measure(&Tract, Options::new(1)).expect("an engine without a library computes it");
        assert!(rate > 0.1 && rate.is_finite(), "{rate}");
        assert_eq!(latest(), Some(rate));
    }
}
