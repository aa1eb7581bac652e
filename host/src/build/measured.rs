//! The `profile` command: what a network's parts and the cuts between them cost, for planners.

use super::scratch::Bench;
use super::{Bars, BuildError, BuildOptions, Prepared, Profiler, Progress, Study, profile};
use crate::engine::{self, Choice, Engine};
use crate::relay::Codec;
use anyhow::Context as _;
use clap::Args;
use defer_partition::dims::parse_dim;
use defer_partition::profile::Profile;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Lossy codecs that plans may be allowed, beside the lossless ones.
const LOSSY: [&str; 6] = ["f16", "sparse+f16", "int8", "sparse+int8", "int8+zstd", "int8+zstd:relative=1e-2"];
/// Name of the file, in the network's folder.
const FILE: &str = "profile.json";

/// Measures what a network's parts and the cuts between them cost on this machine, and writes it to a file for planners
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  defer-host profile --model resnet50
      writes dist/resnet50/profile.json
  defer-host profile --model net.onnx --dim width=320 --out net.json --json

Times are CPU time of one thread, on the engine that will run the stages. Encoding and decoding are those of the network's
own activations, by each codec, and include what sending and taking in the bytes costs the CPU.")]
pub struct ProfileArgs {
    /// Path of an .onnx file, or a name of the catalogue
    #[arg(long, value_name = "MODEL")]
    model: String,

    /// File to write; dist/<model>/profile.json by default
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// About how many stages it will be cut into: parts are timed in runs of that length
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(2..=1024))]
    stages: u16,

    /// Size to profile an open dimension with. May be repeated
    #[arg(long = "dim", value_name = "NAME=SIZE", value_parser = parse_dim)]
    dims: Vec<(String, usize)>,

    /// Threads that the engine profiles with
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,

    /// Inference engine to profile with: onnxruntime, tract, or auto: onnxruntime where its library loads, else tract
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    engine: Choice,

    /// onnxruntime's shared library, if not where setup puts it
    #[arg(long, value_name = "FILE")]
    ort_lib: Option<PathBuf>,

    /// Also prints the profile, instead of a summary
    #[arg(long)]
    json: bool,
}

/// Runs the command: progress on stderr, a summary or the profile on stdout.
///
/// # Errors
/// [`crate::client::UsageError`] where [`BuildError::is_usage`].
pub fn run(args: &ProfileArgs) -> anyhow::Result<()> {
    let bars = Bars::default();
    let ProfileArgs { model, dims, threads, .. } = args.clone();
    let options = BuildOptions { model, dims, threads, ..BuildOptions::default() };
    let file = |prepared: &Prepared| args.out.clone().unwrap_or_else(|| options.folder(&prepared.name).join(FILE));
    let work = || {
        let engine = engine::open(args.engine, args.ort_lib.clone())?;
        measure(&options, usize::from(args.stages), engine.as_ref(), &file, &bars)
    };
    let (profile, file) = work().map_err(BuildError::for_a_command)?;
    bars.clear();
    let text = match args.json {
        true => serde_json::to_string_pretty(&profile).context("the profile is no JSON")? + "\n",
        false => summary(&profile, &file),
    };
    crate::stdout::write(&text).context("cannot write the report")
}

/// Profiles a network, and writes that to the file that `file` names.
fn measure(
    options: &BuildOptions,
    stages: usize,
    engine: &dyn Engine,
    file: &dyn Fn(&Prepared) -> PathBuf,
    progress: &dyn Progress,
) -> Result<(Profile, PathBuf), BuildError> {
    let folder = |prepared: &Prepared| {
        let file = file(prepared);
        file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new(".")).to_owned()
    };
    let Study { prepared, atoms, session, scratch, mut trace, .. } = Study::new(options, 1, engine, folder, progress)?;
    let bench = Bench { engine, options: session, scratch: &scratch };
    let mut profiler = Profiler::new(&bench, &prepared.network, &atoms, &mut trace, &codecs(), progress)?;
    profiler.survey(stages)?;
    let profile = profiler.profile(&prepared.name);
    let file = file(&prepared);
    profile.write(&file).map_err(|cause| BuildError::write(&file, 0, cause))?;
    Ok((profile, file))
}

/// Every codec that a plan may choose from.
fn codecs() -> Vec<Codec> {
    let lossy = LOSSY.iter().map(|name| name.parse().expect("a codec that there is"));
    profile::LOSSLESS.into_iter().chain(lossy).collect()
}

/// A few lines for a person.
fn summary(profile: &Profile, file: &Path) -> String {
    let compute: f64 = profile.atoms.iter().map(|atom| atom.compute_ms).sum();
    let weights: u64 = profile.atoms.iter().map(|atom| atom.weights_bytes).sum();
    let peak = profile.atoms.iter().map(|atom| atom.activation_peak_bytes).max().unwrap_or_default();
    let mega = |bytes: u64| bytes as f64 / 1e6;
    let mut text = format!(
        "{}: {} parts, {} places to cut, {compute:.2} ms, {:.1} MB of weights, activations of {:.1} MB at most\n",
        profile.model,
        profile.atoms.len(),
        profile.cuts.len(),
        mega(weights),
        mega(peak)
    );
    let raw = |at: usize| profile.cuts[at].codecs.first().map_or(0, |raw| raw.bytes);
    if let (Some(least), Some(most)) =
        ((0..profile.cuts.len()).min_by_key(|&at| raw(at)), (0..profile.cuts.len()).max_by_key(|&at| raw(at)))
    {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:.2} to {:.2} MB cross a cut", mega(raw(least)), mega(raw(most)));
    }
    let _ = writeln!(text, "written to {}", file.display());
    text
}
