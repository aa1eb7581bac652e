//! The first generation of a dispatcher's life.

use super::Config;
use super::deploy::{self, Progress};
use super::failure::PartFailed;
use super::fleet::{Fleet, Member};
use super::generations::{Before, Generations};
use super::nodes::{Answered, NoRoom, Taken};
use super::placement::{self, Homes, has};
use super::record::{Active, Home};
use crate::pipeline::Pipeline;
use anyhow::{Context as _, Result, anyhow, bail};
use reqwest::{StatusCode, Url};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often a pipeline that another dispatcher had is asked for again.
const RETAKE: Duration = Duration::from_secs(2);
/// How long what earlier dispatchers left may finish what is in it.
const DRAIN_OLD: Duration = Duration::from_secs(10);

/// Waits for the nodes that are to have stages: those that had them when the life before ended, or else those that were given.
///
/// # Errors
/// When one of those that were given does not answer in time; a life that goes on can do so on other nodes.
pub(super) async fn meet(
    fleet: &Fleet,
    config: &Config,
    before: Option<&Active>,
    shutdown: &CancellationToken,
) -> Result<()> {
    let had = before.map(|before| before.nodes.iter().flat_map(Home::urls).cloned().collect::<Vec<_>>());
    let is_awaited = |url: &Url| match &had {
        Some(had) => had.iter().any(|had| had == url.as_str()),
        None => config.nodes.iter().flatten().any(|given| given == url),
    };
    let met = shutdown.run_until_cancelled(fleet.meet(config.wait_for_nodes, is_awaited)).await;
    match met.unwrap_or_else(|| Err(anyhow!("interrupted while waiting for nodes")))? {
        Some(error) if before.is_none() => Err(error),
        Some(error) => {
            tracing::warn!(error = format!("{error:#}"), "a node that had a stage does not answer; it may come later");
            Ok(())
        }
        None => Ok(()),
    }
}

/// What runs first, and where: what was active when the life before ended, or else what was given.
pub(super) fn first(
    generations: &Generations,
    given: Pipeline,
    nodes: &[Vec<Url>],
    before: Option<Active>,
) -> Result<(Arc<Pipeline>, Homes)> {
    let fleet = &generations.fleet;
    let member = |url: &str| fleet.by_url(url).filter(|node| node.is_up()).cloned();
    let Some(Active { pipeline, nodes, generation, .. }) = before else {
        let homes: Homes =
            nodes.iter().map(|home| home.iter().filter_map(|url| member(url.as_str())).collect()).collect();
        let homes = placement::fill(&generations.setup.wanted(&given), &homes, fleet.up());
        if let Some(index) = homes.iter().position(Vec::is_empty) {
            bail!("there is no node for stage {index}");
        }
        return Ok((Arc::new(given), homes));
    };
    tracing::info!(generation, "going on where the last life of this dispatcher ended");
    let pipeline = generations.setup.rounding.of(pipeline);
    let now: Homes = nodes.iter().map(|home| home.urls().iter().filter_map(|url| member(url)).collect()).collect();
    let up: Vec<Arc<Member>> = fleet.up().cloned().collect();
    let homes = placement::fill_or_share(&generations.setup.wanted(&pipeline), &now, &up);
    Ok((Arc::new(pipeline), homes.context("no node answers that its stages could run on")?))
}

/// Has the first generation prepared and makes it active; what earlier dispatchers left is dropped.
pub(super) async fn start(
    generations: &Arc<Generations>,
    pipeline: &Arc<Pipeline>,
    mut homes: Homes,
    progress: &Arc<dyn Progress>,
    shutdown: &CancellationToken,
) -> Result<()> {
    for (index, (home, wanted)) in homes.iter().zip(generations.setup.wanted(pipeline)).enumerate() {
        if home.len() < wanted {
            tracing::warn!(stage = index, wanted, got = home.len(), "there are too few nodes for its replicas");
        }
    }
    let started = Instant::now();
    let mut unfit = Vec::new();
    let (running, tentative) = loop {
        let work = generations.prepare(pipeline, &homes, progress);
        let prepared = shutdown.run_until_cancelled(work).await;
        match prepared.unwrap_or_else(|| Err(anyhow!("interrupted while deploying"))) {
            Ok(prepared) => break prepared,
            // Most likely this dispatcher's own last life, which died without a word.
            Err(error) if error.is::<Taken>() && started.elapsed() < deploy::LEASE + RETAKE => {
                tracing::warn!(error = format!("{error:#}"), "waiting for the lease to end");
                let _ = shutdown.run_until_cancelled(tokio::time::sleep(RETAKE)).await;
            }
            Err(error) => match give_to_spare(&generations.fleet, &mut homes, &mut unfit, &error) {
                Some(spare) => {
                    let (error, spare) = (format!("{error:#}"), spare.name());
                    tracing::warn!(error, spare, "a node cannot take its stage; a spare one gets it");
                }
                None => return Err(error),
            },
        }
    };
    generations.commit(&running, Some(tentative), Before::Finishes)?;
    // Beside what follows: results of a life that died wait on the nodes for somebody to collect them, and who asks now need
    // not wait with them.
    let (first, name, homes) = (running.number(), pipeline.name.clone(), homes.clone());
    tokio::spawn(async move {
        let own = |generation| generation >= first;
        let sweeps = homes.iter().flatten().map(|node| deploy::sweep(&node.client, &name, None, DRAIN_OLD, own));
        futures_util::future::join_all(sweeps).await;
    });
    Ok(())
}

/// Where a node has refused its stage, for want of memory or of an engine that computes it: puts a node in its place that has
/// none, and has refused none.
fn give_to_spare(
    fleet: &Fleet,
    homes: &mut Homes,
    unfit: &mut Vec<Arc<Member>>,
    error: &anyhow::Error,
) -> Option<Arc<Member>> {
    let refused = error.downcast_ref::<Answered>().is_some_and(|answered| {
        matches!(
            answered.status,
            StatusCode::UNPROCESSABLE_ENTITY | StatusCode::INSUFFICIENT_STORAGE | StatusCode::SERVICE_UNAVAILABLE
        )
    });
    let part = error.downcast_ref::<PartFailed>().filter(|_| refused || error.is::<NoRoom>())?;
    let failed = Arc::clone(fleet.by_url(&part.node)?);
    unfit.push(Arc::clone(&failed));
    let is_unfit = |node: &Arc<Member>| unfit.iter().any(|other| Arc::ptr_eq(other, node));
    let spare = Arc::clone(fleet.up().find(|node| !has(homes, node) && !is_unfit(node))?);
    for home in homes.iter_mut().flatten().filter(|home| Arc::ptr_eq(home, &failed)) {
        *home = Arc::clone(&spare);
    }
    Some(spare)
}
