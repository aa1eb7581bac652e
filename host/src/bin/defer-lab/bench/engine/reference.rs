//! ONNX Runtime driven from Python, in a process of its own.

use super::contest::Contestant;
use crate::folder::Folder;
use anyhow::{Context as _, Result, bail};
use defer_host::engine::Named;
use defer_partition::{DType, Tensor};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const SCRIPT: &str = include_str!("reference.py");

/// Killed when dropped.
pub struct Reference {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Of ONNX Runtime.
    pub version: String,
    /// What it computed of the inputs.
    pub outputs: Vec<Named>,
    /// The files that it was given.
    _folder: Folder,
}

impl Reference {
    /// Starts Python with `model` and gives it `inputs`.
    pub fn start(model: &Path, inputs: &[Named]) -> Result<Self> {
        let python = python()?;
        let folder = Folder::new("reference")?;
        write(folder.path(), inputs)?;
        let mut child = Command::new(&python)
            .args(["-c", SCRIPT])
            .arg(model)
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", python.display()))?;
        let requests = child.stdin.take().expect("stdin is piped");
        let answers = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (version, outputs) = (String::new(), Vec::new());
        let mut reference = Self { child, requests, answers, version, outputs, _folder: folder };
        let line = reference.line()?;
        let Some(version) = line.strip_prefix("ready ") else {
            bail!("the reference said \"{line}\" instead of being ready");
        };
        reference.version = version.to_owned();
        reference.outputs = read(reference._folder.path())?;
        Ok(reference)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            bail!("the reference in Python ended ({status}); its last words are above");
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Contestant for Reference {
    fn run(&mut self) -> Result<Vec<f64>> {
        self.requests.write_all(b"\n").context("the reference in Python takes no requests")?;
        let line = self.line()?;
        let ns: u64 = line.parse().with_context(|| format!("the reference said \"{line}\" instead of a time"))?;
        Ok(vec![ns as f64 / 1e6])
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The interpreter of the environment that set-up makes for this.
fn python() -> Result<PathBuf> {
    let python = defer_models::Cache::from_env()?.root().join("reference/bin/python");
    if !python.exists() {
        bail!("no ONNX Runtime for Python at {}; run `cargo xtask setup`", python.display());
    }
    Ok(python)
}

/// numpy's name of a type, for those that it has.
fn numpy(dtype: DType) -> Result<&'static str> {
    Ok(match dtype {
        DType::Fp16 => "float16",
        DType::Fp32 => "float32",
        DType::Fp64 => "float64",
        DType::Bool => "bool",
        DType::Int8 => "int8",
        DType::Int16 => "int16",
        DType::Int32 => "int32",
        DType::Int64 => "int64",
        DType::Uint8 => "uint8",
        DType::Uint16 => "uint16",
        DType::Uint32 => "uint32",
        DType::Uint64 => "uint64",
        DType::Bf16 => bail!("numpy has no {dtype}"),
    })
}

fn write(folder: &Path, inputs: &[Named]) -> Result<()> {
    let mut index = String::new();
    for (number, (name, tensor)) in inputs.iter().enumerate() {
        let shape: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(index, "{number}\t{name}\t{}\t{}", numpy(tensor.dtype)?, shape.join(","));
        fs::write(folder.join(format!("input-{number}")), &tensor.data)?;
    }
    Ok(fs::write(folder.join("inputs"), index)?)
}

fn read(folder: &Path) -> Result<Vec<Named>> {
    let index = fs::read_to_string(folder.join("outputs"))?;
    let tensor = |line: &str| {
        let mut fields = line.split('\t');
        let mut field = || fields.next().with_context(|| format!("the reference's output \"{line}\" is cut short"));
        let (number, name, kind, shape) = (field()?, field()?, field()?, field()?);
        let dtype = DType::ALL.into_iter().find(|dtype| numpy(*dtype).is_ok_and(|name| name == kind));
        let dtype = dtype.with_context(|| format!("the reference's output is of type {kind}"))?;
        let shape: Vec<usize> =
            shape.split(',').filter(|dim| !dim.is_empty()).map(str::parse).collect::<Result<_, _>>()?;
        let data = fs::read(folder.join(format!("output-{number}")))?;
        let tensor =
            Tensor::new(dtype, shape, data).context("the reference's output does not have its shape's size")?;
        Ok((name.to_owned(), tensor))
    };
    index.lines().map(tensor).collect()
}
