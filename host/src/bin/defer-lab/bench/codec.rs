//! `defer-lab bench codec`: what each codec makes of real activations, and how fast.

use super::report;
use crate::table::{Side, table};
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use defer_host::buffer::Pool;
use defer_host::build::{fold_constants, random_inputs};
use defer_host::client::UsageError;
use defer_host::engine::{self, Choice, Engine, Model, Named, Options};
use defer_host::relay::codec::{self, Codec};
use defer_partition::cut::crossings;
use defer_partition::{Atoms, DType, Network, Tensor, fold, onnx, slice};
use prost::Message as _;
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// DEFER's cuts of ResNet50, every second residual block (Parthasarathy and Krishnamachari, 2022).
const DEFER: [&str; 7] =
    ["add_2_relu", "add_4_relu", "add_6_relu", "add_8_relu", "add_10_relu", "add_12_relu", "add_14_relu"];
/// Cuts of other networks, evenly spread over those that one tensor crosses.
const CUTS: usize = 8;
/// Codecs with parameters that are measured unless others are named.
const PARAMETERS: [&str; 6] = [
    "int8+zstd:relative=1e-2",
    "zfp:reversible",
    "zfp:relative=1e-2",
    "zfp:relative=1e-3",
    "zfp:rate=8",
    "constant-size:density=0.5",
];
/// Spare buffers, in bytes.
const POOL: usize = 256 << 20;

/// What each codec makes of activations: bytes, speed on one core, error.
///
/// Tensors are those of the network itself, run on a sample input (printed text and pages) or, with --random, on
/// pseudo-random pixels: ResNet50 at DEFER's seven cuts, others at up to eight cuts that one tensor crosses. All codecs take
/// turns, round after round; speeds are of raw bytes, by the median, and include the checksum.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-lab bench codec
  defer-lab bench codec --each --model resnet50 --codec sparse --codec zfp:accuracy=1e-3
  defer-lab bench codec --json --random > codec.json")]
