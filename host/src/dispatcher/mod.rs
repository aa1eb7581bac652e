//! The dispatcher: ships a pipeline's stages to nodes, feeds the chain, collects the results, and answers clients.

mod admin;
pub mod ailing;
mod artifacts;
mod chain;
pub mod deploy;
mod engines;
mod failure;
mod fleet;
mod generations;
mod ingress;
pub mod ledger;
pub mod nodes;
mod placement;
mod record;
mod recovery;
mod repeats;
mod rollout;
mod running;
mod service;
mod setup;
mod start;
mod swap;
mod tentative;
mod unfit;
mod upkeep;

use crate::buffer::Pool;
use crate::node::generation::Owner;
use crate::oip::{self, ModelMetadata};
use crate::pipeline::Pipeline;
use crate::port::{self, Bounds};
use crate::relay::codec::Choice;
use crate::relay::{CodecChoice, Limits, Token};
use admin::Admin;
use anyhow::{Result, anyhow, bail};
use artifacts::Artifacts;
use deploy::Progress;
use fleet::Fleet;
use generations::Generations;
use ledger::Ledger;
use record::Record;
use repeats::Repeats;
use reqwest::Url;
use running::Place;
use service::{Parts, Service};
use setup::Setup;
use std::collections::BTreeMap;
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

/// How a dispatcher is set up.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    /// Folder with `pipeline.json`.
    pub pipeline: PathBuf,
    /// The nodes of each stage.
    pub nodes: Vec<Vec<Url>>,
    /// Nodes that take over from those that are lost, or make up for replicas that are wanted beyond `nodes`.
    pub spares: Vec<Url>,
    /// On how many nodes stages run, where not as the pipeline says.
    pub replicas: BTreeMap<usize, usize>,
    /// Where it writes down what a next life needs to go on; `None` for nowhere.
    pub state_dir: Option<PathBuf>,
    /// Bytes of artifacts that it keeps of those that were sent to it.
    pub store_limit: u64,
    /// How long nodes may take to be there when it starts.
    pub wait_for_nodes: Duration,
    /// How long a node must be gone before its stage moves in with another one's, where there is no spare.
    pub replan_after: Duration,
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
    /// How long answers to requests with an `Idempotency-Key` are remembered.
    pub repeat_window: Duration,
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

impl Rounding {
    /// `pipeline`, without what is not allowed.
    fn of(self, pipeline: Pipeline) -> Pipeline {
        match self {
            Self::Allowed => pipeline,
            Self::Never => pipeline.lossless(),
        }
    }
}

/// A deployed pipeline, ready to serve.
pub struct Dispatcher {
    service: Arc<Service>,
    generations: Arc<Generations>,
    token: Token,
    api_token: Option<String>,
    request_memory: usize,
    repeat_window: Duration,
    drain: Duration,
    bounds: Bounds,
    /// What watches the nodes, mends and swaps.
    tasks: Vec<AbortOnDropHandle<()>>,
}

