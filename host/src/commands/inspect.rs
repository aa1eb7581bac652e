//! `defer-host inspect`: what a stage artifact holds.

use crate::artifact::{Artifact, ArtifactError, Digest};
use crate::client::UsageError;
use crate::sandbox::{Limits, Sandbox};
use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;
use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::ErrorKind;
use std::path::PathBuf;

/// Shows what a stage artifact holds: manifest, imports, sizes, digest.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  defer-host inspect dist/ocr-rec/stage-0.wasm")]
pub struct InspectArgs {
    /// The artifact
    #[arg(value_name = "STAGE.WASM")]
    file: PathBuf,
    /// One JSON document on stdout
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn inspect(args: &InspectArgs) -> Result<()> {
    let artifact = Artifact::open(&args.file).map_err(|error| match &error {
        ArtifactError::Io { cause, .. } if cause.kind() == ErrorKind::NotFound => UsageError(error.to_string()).into(),
        _ => anyhow::Error::from(error),
    })?;
    let digest = Digest::of(File::open(&args.file)?)?;
    let imports = Sandbox::new(Limits::default())?.imports(&artifact)?;
    // Checks every reference out of the graph.
    artifact.model()?;
    let manifest = &artifact.manifest;
    if args.json {
        let document = json!({
            "file": args.file,
            "digest": digest,
            "bytes": artifact.len(),
            "component_bytes": artifact.component().len(),
            "graph_bytes": manifest.graph_bytes,
            "weights_bytes": manifest.weights_bytes,
            "imports": imports,
            "manifest": manifest,
        });
        return print(serde_json::to_string_pretty(&document)? + "\n");
    }
    let mut text = String::new();
    let mut line = |what: &str, value: &dyn Display| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {what:<10} {value}");
    };
    line("stage", &format_args!("{} of {} of pipeline \"{}\"", manifest.index, manifest.count, manifest.pipeline));
    line("sha256", &digest);
    line(
        "bytes",
        &format_args!(
            "{} (component {}, graph {}, weights {})",
            artifact.len(),
            artifact.component().len(),
            manifest.graph_bytes,
            manifest.weights_bytes
        ),
    );
    line("model", &format_args!("sha256 {}", manifest.model_digest));
    for (what, infos) in
        [("inputs", &manifest.inputs), ("outputs", &manifest.outputs), ("forwards", &manifest.forwards)]
    {
        infos.iter().for_each(|info| line(what, info));
    }
    imports.iter().for_each(|import| line("imports", import));
    print(format!("{}\n{text}", args.file.display()))
}

fn print(text: String) -> Result<()> {
    crate::stdout::write(&text).context("cannot write the report")
}