pub struct CodecArgs {
    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    json: bool,
    /// A line per tensor instead of one per network and codec
    #[arg(long)]
    each: bool,
    /// Networks of the catalogue, or .onnx files
    #[arg(long, value_name = "MODEL", default_values = ["resnet50", "ocr-rec", "ocr-det"])]
    model: Vec<String>,
    /// Codecs [default: all]
    #[arg(long, value_name = "C", value_parser = |text: &str| text.parse::<Codec>())]
    codec: Vec<Codec>,
    /// Pseudo-random inputs instead of the sample ones
    #[arg(long)]
    random: bool,
    /// Counted rounds
    #[arg(long, default_value_t = 15, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

#[derive(Debug, Serialize)]
struct Row {
    model: String,
    trained: bool,
    /// `sample` or `random`.
    input: &'static str,
    tensor: String,
    shape: Vec<usize>,
    codec: String,
    /// What the tensor travelled by: `raw` where the codec would not make it smaller.
    travelled_as: String,
    lossless: bool,
    raw_bytes: usize,
    encoded_bytes: usize,
    ratio: f64,
    encode_gbps: f64,
    decode_gbps: f64,
    /// The largest error of a value over the tensor's largest magnitude.
    max_relative_error: f64,
}

pub fn run(args: &CodecArgs) -> Result<()> {
    let engine = engine::open(Choice::Auto, None)?;
    let codecs = match args.codec.is_empty() {
        true => Codec::plain().map(Ok).chain(PARAMETERS.iter().map(|text| text.parse())).collect::<Result<_, _>>(),
        false => Ok(args.codec.clone()),
    };
    let codecs: Vec<Codec> = codecs.map_err(UsageError)?;
    let mut rows = Vec::new();
    for model in &args.model {
        let subject = Subject::run(model, args.random, engine.as_ref())?;
        for (name, tensor) in &subject.tensors {
            eprintln!("{model} {name} {:?}", tensor.shape);
            rows.extend(measure(&subject, name, tensor, &codecs, args.rounds)?);
        }
    }
    report(args.json, "codec", &rows, |rows| match args.each {
        true => each(rows),
        false => format!("{}\n{}", sums(rows), winners(rows)),
    })
}

/// A network's activations.
struct Subject {
    model: String,
    trained: bool,
    input: &'static str,
    tensors: Vec<Named>,
}

impl Subject {
    /// Runs the network once, with the tensors that cross its cuts as outputs.
    fn run(name: &str, random: bool, engine: &dyn Engine) -> Result<Self> {
        let model = defer_models::resolve(name).map_err(|error| UsageError(error.to_string()))?;
        let file = model.path(&mut |line| eprintln!("{line}"))?;
        let mut network = Network::new(onnx::read(&file)?)?;
        let options = Options::new(1);
        fold::fold(&mut network);
        if let Err(error) = fold_constants(&mut network, engine, options) {
            eprintln!("constants of {name} are not folded: {error}");
        }
        let cuts = cuts(&network);
        let cuts: Vec<&str> = cuts.iter().map(String::as_str).collect();
        let Some(samples) = model.entry().map(|entry| entry.sample_inputs()).transpose()? else {
            bail!(UsageError(format!("{name} is not in the catalogue: there is no sample input for it")));
        };
        let (_, mut inputs) = samples.into_iter().next().context("the catalogue has a sample for each network")?;
        if random {
            let shapes: Vec<Vec<usize>> = inputs.iter().map(|(_, tensor)| tensor.shape.clone()).collect();
            inputs = random_inputs(network.inputs(), &shapes, 1).context("the inputs do not fit memory")?;
        }
        let bytes = slice::whole(&network, &cuts).embedded().encode_to_vec();
        let mut session = engine.load(Model { bytes: &bytes, weights_folder: None }, options)?;
        let mut results = session.run(&inputs, &Pool::new(0))?;
        let tensors = cuts.iter().filter_map(|cut| {
            let at = results.iter().position(|(name, _)| name == cut)?;
            Some(results.swap_remove(at))
        });
        let tensors = tensors.collect();
        let trained = model.entry().is_some_and(|entry| entry.trained);
        Ok(Self { model: name.to_owned(), trained, input: if random { "random" } else { "sample" }, tensors })
    }
}

/// Tensors to look at: DEFER's where the network has them.
fn cuts(network: &Network) -> Vec<String> {
    let atoms = Atoms::new(network);
    let crossing = crossings(network, &atoms);
    let known: BTreeSet<&str> = crossing.iter().flatten().copied().collect();
    if DEFER.iter().all(|name| known.contains(name)) {
        return DEFER.map(str::to_owned).to_vec();
    }
    let single: Vec<&str> = crossing.iter().filter(|names| names.len() == 1).map(|names| names[0]).collect();
    let at: BTreeSet<usize> = (1..=CUTS).map(|n| n * single.len() / (CUTS + 1)).collect();
    at.into_iter().filter_map(|at| single.get(at).map(|name| (*name).to_owned())).collect()
}

#[derive(Default)]
struct Measured {
    encode: Vec<Duration>,
    decode: Vec<Duration>,
    encoded_bytes: usize,
    travelled_as: Codec,
    max_relative_error: f64,
}

/// All codecs on one tensor, in turn.
fn measure(subject: &Subject, name: &str, tensor: &Tensor, codecs: &[Codec], rounds: u32) -> Result<Vec<Row>> {
    let pool = Pool::new(POOL);
    let mut measured: Vec<Measured> = codecs.iter().map(|_| Measured::default()).collect();
    for round in 0..=rounds {
        for (codec, seen) in codecs.iter().zip(&mut measured) {
            // As a tensor comes from the engine: in a buffer of the pool.
            let mut data = pool.take(tensor.data.len());
            data.extend_from_slice(&tensor.data);
            let copy = Tensor { dtype: tensor.dtype, shape: tensor.shape.clone(), data };
            let started = Instant::now();
            let encoded = codec::encode(copy, *codec, &pool);
            let encode = started.elapsed();
            (seen.encoded_bytes, seen.travelled_as) = (encoded.data.len(), encoded.codec);
            let started = Instant::now();
            let decoded = codec::decode(encoded, &pool)?;
            let decode = started.elapsed();
            if round == 0 {
                // Warms up: not counted.
                seen.max_relative_error = error(tensor, &decoded)?;
                let lossless = !seen.travelled_as.is_lossy();
                ensure!(!lossless || decoded.data == tensor.data, "{codec} changed {name}");
            } else {
                seen.encode.push(encode);
                seen.decode.push(decode);
            }
            pool.give(decoded.data);
        }
    }
    let row = |(codec, mut seen): (&Codec, Measured)| {
        let raw_bytes = tensor.data.len();
        Row {
            model: subject.model.clone(),
            trained: subject.trained,
            input: subject.input,
            tensor: name.to_owned(),
            shape: tensor.shape.clone(),
            codec: codec.to_string(),
            travelled_as: seen.travelled_as.to_string(),
            lossless: !codec.is_lossy(),
            raw_bytes,
            encoded_bytes: seen.encoded_bytes,
            ratio: seen.encoded_bytes as f64 / raw_bytes as f64,
            encode_gbps: raw_bytes as f64 / 1e9 / median(&mut seen.encode),
            decode_gbps: raw_bytes as f64 / 1e9 / median(&mut seen.decode),
            max_relative_error: seen.max_relative_error,
        }
    };
    Ok(codecs.iter().zip(measured).map(row).collect())
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

fn error(want: &Tensor, got: &Tensor) -> Result<f64> {
    if want.dtype != DType::Fp32 {
        return Ok(0.0);
    }
    let (want, got) = (want.to_f32().context("floats")?, got.to_f32().context("floats")?);
    let largest = want.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let error = want.iter().zip(&got).map(|(want, got)| (f64::from(*want) - f64::from(*got)).abs()).fold(0.0, f64::max);
    Ok(if error == 0.0 { 0.0 } else { error / f64::from(largest) })
}

fn each(rows: &[Row]) -> String {
    let cells: Vec<[String; 7]> = rows
        .iter()
        .map(|row| {
            let Row { model, input, tensor, codec, ratio, encode_gbps, decode_gbps, max_relative_error, .. } = row;
            [
                format!("{model} ({input})"),
                tensor.clone(),
                codec.clone(),
                format!("{ratio:.3}"),
                format!("{encode_gbps:.2}"),
                format!("{decode_gbps:.2}"),
                format!("{max_relative_error:.1e}"),
            ]
        })
        .collect();
    let header = [
        ("network", Side::Left),
        ("tensor", Side::Left),
        ("codec", Side::Left),
        ("ratio", Side::Right),
        ("encode GB/s", Side::Right),
        ("decode GB/s", Side::Right),
        ("error", Side::Right),
    ];
    table(header, &cells)
}

/// All tensors of a network together.
fn sums(rows: &[Row]) -> String {
    let mut seen = BTreeSet::new();
    let keys: Vec<(&str, &str)> =
        rows.iter().map(|row| (&*row.model, &*row.codec)).filter(|key| seen.insert(*key)).collect();
    let cells: Vec<[String; 7]> = keys
        .into_iter()
        .map(|(model, codec)| {
            let of: Vec<&Row> = rows.iter().filter(|row| row.model == model && row.codec == codec).collect();
            let raw: f64 = of.iter().map(|row| row.raw_bytes as f64).sum();
            let encoded: usize = of.iter().map(|row| row.encoded_bytes).sum();
            let speed = |gbps: fn(&Row) -> f64| {
                format!("{:.2}", raw / of.iter().map(|row| row.raw_bytes as f64 / gbps(row)).sum::<f64>())
            };
            let error = of.iter().map(|row| row.max_relative_error).fold(0.0, f64::max);
            [
                format!("{model} ({}{})", of[0].input, if of[0].trained { ", trained" } else { "" }),
                codec.to_owned(),
                encoded.to_string(),
                format!("{:.3}", encoded as f64 / raw),
                speed(|row| row.encode_gbps),
                speed(|row| row.decode_gbps),
                format!("{error:.1e}"),
            ]
        })
        .collect();
    let header = [
        ("network", Side::Left),
        ("codec", Side::Left),
        ("bytes", Side::Right),
        ("ratio", Side::Right),
        ("encode GB/s", Side::Right),
        ("decode GB/s", Side::Right),
        ("largest error", Side::Right),
    ];
    table(header, &cells)
}

/// The lossless codec that makes each tensor smallest.
fn winners(rows: &[Row]) -> String {
    let mut seen = BTreeSet::new();
    let keys: Vec<(&str, &str)> =
        rows.iter().map(|row| (&*row.model, &*row.tensor)).filter(|key| seen.insert(*key)).collect();
    let cells: Vec<[String; 5]> = keys
        .into_iter()
        .filter_map(|(model, tensor)| {
            let of = rows.iter().filter(|row| row.model == model && row.tensor == tensor && row.lossless);
            let best = of.min_by_key(|row| row.encoded_bytes)?;
            let shape = format!("{:?}", best.shape);
            Some([model.to_owned(), tensor.to_owned(), shape, best.codec.clone(), format!("{:.3}", best.ratio)])
        })
        .collect();
    let header = [
        ("network", Side::Left),
        ("tensor", Side::Left),
        ("shape", Side::Left),
        ("smallest lossless", Side::Left),
        ("ratio", Side::Right),
    ];
    table(header, &cells)
}
