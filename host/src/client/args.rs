//! What the `infer` command takes.

use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// The arguments cannot be followed; the process should end with status 2.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Sends inferences to a dispatcher, or to any server of the Open Inference Protocol v2
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  defer-host infer --model ocr-rec --input label.png
      what a picture says
  defer-host infer --model ocr-rec --repeat 500 --concurrency 8
      throughput and latency with the sample pictures
  defer-host infer --model bert --input ids=ids.npy --input mask=mask.npy --output answers
      a network with two inputs; results as .npy files")]
pub struct InferArgs {
    /// Base URL of the server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub url: String,

    /// Name of the model
    #[arg(long, value_name = "NAME")]
    pub model: String,

    /// A .npy file (NAME=FILE, or FILE for the next input in the model's order), or a picture (PNG, JPEG) for a model
    /// of the catalogue; may be repeated. Once all inputs of the model are given, the next begins another request.
    /// Without any, a model of the catalogue gets its sample pictures
    #[arg(long = "input", value_name = "[NAME=]FILE")]
    pub inputs: Vec<String>,

    /// Writes each answer's outputs to DIR/<input file's stem>.<output>.npy (BF16 as its 16 bits in a uint16 array)
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,

    /// Sends every request N times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub repeat: u64,

    /// Keeps C requests under way at once
    #[arg(long, value_name = "C", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,

    /// Time limit for each attempt, which the server is told too; 0 for none
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout: u32,

    /// How often a request that the server asks to send later (503 with Retry-After) is sent again
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub retries: u32,

    /// File with the server's API token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Prints one JSON document instead of text
    #[arg(long)]
    pub json: bool,
}

impl InferArgs {
    /// The time limit of one attempt.
    pub(super) fn budget(&self) -> Option<Duration> {
        (self.timeout > 0).then(|| Duration::from_secs(self.timeout.into()))
    }
}
