//! `defer-host deploy`: replaces the pipeline that a dispatcher serves.

use super::read_token;
use super::swap::bar;
use crate::client::UsageError;
use crate::dispatcher::nodes::NodeClient;
use crate::pipeline::Pipeline;
use crate::stdout;
use anyhow::{Context as _, Result};
use clap::Args;
use reqwest::Url;
use std::path::{Path, PathBuf};

/// Replaces the pipeline that a dispatcher serves, while requests flow: other weights, cuts, codecs, or number of stages.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-host deploy --admin http://127.0.0.1:8002 --pipeline dist/ocr-rec
  defer-host deploy --admin http://127.0.0.1:8002 --pipeline dist/ocr-rec --canary 5%
  defer-host deploy --admin http://127.0.0.1:8002 --promote ocr-rec

The pipeline must have the name, the inputs and the outputs of the one that is served. If any node cannot load its part,
nothing changes anywhere.")]
pub struct DeployArgs {
    /// URL of the dispatcher's admin port
    #[arg(long, value_name = "URL")]
    admin: Url,
    #[command(flatten)]
    what: What,
    /// Send this share of the requests to it first, such as 5%, until it is promoted or aborted
    #[arg(long, value_name = "SHARE", value_parser = share)]
    canary: Option<f64>,
    /// Drop the old pipeline before the new one is loaded, for nodes without memory for both: requests are refused meanwhile
    #[arg(long, conflicts_with = "canary")]
    stop_first: bool,
    /// File with the secret of the admin port
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the dispatcher's answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct What {
    /// Folder that build-stages wrote
    #[arg(long, value_name = "DIR")]
    pipeline: Option<PathBuf>,
    /// Send all requests of this pipeline to the generation that is on trial
    #[arg(long, value_name = "P")]
    promote: Option<String>,
    /// Send no more requests of this pipeline to the generation that is on trial
    #[arg(long, value_name = "P")]
    abort: Option<String>,
}

/// Runs the command.
pub async fn deploy(args: DeployArgs) -> Result<()> {
    let DeployArgs { admin, what, canary, stop_first, token_file, json } = args;
    if what.pipeline.is_none() && (canary.is_some() || stop_first) {
        return Err(UsageError("--canary and --stop-first go with --pipeline".to_owned()).into());
    }
    if admin.scheme() != "http" || admin.cannot_be_a_base() {
        return Err(UsageError(format!("--admin takes URLs such as http://127.0.0.1:8002, got {admin}")).into());
    }
    let client = NodeClient::of_dispatcher(admin, read_token(token_file.as_deref())?)?;
    let answer = match (&what.pipeline, &what.promote, &what.abort) {
        (Some(folder), ..) => {
            let pipeline = Pipeline::read(folder).map_err(|error| UsageError(error.to_string()))?;
            ship(&client, &pipeline, folder).await?;
            let mut query = Vec::new();
            query.extend(canary.map(|share| ("canary", share.to_string())));
            query.extend(stop_first.then(|| ("stop_first", "true".to_owned())));
            client.change(&pipeline.name, "deploy", &query, Some(&pipeline)).await?
        }
        (_, Some(name), _) => client.change(name, "promote", &[], None).await?,
        (_, _, Some(name)) => client.change(name, "abort", &[], None).await?,
        (None, None, None) => return Err(UsageError("give --pipeline, --promote or --abort".to_owned()).into()),
    };
    if json {
        return Ok(stdout::write(&format!("{answer}\n"))?);
    }
    let generation =
        answer["generation"].as_u64().with_context(|| format!("an answer of another version: {answer}"))?;
    let from = answer["first_seq"].as_u64().map_or_else(String::new, |first| format!(", from request {first} on"));
    let state = match (canary, what.abort) {
        (Some(share), _) => format!("is on trial with {}% of the requests", share * 100.0),
        (None, Some(_)) => "stays".to_owned(),
        (None, None) => "is active".to_owned(),
    };
    Ok(stdout::write(&format!("generation {generation} {state}{from}\n"))?)
}

/// Sends the dispatcher the stages that it lacks.
async fn ship(client: &NodeClient, pipeline: &Pipeline, folder: &Path) -> Result<()> {
    for stage in &pipeline.stages {
        if client.has_artifact(&stage.digest).await? {
            continue;
        }
        let file = folder.join(&stage.file);
        let total = std::fs::metadata(&file).with_context(|| format!("cannot read {}", file.display()))?.len();
        let bar = bar(total).with_prefix(format!("stage {}", stage.index));
        let shown = bar.clone();
        let sent = client.upload(&stage.digest, &file, move |bytes| shown.inc(bytes)).await;
        bar.finish_and_clear();
        sent.with_context(|| format!("cannot send stage {}", stage.index))?;
    }
    Ok(())
}

/// A part of all requests: `5%` or `0.05`.
fn share(text: &str) -> Result<f64, String> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().ok().map(|percent| percent / 100.0),
        None => text.parse().ok(),
    };
    share.filter(|share| *share > 0.0 && *share < 1.0).ok_or_else(|| "give a share such as 5%".to_owned())
}