impl Dispatcher {
    /// Deploys: ships artifacts, has the nodes prepare a generation, and opens the chain. Where `shutdown` comes first, the
    /// nodes drop what they have of it.
    pub async fn deploy(config: Config, progress: Arc<dyn Progress>, shutdown: &CancellationToken) -> Result<Self> {
        let given = config.rounding.of(Pipeline::read(&config.pipeline)?);
        let nodes: Vec<&Url> = config.nodes.iter().flatten().chain(&config.spares).collect();
        if let Some((_, twice)) = nodes.iter().enumerate().find(|(at, url)| nodes[..*at].contains(url)) {
            bail!("node {twice} is given twice");
        }
        let artifacts = Arc::new(Artifacts::open(config.state_dir.as_deref(), config.store_limit)?);
        artifacts.know(&given, &config.pipeline);
        let record = Record::open(config.state_dir.as_deref())?;
        let digests: Vec<_> = given.stages.iter().map(|stage| stage.digest).collect();
        let before = record.active().filter(|active| active.pipeline.name == given.name && active.given == digests);
        let known = before.iter().flat_map(|active| &active.nodes).flat_map(|home| home.urls());
        let known = known.filter_map(|url| url.parse().ok());
        let mut urls: Vec<Url> = Vec::new();
        for url in config.nodes.iter().flatten().chain(&config.spares).cloned().chain(known) {
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        let fleet = Arc::new(Fleet::new(urls, &config.token)?);
        start::meet(&fleet, &config, before.as_ref(), shutdown).await?;
        let (incarnation, heir_of) = (random()?, record.lives());
        let pool = Pool::new(POOL);
        let limits = Limits { max_tensor: usize::MAX, max_parts: 0, pool: pool.clone(), stall: config.bounds.stall };
        let place = Place {
            name: config.name.clone(),
            token: config.token.clone(),
            limits,
            ledger: Ledger::new(&given.name, incarnation, config.replay_after),
            artifacts,
        };
        let setup = Setup {
            owner: Owner { name: config.name.clone(), incarnation, heir_of },
            codec: config.codec,
            given: digests,
            rounding: config.rounding,
            replicas: config.replicas,
        };
        let generations = Generations::new(fleet, place, setup, record);
        let (pipeline, homes) = start::first(&generations, given, &config.nodes, before)?;
        warn_of_lossy(&pipeline, config.codec);
        generations.begin()?;
        start::start(&generations, &pipeline, homes, &progress, shutdown).await?;
        let service = Arc::new(Service::new(Parts {
            metadata: ModelMetadata {
                name: pipeline.name.clone(),
                versions: vec![VERSION.to_owned()],
                platform: "defer-host_onnx".to_owned(),
                inputs: pipeline.inputs.clone(),
                outputs: pipeline.outputs.clone(),
            },
            max_tensor: generations.active().map_or(usize::MAX, |active| active.max_tensor),
            generations: Arc::clone(&generations),
            pool,
            capacity: config.queue,
            patience: config.request_timeout,
        }));
        let (candidates, seen) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = generations.fleet.watch(incarnation, &candidates);
        let also = |task| AbortOnDropHandle::new(task);
        tasks.push(also(tokio::spawn(swap::serve(Arc::clone(&generations), seen))));
        tasks.push(also(tokio::spawn(recovery::serve(Arc::clone(&generations), config.replan_after))));
        tasks.push(also(tokio::spawn(upkeep::provision(Arc::clone(&generations)))));
        tasks.push(also(tokio::spawn(upkeep::sweep(Arc::clone(&generations)))));
        let Config { token, api_token, request_memory, repeat_window, drain, bounds, .. } = config;
        Ok(Self { service, generations, token, api_token, request_memory, repeat_window, drain, bounds, tasks })
    }

    /// Tells people which stage is where.
    pub fn report(&self) {
        for stage in self.generations.active().iter().flat_map(|active| &active.deployment.stages) {
            tracing::info!(stage = stage.index, node = stage.node.name(), url = %stage.node.url(), "stage ready");
        }
    }

    /// Answers clients on `inference` and people on `admin` until `shutdown`; then answers what is pending, and frees the
    /// nodes.
    pub async fn serve(self, inference: TcpListener, admin: TcpListener, shutdown: CancellationToken) -> Result<()> {
        let request_memory = self.request_memory;
        let max_body_bytes = self.service.max_body_bytes().min(request_memory);
        let (api_token, idle_timeout) = (self.api_token.clone(), self.bounds.stall);
        let options = oip::Options { max_body_bytes, request_memory, api_token, idle_timeout };
        let repeats = Repeats::new(Arc::clone(&self.service), self.repeat_window);
        let api = oip::router(Arc::new(repeats), options);
        let shown = Admin { service: Arc::clone(&self.service), generations: Arc::clone(&self.generations) };
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
        // What is about to be dropped must not be prepared again, or moved.
        drop(self.tasks);
        self.generations.end().await;
        Ok(())
    }
}

fn warn_of_lossy(pipeline: &Pipeline, codec: Option<CodecChoice>) {
    for stage in &pipeline.stages {
        if let Some(Choice::Fixed(lossy)) = codec.or(stage.codec)
            && lossy.is_lossy()
        {
            tracing::warn!(stage = stage.index, codec = %lossy, "a lossy codec: results will differ from the network's own");
        }
    }
}

fn random() -> Result<u64> {
    getrandom::u64().map_err(|error| anyhow!("the system has no source of randomness: {error}"))
}
