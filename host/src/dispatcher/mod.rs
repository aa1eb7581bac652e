//! The dispatcher: ships a pipeline's stages to nodes, feeds the chain, collects the results, and answers clients.

mod admin;
mod chain;
pub mod deploy;
pub mod ledger;
pub mod nodes;
mod service;

use crate::artifact::Manifest;
use crate::buffer::Pool;
use crate::node::generation::Owner;
use crate::oip::{self, ModelMetadata};
use crate::pipeline::{Pipeline, StageRef};
use crate::port::{self, Bounds};
use crate::relay::{CodecChoice, Limits, Token};
use admin::Admin;
use anyhow::{Context as _, Result, anyhow, bail};
use chain::Chain;
use deploy::{Deployment, Progress};
use ledger::Ledger;
use nodes::{NodeClient, Taken};
use reqwest::Url;
use service::{Parts, Service};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Versions that the inference protocol names: there is one of each pipeline.
const VERSION: &str = "1";
/// Spare bytes kept for results and inputs.
const POOL: usize = 256 << 20;
/// How often a pipeline that another dispatcher had is asked for again.
const RETAKE: Duration = Duration::from_secs(2);
/// How long the links of a freshly prepared chain may take.
const LINKS: Duration = Duration::from_secs(20);

/// How a dispatcher is set up.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    /// Folder with `pipeline.json`.
    pub pipeline: PathBuf,
    /// Stage i runs on node i; further ones are spares.
    pub nodes: Vec<Url>,
    pub token: Token,
    /// What clients of the inference port must bear.
    pub api_token: Option<String>,
    /// Codec of every hop; else what the pipeline says, else `auto`.
    pub codec: Option<CodecChoice>,
    /// Whether hops may use the lossy codecs that the pipeline allows.
    pub rounding: Rounding,
    /// Requests accepted and not answered, at most.
    pub queue: usize,
    /// Bytes that they may take together.
    pub request_memory: usize,
    /// How long an answer may take where the client names no limit.
    pub request_timeout: Duration,
    /// How long a chain that has frames may give no answer before they are sent again.
    pub replay_after: Duration,
    /// How long pending requests may take once it is told to stop.
    pub drain: Duration,
    /// What clients of each port, and nodes, may hold.
    pub bounds: Bounds,
}

/// What `auto` may do to tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// As far as the pipeline allows.
    #[default]
    Allowed,
    Never,
}

/// A deployed pipeline, ready to serve.
pub struct Dispatcher {
    service: Arc<Service>,
    deployment: Arc<Deployment>,
    token: Token,
    api_token: Option<String>,
    request_memory: usize,
    drain: Duration,
    bounds: Bounds,
    keeper: AbortOnDropHandle<()>,
}

