//! The `infer` command: sends tensors or pictures to any server of the Open Inference Protocol and reports the answers,
//! their latency and what failed.

mod args;
mod endpoint;
mod inputs;
mod load;
mod npy;
mod report;
mod save;
#[cfg(test)]
mod tests;
mod wire;

pub use args::{InferArgs, UsageError};
pub use load::{Failed, Load};
pub use wire::Outputs;

use anyhow::Context;
use defer_models::Processor;
use defer_partition::Tensor;
use endpoint::Endpoint;
use inputs::Prepared;
use report::Report;
use std::sync::Arc;

/// Does what `args` say: progress on stderr; answers and figures, or one JSON document, on stdout.
///
/// # Errors
/// [`UsageError`] where the arguments do not fit each other or the model, which is for exit status 2; anything else,
/// a single failed request included, for exit status 1. The report is printed even when requests failed.
pub async fn run(args: InferArgs) -> anyhow::Result<()> {
    let report = measure(&args).await?;
    let text = if args.json { report.json()? } else { report.text() };
    crate::stdout::write(&text).context("cannot write the report")?;
    report.verdict()
}

async fn measure(args: &InferArgs) -> anyhow::Result<Report> {
    let endpoint = Arc::new(Endpoint::new(args)?);
    let model =
        endpoint.metadata().await.with_context(|| format!("cannot ask {} about \"{}\"", args.url, args.model))?;
    let (prepared, processor) = {
        let (inputs, model) = (args.inputs.clone(), model.clone());
        // Files, pip, and the arithmetic of pictures: nothing for an async thread.
        tokio::task::spawn_blocking(move || prepare(&inputs, &model)).await.context("preparing the inputs failed")??
    };
    let requests = prepared.iter().map(|p| wire::encode(&p.inputs, args.budget())).collect();
    let load = load::run(endpoint, requests, args).await;
    let saved = match &args.output {
        Some(dir) => save::outputs(dir, &prepared, &load.answers)?,
        None => Vec::new(),
    };
    Ok(Report::new(args, &prepared, load, processor.as_ref(), &saved))
}

/// Sends each of `requests` as `args` say, whose own inputs are not looked at, and keeps count.
///
/// # Errors
/// When `args` name no server; what fails afterwards is in the [`Load`].
pub async fn send(args: &InferArgs, requests: &[Vec<(String, Tensor)>]) -> anyhow::Result<Load> {
    let endpoint = Arc::new(Endpoint::new(args)?);
    let encoded = requests.iter().map(|inputs| wire::encode(inputs, args.budget())).collect();
    Ok(load::run(endpoint, encoded, args).await)
}

/// The requests to send, and what reads their answers if the model is one of the catalogue.
fn prepare(given: &[String], model: &crate::oip::ModelMetadata) -> anyhow::Result<(Vec<Prepared>, Option<Processor>)> {
    let entry = defer_models::find(&model.name);
    let given = inputs::open(given, model)?;
    let pictures = given.iter().any(inputs::Given::is_picture);
    let processor = match entry {
        Some(entry) if pictures || given.is_empty() => {
            // Most need nothing of the model's file, which may be large.
            let made = Processor::for_model(entry, &[]).or_else(|_| {
                let file = entry.fetch(&mut |line| eprintln!("{line}"))?;
                anyhow::Ok(Processor::for_file(entry, &file)?)
            });
            match made {
                Ok(processor) => Some(processor),
                Err(e) if pictures => {
                    return Err(e.context(format!("cannot turn pictures into inputs of {}", entry.name)));
                }
                Err(e) => {
                    eprintln!("answers stay tensors: {e:#}");
                    None
                }
            }
        }
        _ => None,
    };
    let prepared = match entry {
        Some(entry) if given.is_empty() => {
            let samples =
                entry.sample_inputs().with_context(|| format!("cannot make the samples of {}", entry.name))?;
            samples
                .into_iter()
                .map(|(stem, inputs)| Prepared { label: format!("sample {stem}"), stem, inputs })
                .collect()
        }
        _ => inputs::assign(given, model, processor.as_ref())?,
    };
    for request in &prepared {
        request.check(model)?;
    }
    Ok((prepared, processor))
}
