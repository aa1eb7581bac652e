//! A generation that is prepared on its nodes and has its links: what a request goes through.

use super::artifacts::Artifacts;
use super::chain::Chain;
use super::deploy::{Deployment, Progress};
use super::failure::{NoLink, PartFailed};
use super::fleet::{Certainty, Member};
use super::ingress::Ingress;
use super::ledger::{Ledger, Order};
use super::placement::has;
use crate::artifact::Manifest;
use crate::pipeline::StageRef;
use crate::relay::frame::Part;
use crate::relay::traffic::Outgoing;
use crate::relay::{Limits, Token};
use crate::telemetry::{Counter, Timings};
use anyhow::{Error, Result, bail};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

/// How long the links of a freshly prepared chain may take.
const LINKS: Duration = Duration::from_secs(20);

/// What a generation has answered.
#[derive(Debug, Default)]
pub struct Answers {
    pub answered: Counter,
    pub failed: Counter,
    /// From acceptance to answer.
    pub latency: Timings,
}

/// Where a generation's chain is opened from.
#[derive(Clone)]
pub struct Place {
    /// The dispatcher's name.
    pub name: String,
    pub token: Token,
    pub limits: Limits,
    pub ledger: Arc<Ledger>,
    pub artifacts: Arc<Artifacts>,
}

pub struct Running {
    pub deployment: Arc<Deployment>,
    pub answers: Answers,
    /// Names of the tensors that enter the first stage, in the order in which frames number them.
    pub entering: Vec<String>,
    /// Bytes of one tensor, as its nodes take them.
    pub max_tensor: usize,
    chain: Chain,
    /// Renews the lease on its nodes.
    keeper: Mutex<Option<AbortOnDropHandle<()>>>,
    since: Instant,
}

impl Running {
    /// Opens the links of a prepared deployment, and waits until all are up.
    pub async fn open(place: &Place, deployment: Arc<Deployment>) -> Result<Arc<Self>> {
        let (Some(first), Some(last)) = (deployment.pipeline.stages.first(), deployment.pipeline.stages.last()) else {
            bail!("pipeline \"{}\" has no stages", deployment.pipeline.name);
        };
        let infos = deployment.stages.iter().filter_map(|stage| stage.node.info());
        let max_tensor = infos.map(|info| info.max_tensor_bytes).min().unwrap_or(usize::MAX);
        let limits = Limits { max_tensor, ..place.limits.clone() };
        let entering = names(&first.inputs, first);
        let chain =
            Chain::open(&deployment, &place.name, &place.token, &limits, &place.ledger, names(&last.outputs, last))?;
        if tokio::time::timeout(LINKS, chain.wait_until_up()).await.is_err() {
            let (end, place) = chain.missing(deployment.pipeline.stages.len() - 1);
            let Some(node) = deployment.nodes_of(end).nth(place) else { bail!("stage {end} has no node") };
            let what = format!("stage {end} on node \"{}\"", node.name());
            let cause = Error::new(NoLink { relay: node.relay(), seconds: LINKS.as_secs() });
            return Err(cause.context(PartFailed { what, node: node.url().to_string() }));
        }
        let (keep, artifacts) = (Arc::clone(&deployment), Arc::clone(&place.artifacts));
        let keeper = tokio::spawn(async move { keep.keep(&artifacts, Arc::new(()) as Arc<dyn Progress>).await });
        let keeper = Mutex::new(Some(AbortOnDropHandle::new(keeper)));
        let (answers, since) = (Answers::default(), Instant::now());
        Ok(Arc::new(Self { deployment, answers, entering, max_tensor, chain, keeper, since }))
    }

    pub fn number(&self) -> u64 {
        self.deployment.generation
    }

    /// How long ago its links were opened.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// How its requests are encoded.
    pub fn ingress(&self) -> &Ingress {
        &self.chain.ingress
    }

    pub fn is_up(&self) -> bool {
        self.chain.is_up()
    }

    /// Sends a frame; waits while the chain has no room for it.
    pub async fn feed(&self, frame: Outgoing) {
        self.chain.feed(frame).await;
    }

    /// Node `node` was lost. Where stages have replicas, what is in the chain is sent again through them; if the node may only
    /// be slow, just what takes too long (see the ledger). The loss of one that runs nothing between the first stage and the last was seen
    /// by the links from here to it.
    pub fn lost(&self, node: &Arc<Member>) {
        let homes = self.deployment.homes();
        if self.deployment.order() == Order::Kept || !has(&homes, node) {
            return;
        }
        self.chain.cut(&node.relay());
        let between = homes.get(1..homes.len().saturating_sub(1)).unwrap_or_default();
        if !has(between, node) {
            return;
        }
        if node.down().is_some_and(|down| down.certainty == Certainty::Certain) {
            self.chain.replay();
        }
    }

    /// Ends its links, and renews its leases no more.
    pub fn close(&self) {
        self.chain.close();
        drop(self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// The parts of a request that were numbered for a chain which `entered` enter, numbered for this one. A tensor that
    /// does not enter here is left out.
    ///
    /// # Errors
    /// Where one is missing.
    pub fn renumber(&self, parts: &Arc<[Part]>, entered: &[String]) -> Result<Arc<[Part]>, String> {
        if self.entering == entered {
            return Ok(Arc::clone(parts));
        }
        let mut renumbered = Vec::with_capacity(self.entering.len());
        for (number, name) in (0u16..).zip(&self.entering) {
            let part = parts.iter().find(|part| entered.get(usize::from(part.name)) == Some(name));
            let Some(part) = part else {
                return Err(format!(
                    "the pipeline was replaced while the request was in it, by one that needs \"{name}\" too; ask again"
                ));
            };
            renumbered.push(Part { name: number, tensor: part.tensor.clone() });
        }
        Ok(renumbered.into())
    }
}

/// Names of tensors at one side of `stage`, as its frames number them.
fn names(own: &[defer_partition::TensorInfo], stage: &StageRef) -> Vec<String> {
    Manifest::by_name(own.iter().chain(&stage.forwards)).into_iter().map(|info| info.name.clone()).collect()
}