impl Dispatcher {
    /// Deploys: ships artifacts, has the nodes prepare a generation, and opens the chain. Where `shutdown` comes first, the
    /// nodes drop what they have of it.
    pub async fn deploy(config: Config, progress: Arc<dyn Progress>, shutdown: &CancellationToken) -> Result<Self> {
        let pipeline = match (Pipeline::read(&config.pipeline)?, config.rounding) {
            (pipeline, Rounding::Allowed) => pipeline,
            (pipeline, Rounding::Never) => pipeline.lossless(),
        };
        if config.nodes.len() < pipeline.stages.len() {
            bail!(
                "pipeline \"{}\" has {} stages, only {} nodes were given",
                pipeline.name,
                pipeline.stages.len(),
                config.nodes.len()
            );
        }
        let nodes = config.nodes.iter().take(pipeline.stages.len());
        let nodes = nodes.map(|url| NodeClient::new(url.clone(), config.token.clone())).collect::<Result<Vec<_>>>()?;
        let owner = Owner { name: config.name.clone(), incarnation: random()? };
        let started = Instant::now();
        let (deployment, service) = loop {
            let deployment = deploy::place(&pipeline, &config.pipeline, &nodes, owner.clone(), config.codec).await?;
            let deployment = Arc::new(deployment);
            let work = async {
                deployment.prepare(&progress).await?;
                open(&config, &pipeline, &deployment, &nodes).await
            };
            let opened = shutdown.run_until_cancelled(work).await;
            match opened.unwrap_or_else(|| Err(anyhow!("interrupted while deploying"))) {
                Ok(service) => break (deployment, service),
                // Most likely this dispatcher's own last life, which died without a word.
                Err(error) if error.is::<Taken>() && started.elapsed() < deploy::LEASE + RETAKE => {
                    tracing::warn!(error = format!("{error:#}"), "waiting for the lease to end");
                    deployment.remove().await;
                    let _ = shutdown.run_until_cancelled(tokio::time::sleep(RETAKE)).await;
                }
                Err(error) => {
                    deployment.remove().await;
                    return Err(error);
                }
            }
        };
        deployment.remove_older().await;
        let keeper = Arc::clone(&deployment);
        let keeper = tokio::spawn(async move { keeper.keep(progress).await });
        let Config { token, api_token, request_memory, drain, bounds, .. } = config;
        let keeper = AbortOnDropHandle::new(keeper);
        Ok(Self { service, deployment, token, api_token, request_memory, drain, bounds, keeper })
    }

    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// Answers clients on `inference` and people on `admin` until `shutdown`; then answers what is pending, and frees the
    /// nodes.
    pub async fn serve(self, inference: TcpListener, admin: TcpListener, shutdown: CancellationToken) -> Result<()> {
        let request_memory = self.request_memory;
        let max_body_bytes = self.service.max_body_bytes().min(request_memory);
        let (api_token, idle_timeout) = (self.api_token.clone(), self.bounds.stall);
        let options = oip::Options { max_body_bytes, request_memory, api_token, idle_timeout };
        let api = oip::router(Arc::clone(&self.service) as Arc<dyn oip::Backend>, options);
        let shown = Admin { service: Arc::clone(&self.service), deployment: Arc::clone(&self.deployment) };
        let admin_api = admin::router(Arc::new(shown), self.token.clone());
        let stopped = CancellationToken::new();
        let spawn = |listener, app| tokio::spawn(port::http::serve(listener, app, self.bounds, stopped.clone()));
        let (api, admin) = (spawn(inference, api), spawn(admin, admin_api));
        shutdown.cancelled().await;
        self.service.stop();
        tracing::info!(pending = self.service.pending(), "draining");
        let end = Instant::now() + self.drain;
        while self.service.pending() > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stopped.cancel();
        // Connections that are kept alive would hold the servers for ever.
        let _ = tokio::time::timeout(Duration::from_secs(1), async { (api.await, admin.await) }).await;
        self.service.close();
        // What is about to be dropped must not be prepared again.
        drop(self.keeper);
        self.deployment.remove().await;
        Ok(())
    }
}

/// Opens the chain of a prepared deployment and puts a service before it.
async fn open(
    config: &Config,
    pipeline: &Pipeline,
    deployment: &Arc<Deployment>,
    nodes: &[NodeClient],
) -> Result<Arc<Service>> {
    let (Some(first), Some(last)) = (pipeline.stages.first(), pipeline.stages.last()) else {
        bail!("pipeline \"{}\" has no stages", pipeline.name);
    };
    let mut max_tensor = usize::MAX;
    for node in nodes {
        max_tensor = max_tensor.min(node.describe().await?.max_tensor_bytes);
    }
    let pool = Pool::new(POOL);
    let limits = Limits { max_tensor, max_parts: 0, pool: pool.clone(), stall: config.bounds.stall };
    let ledger = Ledger::new(&pipeline.name, deployment.owner.incarnation, deployment.generation, config.replay_after);
    let service = Arc::new(Service::new(Parts {
        metadata: ModelMetadata {
            name: pipeline.name.clone(),
            versions: vec![VERSION.to_owned()],
            platform: "defer-host_onnx".to_owned(),
            inputs: pipeline.inputs.clone(),
            outputs: pipeline.outputs.clone(),
        },
        ledger: Arc::clone(&ledger),
        entering: entering(first),
        codec: deployment.codec_in,
        pool,
        max_tensor,
        capacity: config.queue,
        patience: config.request_timeout,
    }));
    let chain = Chain::open(deployment, &config.name, &config.token, &limits, &ledger, leaving(last))?;
    tokio::time::timeout(LINKS, chain.wait_until_up()).await.ok().with_context(|| {
        format!(
            "no link to the first or the last stage within {} s: can this machine reach {} and {}?",
            LINKS.as_secs(),
            deployment.stages[0].relay,
            deployment.stages[deployment.stages.len() - 1].relay
        )
    })?;
    service.serve_by(Arc::new(chain));
    Ok(service)
}

/// Names of the tensors that enter `stage`, as its frames number them.
fn entering(stage: &StageRef) -> Vec<String> {
    Manifest::by_name(stage.inputs.iter().chain(&stage.forwards)).into_iter().map(|info| info.name.clone()).collect()
}

/// Names of the tensors that leave `stage`, as its frames number them.
fn leaving(stage: &StageRef) -> Vec<String> {
    Manifest::by_name(stage.outputs.iter().chain(&stage.forwards)).into_iter().map(|info| info.name.clone()).collect()
}

fn random() -> Result<u64> {
    getrandom::u64().map_err(|error| anyhow!("the system has no source of randomness: {error}"))
}
