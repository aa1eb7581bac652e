//! `defer-host inspect`: what a stage artifact holds.

use crate::artifact::{Artifact, Digest};
use crate::sandbox::{Limits, Sandbox};
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::fs::File;
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
    let artifact = Artifact::open(&args.file)?;
    let digest = Digest::of(File::open(&args.file)?)?;
    let imports = Sandbox::new(Limits::default())?.imports(&artifact)?;
    // Checks every reference out of the graph.
    let graph = artifact.model()?;
    let manifest = &artifact.manifest;
    if args.json {
        let document = json!({
            "file": args.file,
            "digest": digest,
            "bytes": artifact.len(),
            "component_bytes": artifact.component().len(),
            "graph_bytes": graph.len(),
            "weights_bytes": manifest.weights_bytes,
            "imports": imports,
            "manifest": manifest,
        });
        println!("{}", serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    println!("{}", args.file.display());
    println!("  stage      {} of {} of pipeline \"{}\"", manifest.index, manifest.count, manifest.pipeline);
    println!("  sha256     {digest}");
    println!(
        "  bytes      {} (component {}, graph {}, weights {})",
        artifact.len(),
        artifact.component().len(),
        manifest.graph_bytes,
        manifest.weights_bytes
    );
    println!("  model      sha256 {}", manifest.model_digest);
    for (what, infos) in
        [("inputs", &manifest.inputs), ("outputs", &manifest.outputs), ("forwards", &manifest.forwards)]
    {
        for info in infos {
            println!("  {what:<10} {info}");
        }
    }
    for import in imports {
        println!("  imports    {import}");
    }
    Ok(())
}
