//! How fast a machine computes: a standard network, the same everywhere, on the engine that computes stages there.

use crate::buffer::Pool;
use crate::engine::{Engine, EngineError, Model, Options};
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
/// Channels and sides of the maps that the network convolves: two of its layers take a few ms of a desktop CPU.
const CHANNELS: usize = 64;
const SIDE: usize = 28;

/// How often `engine` computes the standard network per second with `options`. Takes about 2.5 s, and blocks for that long.
pub fn measure(engine: &dyn Engine, options: Options) -> Result<f64, EngineError> {
    let bytes = network().encode_to_vec();
    let mut session = engine.load(Model { bytes: &bytes, weights_folder: None }, options)?;
    let pool = Pool::new(8 << 20);
    let shape = vec![1, CHANNELS, SIDE, SIDE];
    let picture = numbers(CHANNELS * SIDE * SIDE, 1.0);
    let tensor = Tensor { dtype: DType::Fp32, shape, data: picture };
    let inputs = [("x".to_owned(), tensor)];
    let mut rate = |span: Duration| -> Result<f64, EngineError> {
        let (started, mut runs) = (Instant::now(), 0);
        loop {
            session.run(&inputs, &pool)?.into_iter().for_each(|(_, tensor)| pool.give(tensor.data));
            runs += 1;
            let elapsed = started.elapsed();
            if elapsed >= span {
                return Ok(f64::from(runs) / elapsed.as_secs_f64());
            }
        }
    };
    rate(WARM_UP)?;
    let mut rates = (0..SPANS).map(|_| rate(SPAN)).collect::<Result<Vec<_>, _>>()?;
    rates.sort_unstable_by(f64::total_cmp);
    let median = rates[SPANS / 2];
    *LATEST.lock().unwrap_or_else(PoisonError::into_inner) = Some(median);
    Ok(median)
}

/// What [`measure`] has found in this process, if it was asked.
pub fn latest() -> Option<f64> {
    *LATEST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Convolution, activation, convolution, activation, mean over the maps, matrix product.
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
    let window = || vec![ints("kernel_shape", &[3, 3]), ints("pads", &[1, 1, 1, 1])];
    // So that values neither die out nor grow from layer to layer.
    let scale = (6.0 / (CHANNELS * 9) as f32).sqrt();
    let input = InputInfo {
        name: "x".to_owned(),
        dtype: DType::Fp32,
        dims: [1, CHANNELS, SIDE, SIDE].map(Dim::Fixed).to_vec(),
    };
    let graph = GraphProto {
        name: Some("speed".to_owned()),
        node: vec![
            node("Conv", &["x", "w1"], "c1", window()),
            node("Relu", &["c1"], "r1", Vec::new()),
            node("Conv", &["r1", "w2"], "c2", window()),
            node("Relu", &["c2"], "r2", Vec::new()),
            node("GlobalAveragePool", &["r2"], "p", Vec::new()),
            node("Flatten", &["p"], "f", Vec::new()),
            node("MatMul", &["f", "w3"], "y", Vec::new()),
        ],
        input: vec![input.value_info()],
        output: vec![ValueInfoProto { name: Some("y".to_owned()), ..Default::default() }],
        initializer: vec![
            weights("w1", &[CHANNELS, CHANNELS, 3, 3], scale),
            weights("w2", &[CHANNELS, CHANNELS, 3, 3], scale),
            weights("w3", &[CHANNELS, 1000], scale),
        ],
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
