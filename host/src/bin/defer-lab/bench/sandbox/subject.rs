//! What the sandbox is measured with: a network of one small operation, and two ways to the same session of it.

use anyhow::{Context as _, Result, ensure};
use defer_host::artifact::{self, Artifact, FORMAT, Manifest};
use defer_host::buffer::Pool;
use defer_host::build::GUEST;
use defer_host::engine::{self, Choice, Model, Named, Options, Session};
use defer_host::sandbox::{Instance, Program, Sandbox};
use defer_partition::onnx::proto::attribute_proto::AttributeType;
use defer_partition::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use defer_partition::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto,
    type_proto,
};
use defer_partition::{DType, Slice, Tensor, TensorInfo};
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// 3.2 MB in, as after ResNet-50's first residual block …
const INPUT: [usize; 4] = [1, 256, 56, 56];
/// … and 0.8 MB out.
const OUTPUT: [usize; 4] = [1, 256, 28, 28];
pub const BYTES_OUT: usize = OUTPUT[0] * OUTPUT[1] * OUTPUT[2] * OUTPUT[3] * size_of::<f32>();
/// Time limit of a sandboxed call, which none reaches.
const LIMIT: Duration = Duration::from_secs(60);
/// Spare buffers, in bytes: some of each size.
const POOL: usize = 32 << 20;

/// The network, loaded.
pub struct Subject {
    pub engine: &'static str,
    pub options: Options,
    artifact: Artifact,
    session: Arc<Mutex<Box<dyn Session>>>,
    pool: Pool,
    sample: Tensor,
    _file: Temporary,
}

impl Subject {
    pub fn load(threads: usize) -> Result<Self> {
        let file = Temporary::new()?;
        let mut out = BufWriter::new(File::create(&file.0)?);
        artifact::write(&mut out, GUEST, manifest(), &slice())?;
        out.into_inner()?;
        let artifact = Artifact::open(&file.0)?;
        let graph = artifact.model()?;
        let engine = engine::open(Choice::Auto, None)?;
        let options = Options::new(threads.max(1));
        let session = engine.load(Model { bytes: &graph, weights_folder: artifact.path().parent() }, options)?;
        let session: Arc<Mutex<Box<dyn Session>>> = Arc::new(Mutex::new(session));
        let pool = Pool::new(POOL);
        Ok(Self { engine: engine.name(), options, artifact, session, pool, sample: sample(), _file: file })
    }

    pub fn bytes_in(&self) -> usize {
        self.sample.data.len()
    }

    /// Compiles the component for `sandbox`.
    pub fn compile(&self, sandbox: &Sandbox) -> Result<Program> {
        Ok(sandbox.compile(&self.artifact)?)
    }

    /// The ways to call the network, the second through `program`; they give the same.
    pub fn calls(&self, program: Program) -> Result<Calls<'_>> {
        let instance = Instance::new(program, Arc::clone(&self.session), self.pool.clone())?;
        let mut calls = Calls { subject: self, instance };
        let (direct, sandboxed) = (calls.direct()?.outputs, calls.sandboxed()?.outputs);
        ensure!(direct == sandboxed, "the component's result differs from the session's");
        Ok(calls)
    }
}

/// Both ways to the same session.
pub struct Calls<'a> {
    subject: &'a Subject,
    instance: Instance,
}

/// What one call took.
pub struct Done {
    /// Of the whole call.
    pub total: Duration,
    /// Inside the engine.
    pub engine: Duration,
    outputs: Vec<Named>,
}

