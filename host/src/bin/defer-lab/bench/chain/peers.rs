//! Other systems: ONNX Runtime as Python programs use it, and DEFER's method on TensorFlow. Their scripts are in
//! `bench/peers/`, their virtual environments in the cache, where `cargo xtask setup` puts them.

use super::ChainArgs;
use super::bed::Host;
use super::report::Row;
use crate::cluster::Process;
use crate::subject::Subject;
use anyhow::{Context as _, Result, bail, ensure};
use defer_models::Cache;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ONNXRUNTIME: &str = include_str!("../../../../../../bench/peers/onnxruntime_alone.py");
const DEFER: &str = include_str!("../../../../../../bench/peers/defer_keras.py");
/// TensorFlow takes a minute to load and trace eight parts of a network on two cores.
const DEFER_UP: Duration = Duration::from_secs(600);
const PORT: u16 = 25_000;

/// The interpreter of the virtual environment `name`.
fn python(name: &str) -> Result<PathBuf> {
    let python = Cache::from_env()?.root().join(name).join("bin/python");
    ensure!(python.exists(), "no {}; `cargo xtask bench chain` installs it", python.display());
    Ok(python)
}

fn script(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// A command that runs `subject` in ONNX Runtime from Python for `seconds`.
pub fn onnxruntime(folder: &Path, subject: &Subject, seconds: f64) -> Result<Vec<OsString>> {
    let script = script(folder, "onnxruntime_alone.py", ONNXRUNTIME)?;
    let request = subject.requests.first().context("the network has no inputs to measure with")?;
    let shapes: BTreeMap<&str, &[usize]> =
        request.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice())).collect();
    let shapes = serde_json::to_string(&shapes)?;
    let file = subject.file.clone();
    Ok(vec![python("reference")?.into(), script.into(), file.into(), seconds.to_string().into(), shapes.into()])
}

/// What Keras calls a network of the catalogue.
pub fn keras_model(name: &str) -> Option<&'static str> {
    match name {
        "resnet50" => Some("ResNet50"),
        "vgg16" => Some("VGG16"),
        "vgg19" => Some("VGG19"),
        "mobilenetv2" => Some("MobileNetV2"),
        _ => None,
    }
}

/// What a run of DEFER's method came to.
#[derive(Debug, Deserialize)]
pub struct Defer {
    throughput_rps: f64,
    p50_ms: f64,
    p99_ms: f64,
    codec: String,
}

/// What one of its nodes prints at its end.
#[derive(Debug, Deserialize)]
struct DeferNode {
    cpu_ms_per_inference: f64,
    bytes_per_inference: f64,
    peak_memory_mb: f64,
}

/// The run, and its nodes in order.
pub struct DeferRun {
    whole: Defer,
    nodes: Vec<DeferNode>,
}

impl DeferRun {
    pub fn row(self, row: Row) -> Row {
        let most = |of: fn(&DeferNode) -> f64| self.nodes.iter().map(of).fold(0.0, f64::max);
        let hops = self.nodes.len() - 1;
        Row {
            engine: "tensorflow".to_owned(),
            codec: (hops > 0).then(|| self.whole.codec.clone()),
            throughput_rps: self.whole.throughput_rps,
            p50_ms: self.whole.p50_ms,
            p99_ms: self.whole.p99_ms,
            cpu_ms_per_inference_max_node: most(|node| node.cpu_ms_per_inference),
            peak_memory_mb: most(|node| node.peak_memory_mb),
            bytes_per_inference: (hops > 0)
                .then(|| self.nodes.iter().take(hops).map(|node| node.bytes_per_inference).sum()),
            ..row
        }
    }
}

/// Runs DEFER's method over `hosts`, fed from here.
pub async fn defer_method(folder: &Path, hosts: &[Host], args: &ChainArgs, codec: &str) -> Result<DeferRun> {
    let python = python("defer-method")?;
    let script = script(folder, "defer_keras.py", DEFER)?;
    let count = hosts.len().to_string();
    let model = keras_model(&args.model).context("a network that Keras has")?;
    let mut nodes = Vec::new();
    for (index, host) in hosts.iter().enumerate() {
        let next = hosts.get(index + 1).map_or_else(|| super::bed::HUB, |host| host.address);
        let mut flags: Vec<OsString> = vec![script.clone().into(), "node".into()];
        flags.extend(
            ["--index", &index.to_string(), "--nodes", &count, "--model", model, "--codec", codec].map(OsString::from),
        );
        flags.extend(["--listen".into(), format!("{}:{PORT}", host.address).into()]);
        flags.extend(["--next".into(), format!("{next}:{PORT}").into()]);
        // It joins its group once TensorFlow is loaded, which would take minutes with a share of a CPU.
        for folder in host.group.folders() {
            flags.extend(["--group".into(), folder.into()]);
        }
        nodes.push(host.spawn_outside_group(&format!("DEFER's node {index}"), &python, &flags)?);
    }
    for node in &mut nodes {
        let end = Instant::now() + DEFER_UP;
        while !node.is_listening(&["node"])? {
            ensure!(Instant::now() < end, "{} is not up{}", node.describe(), node.last_words());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let first = hosts.first().context("no hosts")?.address;
    let in_flight = args.in_flight(hosts.len() as u8).to_string();
    let seconds = args.seconds.to_string();
    let mut flags: Vec<OsString> = vec![script.into(), "feed".into()];
    flags.extend(
        ["--nodes", &count, "--model", model, "--codec", codec, "--seconds", &seconds, "--in-flight", &in_flight]
            .map(OsString::from),
    );
    flags.extend([
        "--first".into(),
        format!("{first}:{PORT}").into(),
        "--listen".into(),
        format!("{}:{PORT}", super::bed::HUB).into(),
    ]);
    let mut feed = Process::spawn_as("DEFER's dispatcher", &python, &flags, &[])?;
    let limit = DEFER_UP + Duration::from_secs_f64(args.seconds);
    let whole = result(&mut feed, limit).await?;
    let mut figures = Vec::new();
    for node in &mut nodes {
        figures.push(result(node, Duration::from_secs(60)).await?);
    }
    Ok(DeferRun { whole, nodes: figures })
}

/// The line of JSON that `process` prints.
pub async fn result<T: serde::de::DeserializeOwned>(process: &mut Process, limit: Duration) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(line) = process.line() {
            return serde_json::from_str(&line).with_context(|| format!("{} printed {line}", process.describe()));
        }
        if process.status().is_some_and(|status| !status.success()) || Instant::now() >= end {
            bail!("{} gave no result{}", process.describe(), process.last_words());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
