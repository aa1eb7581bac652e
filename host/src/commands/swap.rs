//! `defer-host swap`: exchanges one stage of a running pipeline.

use super::read_token;
use crate::client::UsageError;
use crate::dispatcher::nodes::NodeClient;
use crate::stdout;
use anyhow::{Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Url;
use serde_json::Value;
use std::path::PathBuf;

/// Exchanges one stage of a running pipeline; requests go on meanwhile, each through stages of one generation.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-host swap --node http://pi-2:7700 --pipeline ocr-rec --stage 1 dist/ocr-rec/stage-1.wasm
  defer-host swap --node http://pi-2:7700 --pipeline ocr-rec --stage 1 --rollback

The node is the one on which the stage runs. A stage that does not fit, does not load, or fails its warm-up is refused,
and the old one goes on.")]
pub struct SwapArgs {
    /// The new stage
    #[arg(value_name = "STAGE.wasm", required_unless_present = "rollback", conflicts_with = "rollback")]
    file: Option<PathBuf>,
    /// URL of the node's REST port
    #[arg(long, value_name = "URL")]
    node: Url,
    /// Name of the pipeline
    #[arg(long, value_name = "P")]
    pipeline: String,
    /// Which stage, from 0
    #[arg(long, value_name = "I")]
    stage: usize,
    /// Go back to what ran before instead
    #[arg(long)]
    rollback: bool,
    /// File with the secret of the nodes
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the node's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn swap(args: SwapArgs) -> Result<()> {
    let SwapArgs { file, node, pipeline, stage, token_file, json, .. } = args;
    if node.scheme() != "http" || node.cannot_be_a_base() {
        return Err(UsageError(format!("--node takes URLs such as http://pi-1:7700, got {node}")).into());
    }
    let client = NodeClient::new(node, read_token(token_file.as_deref())?)?;
    let answer = match file {
        Some(file) => {
            let total = std::fs::metadata(&file).map(|meta| meta.len()).map_err(|error| {
                UsageError(format!(
                    "cannot read {}: {error}; give a stage-<i>.wasm that build-stages wrote",
                    file.display()
                ))
            })?;
            let bar = bar(total);
            let shown = bar.clone();
            let sent = move |bytes| {
                shown.inc(bytes);
                if shown.position() >= total {
                    shown.set_message("sent; the node checks, loads and warms it up");
                }
            };
            let answer = client.swap(&pipeline, stage, &file, sent).await;
            bar.finish_and_clear();
            answer?
        }
        None => client.roll_back(&pipeline, stage).await?,
    };
    if json {
        return Ok(stdout::write(&format!("{answer}\n"))?);
    }
    let (Some(generation), Some(first), Some(loaded_ms)) =
        (answer["generation"].as_u64(), answer["first_seq"].as_u64(), answer["loaded_ms"].as_f64())
    else {
        bail!("the node's answer is of another version: {answer}");
    };
    let short = |digest: &Value| digest.as_str().unwrap_or_default().chars().take(12).collect::<String>();
    let (old, new) = (short(&answer["previous_digest"]), short(&answer["digest"]));
    let from = if first > 0 { format!(", from request {first} on") } else { String::new() };
    let line = format!(
        "stage {stage} of {pipeline}: {old} → {new} in generation {generation}{from}; loaded in {loaded_ms:.0} ms\n"
    );
    Ok(stdout::write(&line)?)
}

/// A bar on stderr, if that is a terminal.
pub(super) fn bar(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>9} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {msg}")
        .expect("the template is well-formed");
    ProgressBar::new(total).with_style(style.progress_chars("=> "))
}
