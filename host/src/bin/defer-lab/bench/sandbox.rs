//! `defer-lab bench sandbox`: what a call costs beyond the engine's own time, with the real guest, artifact and engine.

use super::Document;
use super::machine::Machine;
use crate::table::{Side, table};
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use defer_host::artifact::{self, Artifact, FORMAT, Manifest};
use defer_host::buffer::Pool;
use defer_host::build::GUEST;
use defer_host::engine::{self, Choice, Model, Named, Options, Session};
use defer_host::sandbox::{Instance, Limits, Sandbox};
use defer_partition::onnx::proto::attribute_proto::AttributeType;
use defer_partition::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use defer_partition::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto,
    type_proto,
};
use defer_partition::{DType, Slice, Tensor, TensorInfo};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// 3.2 MB in, as after ResNet-50's first residual block …
const INPUT: [usize; 4] = [1, 256, 56, 56];
/// … and 0.8 MB out.
const OUTPUT: [usize; 4] = [1, 256, 28, 28];
/// Calls before any is counted, of each kind.
const WARM_UP: u32 = 100;
/// Time limit of a sandboxed call, which none reaches.
const LIMIT: Duration = Duration::from_secs(60);
/// Spare buffers, in bytes: some of each size.
const POOL: usize = 32 << 20;

/// What the sandbox costs per call: 3.2 MB in, 0.8 MB out.
///
/// The same session is called directly and through the component, in turn. Overhead is a call's time less the time
/// inside the engine in that same call.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-lab bench sandbox
  defer-lab bench sandbox --json --calls 10000")]
pub struct SandboxArgs {
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
    /// Counted calls of each kind
    #[arg(long, default_value_t = 5_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    calls: u32,
    /// Threads of the engine
    #[arg(long, default_value_t = 1, value_name = "N")]
    threads: usize,
}

#[derive(Debug, Serialize)]
struct Row {
    /// Median of the session called directly.
    direct_us: f64,
    /// Median of the whole call through the component.
    sandboxed_us: f64,
    /// Median of a call's time less the engine's time in it.
    overhead_us: f64,
    overhead_p90_us: f64,
    overhead_p99_us: f64,
    calls: u32,
    bytes_in: usize,
    bytes_out: usize,
    engine: String,
    threads: usize,
}