impl Calls<'_> {
    /// Inputs as they come from a link: in a buffer of the pool.
    fn inputs(&self) -> Vec<Named> {
        let Tensor { dtype, shape, data } = &self.subject.sample;
        let mut buffer = self.subject.pool.take(data.len());
        buffer.extend_from_slice(data);
        vec![("in".to_owned(), Tensor { dtype: *dtype, shape: shape.clone(), data: buffer })]
    }

    /// A call whose outputs' buffers go back to the pool, as an encoder gives them back.
    pub fn timed(&mut self, call: fn(&mut Self) -> Result<Done>) -> Result<Done> {
        let mut done = call(self)?;
        self.recycle(std::mem::take(&mut done.outputs));
        Ok(done)
    }

    fn recycle(&self, tensors: Vec<Named>) {
        tensors.into_iter().for_each(|(_, tensor)| self.subject.pool.give(tensor.data));
    }

    pub fn direct(&mut self) -> Result<Done> {
        let inputs = self.inputs();
        let started = Instant::now();
        let mut session = self.subject.session.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = session.run(&inputs, &self.subject.pool)?;
        drop(session);
        let total = started.elapsed();
        self.recycle(inputs);
        Ok(Done { total, engine: total, outputs })
    }

    pub fn sandboxed(&mut self) -> Result<Done> {
        let inputs = self.inputs();
        let started = Instant::now();
        // Under a time limit, as in a node.
        let outcome = self.instance.run_until(Some(started + LIMIT), inputs)?;
        // Taken here and not from the outcome: this includes the checks of what goes in and comes out.
        Ok(Done { total: started.elapsed(), engine: outcome.engine, outputs: outcome.outputs })
    }
}

pub fn us(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e3
}

/// The value below which `share` of a series lies; sorts it.
pub fn quantile(series: &mut [f64], share: f64) -> f64 {
    series.sort_unstable_by(f64::total_cmp);
    series[((series.len() - 1) as f64 * share).round() as usize]
}

/// Values without a pattern that a branch predictor could learn.
fn sample() -> Tensor {
    let mut state = 1u32;
    let values: Vec<f32> = (0..INPUT.iter().product::<usize>())
        .map(|_| {
            // xorshift32 (Marsaglia, 2003)
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 - 0.5
        })
        .collect();
    Tensor::from_f32(INPUT.to_vec(), &values).expect("as many values as the shape has")
}

/// A network of one small operation: the largest of each two by two values.
fn slice() -> Slice {
    let ints = |name: &str, values: &[i64]| AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Ints as i32),
        ints: values.to_vec(),
        ..Default::default()
    };
    let node = NodeProto {
        input: vec!["in".to_owned()],
        output: vec!["out".to_owned()],
        name: Some("pool".to_owned()),
        op_type: Some("MaxPool".to_owned()),
        attribute: vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])],
        ..Default::default()
    };
    let graph = GraphProto {
        name: Some("bench".to_owned()),
        node: vec![node],
        input: vec![value("in", &INPUT)],
        output: vec![value("out", &OUTPUT)],
        ..Default::default()
    };
    let model = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        graph: Some(graph),
        ..Default::default()
    };
    Slice { model, weights: Vec::new(), weights_len: 0 }
}

fn value(name: &str, shape: &[usize]) -> ValueInfoProto {
    let dim = |&dim: &usize| Dimension { value: Some(dimension::Value::DimValue(dim as i64)), ..Default::default() };
    let tensor = type_proto::Tensor {
        elem_type: Some(DType::Fp32.onnx()),
        shape: Some(TensorShapeProto { dim: shape.iter().map(dim).collect() }),
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}

fn manifest() -> Manifest {
    let info = |name: &str, shape: &[usize]| TensorInfo {
        name: name.to_owned(),
        dtype: DType::Fp32,
        shape: shape.iter().map(|&dim| dim as i64).collect(),
    };
    Manifest {
        format: FORMAT,
        pipeline: "bench".to_owned(),
        index: 0,
        count: 1,
        inputs: vec![info("in", &INPUT)],
        outputs: vec![info("out", &OUTPUT)],
        forwards: Vec::new(),
        model_digest: String::new(),
        warm_up: vec![INPUT.to_vec()],
        graph_bytes: 0,
        weights_bytes: 0,
        activation_peak_bytes: None,
    }
}

/// The artifact's file, removed when dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("defer-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder.join("stage.wasm")))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let _ = self.0.parent().map(fs::remove_dir);
    }
}