pub fn run(args: &SandboxArgs) -> Result<()> {
    let row = measure(args)?;
    let machine = Machine::this();
    let text = if args.json {
        serde_json::to_string(&Document { bench: "sandbox", machine, rows: vec![row] })? + "\n"
    } else {
        let us = |value: f64| format!("{value:.1}");
        let right = |title| (title, Side::Right);
        let header = [
            right("direct µs"),
            right("sandboxed µs"),
            right("overhead µs"),
            right("p90"),
            right("p99"),
            right("calls"),
            right("bytes in"),
            right("bytes out"),
            ("engine", Side::Left),
        ];
        let cells = [
            us(row.direct_us),
            us(row.sandboxed_us),
            us(row.overhead_us),
            us(row.overhead_p90_us),
            us(row.overhead_p99_us),
            row.calls.to_string(),
            row.bytes_in.to_string(),
            row.bytes_out.to_string(),
            row.engine,
        ];
        format!("{machine}\n\n{}", table(header, &[cells]))
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the result")
}

fn measure(args: &SandboxArgs) -> Result<Row> {
    let file = Temporary::new()?;
    let (slice, manifest) = (slice(), manifest());
    let mut out = BufWriter::new(File::create(&file.0)?);
    artifact::write(&mut out, GUEST, manifest, &slice)?;
    out.into_inner()?;

    let artifact = Artifact::open(&file.0)?;
    let graph = artifact.model()?;
    let engine = engine::open(Choice::Auto, None)?;
    let options = Options::new(args.threads.max(1));
    let session = engine.load(Model { bytes: &graph, weights_folder: artifact.path().parent() }, options)?;
    let session: Arc<Mutex<Box<dyn Session>>> = Arc::new(Mutex::new(session));
    let program = Sandbox::new(Limits::default())?.compile(&artifact)?;
    let pool = Pool::new(POOL);
    let mut instance = Instance::new(program, Arc::clone(&session), pool.clone())?;

    let sample = sample();
    let mut calls = Calls { session: &session, instance: &mut instance, pool: &pool, sample: &sample };
    let (direct, sandboxed) = (calls.direct()?.outputs, calls.sandboxed()?.outputs);
    ensure!(direct == sandboxed, "the component's result differs from the session's");
    let (mut direct_us, mut sandboxed_us, mut overhead_us) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..WARM_UP + args.calls {
        // Each goes first every other time: neither finds the caches always as the other left them.
        let (direct, sandboxed) = if round % 2 == 0 {
            let direct = calls.timed(Calls::direct)?;
            (direct, calls.timed(Calls::sandboxed)?)
        } else {
            let sandboxed = calls.timed(Calls::sandboxed)?;
            (calls.timed(Calls::direct)?, sandboxed)
        };
        if round >= WARM_UP {
            direct_us.push(us(direct.0));
            sandboxed_us.push(us(sandboxed.0));
            overhead_us.push(us(sandboxed.0.saturating_sub(sandboxed.1)));
        }
    }
    for series in [&mut direct_us, &mut sandboxed_us, &mut overhead_us] {
        series.sort_unstable_by(f64::total_cmp);
    }
    let at = |series: &[f64], share: f64| series[((series.len() - 1) as f64 * share).round() as usize];
    Ok(Row {
        direct_us: at(&direct_us, 0.5),
        sandboxed_us: at(&sandboxed_us, 0.5),
        overhead_us: at(&overhead_us, 0.5),
        overhead_p90_us: at(&overhead_us, 0.9),
        overhead_p99_us: at(&overhead_us, 0.99),
        calls: args.calls,
        bytes_in: sample.data.len(),
        bytes_out: OUTPUT.iter().product::<usize>() * DType::Fp32.size(),
        engine: engine.name().to_owned(),
        threads: options.threads,
    })
}

fn us(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e3
}

/// Both ways to the same session.
struct Calls<'a> {
    session: &'a Mutex<Box<dyn Session>>,
    instance: &'a mut Instance,
    pool: &'a Pool,
    sample: &'a Tensor,
}

struct Done {
    /// Of the whole call.
    total: Duration,
    /// Inside the engine.
    engine: Duration,
    outputs: Vec<Named>,
}

impl Calls<'_> {
    /// Inputs as they come from a link: in a buffer of the pool.
    fn inputs(&self) -> Vec<Named> {
        let Tensor { dtype, shape, data } = self.sample;
        let mut buffer = self.pool.take(data.len());
        buffer.extend_from_slice(data);
        vec![("in".to_owned(), Tensor { dtype: *dtype, shape: shape.clone(), data: buffer })]
    }

    /// The whole call's time and the engine's; the outputs' buffers go back to the pool, as an encoder gives them back.
    fn timed(&mut self, call: fn(&mut Self) -> Result<Done>) -> Result<(Duration, Duration)> {
        let Done { total, engine, outputs } = call(self)?;
        self.recycle(outputs);
        Ok((total, engine))
    }

    fn recycle(&self, tensors: Vec<Named>) {
        tensors.into_iter().for_each(|(_, tensor)| self.pool.give(tensor.data));
    }

    fn direct(&mut self) -> Result<Done> {
        let inputs = self.inputs();
        let started = Instant::now();
        let outputs = self.session.lock().unwrap_or_else(PoisonError::into_inner).run(&inputs, self.pool)?;
        let total = started.elapsed();
        self.recycle(inputs);
        Ok(Done { total, engine: total, outputs })
    }

    fn sandboxed(&mut self) -> Result<Done> {
        let inputs = self.inputs();
        let started = Instant::now();
        // Under a time limit, as in a node.
        let outcome = self.instance.run_until(Some(started + LIMIT), inputs)?;
        // Taken here and not from the outcome: this includes the checks of what goes in and comes out.
        Ok(Done { total: started.elapsed(), engine: outcome.engine, outputs: outcome.outputs })
    }
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
