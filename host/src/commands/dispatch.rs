//! `defer-host dispatch`: deploys a pipeline and serves it.

use super::{Exposure, bounds, host_name, placing, read_token, shutdown_on_signal};
use crate::client::UsageError;
use crate::dispatcher::deploy::Progress;
use crate::dispatcher::{Config, Dispatcher, Rounding};
use crate::memory;
use crate::pipeline::Pipeline;
use crate::port;
use crate::relay::CodecChoice;
use anyhow::Result;
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use reqwest::Url;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Nodes that one stage may run on.
const MOST_REPLICAS: usize = 64;

/// Deploys a pipeline onto nodes and answers inference requests (Open Inference Protocol v2).
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-host dispatch --pipeline dist/ocr-rec --node http://127.0.0.1:7700 http://127.0.0.1:7710 \\
      http://127.0.0.1:7720 http://127.0.0.1:7730
  defer-host dispatch --pipeline dist/resnet50 --node http://pi-1:7700 --node http://pi-2:7700 \\
      --codec lz4 --token-file ~/.defer-token --spare http://pi-3:7700 --state-dir ~/defer-dispatcher
  defer-host dispatch --pipeline dist/resnet50 --cluster cluster.toml
  defer-host dispatch --pipeline dist/resnet50 --replicas stage=1:2 --node http://pi-1:7700 \\
      http://pi-2:7700 http://pi-3:7700 http://pi-4:7700 http://pi-5:7700

Prints one line per address when the chain is up: \"listening inference http://…\" and \"listening admin http://…\".
SIGTERM or Ctrl-C answers what is pending and frees the nodes; a second one stops it at once.")]
pub struct DispatchArgs {
    /// Folder that build-stages wrote
    #[arg(long, value_name = "DIR")]
    pipeline: PathBuf,
    /// Nodes, by the URL of their REST port: stage i runs on node i, or, with --replicas, each stage in turn takes as many as it
    /// is to have. With --cluster these are the nodes of that file to use, in any order; stages go where the plan has put them,
    /// and the other ones are spares
    #[arg(long, value_name = "URL", num_args = 1.., required_unless_present = "cluster")]
    node: Vec<Url>,
    /// Machines that the pipeline was cut for (build-stages --cluster), by a file that has their URLs: each stage goes where
    /// the plan has put it, and nodes without one are spares (with --node only those given)
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// Run stage I on N nodes: each request goes to the one with the least to do, and where one is lost the others go on. May
    /// be given several times [default: what the pipeline says, else 1]
    #[arg(long, value_name = "stage=I:N", num_args = 1.., value_parser = replicas)]
    replicas: Vec<(usize, usize)>,
    /// Nodes that take over the stages of those that are lost; so do --node ones that no stage takes
    #[arg(long, value_name = "URL", num_args = 1..)]
    spare: Vec<Url>,
    /// Where it writes down which generation is active, and keeps stages that were swapped in: started again with the same
    /// one, it goes on with what its nodes run [default: nowhere]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Swapped and deployed stages kept in it, in MiB; those in use stay even beyond it
    #[arg(long, default_value_t = 8192, value_name = "M")]
    store_limit: u64,
    /// Seconds that nodes may take to be there when it starts: so it can be started with them, or before them
    #[arg(long, default_value_t = 5, value_name = "S", value_parser = clap::value_parser!(u64).range(..=86_400))]
    wait_for_nodes: u64,
    /// Seconds that a node may be gone before its stage moves to a node that runs another one already, where no spare is left
    #[arg(long, default_value_t = 10, value_name = "S")]
    replan_after: u64,
    /// Address of the inference port
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDR")]
    listen: SocketAddr,
    /// Address of the admin port
    #[arg(long, default_value = "127.0.0.1:8002", value_name = "ADDR")]
    admin: SocketAddr,
    /// Codec of every hop, such as raw, lz4 or sparse+shuffle-lz4, or auto: whichever is fastest on that hop of the lossless
    /// ones, and of the lossy ones that the pipeline allows there (build-stages --allow-lossy). Other lossy ones, such as f16, sparse+int8 or zfp:accuracy=1e-3, change results [default: what the pipeline says, else auto]
    #[arg(long, value_name = "C", value_parser = str::parse::<CodecChoice>)]
    codec: Option<CodecChoice>,
    /// Use no lossy codec, whatever the pipeline allows
    #[arg(long)]
    lossless: bool,
    /// Requests that may be pending; a client beyond that is told to come again
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    queue: u16,
    /// MiB that pending requests may take together, in bodies and tensors; a client beyond that is told to come again
    /// [default: a quarter of the memory of this machine, or of its control group]
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u64).range(1..))]
    request_memory_mb: Option<u64>,
    /// Seconds after which a request fails, where its client sets no limit
    #[arg(long, default_value_t = 60, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    request_timeout: u64,
    /// Seconds for which the answer to a request with an Idempotency-Key is remembered, at most 64 MiB of all; 0 for none
    #[arg(long, default_value_t = 60, value_name = "S")]
    repeat_window: u64,
    /// Seconds without any answer after which pending requests are sent through the chain again
    #[arg(long, default_value_t = 5, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    replay_after: u64,
    /// Seconds to answer what is pending when it is told to stop
    #[arg(long, default_value_t = 10, value_name = "S")]
    drain_timeout: u64,
    /// Name of this dispatcher in reports and errors [default: the machine's name]
    #[arg(long)]
    name: Option<String>,
    /// File with the secret of the nodes, which also guards the admin port
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// File with the secret that clients of the inference port must send
    #[arg(long, value_name = "FILE")]
    api_token_file: Option<PathBuf>,
    /// Connections that each port takes at once; beyond that the idlest makes room
    #[arg(long, default_value_t = port::CONNECTIONS, value_name = "N", value_parser = super::connections)]
    max_connections: usize,
    /// Seconds that a peer may take for 4 KiB of what it began to send: a request, a body, a frame
    #[arg(long, default_value_t = port::STALL.as_secs(), value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    stall_timeout: u64,
    /// Allow ports that other machines can reach without a token
    #[arg(long)]
    insecure: bool,
}

/// Runs the command until a signal.
pub async fn dispatch(args: DispatchArgs) -> Result<()> {
    let bounds = bounds(args.max_connections, args.stall_timeout);
    let token = read_token(args.token_file.as_deref())?;
    let api_token = read_token(args.api_token_file.as_deref())?;
    for (flag, urls) in [("--node", &args.node), ("--spare", &args.spare)] {
        if let Some(url) = urls.iter().find(|url| url.scheme() != "http" || url.cannot_be_a_base()) {
            return Err(UsageError(format!("{flag} takes URLs such as http://pi-1:7700, got {url}")).into());
        }
    }
    if let Some(CodecChoice::Fixed(codec)) = args.codec
        && args.lossless
        && codec.is_lossy()
    {
        return Err(
            UsageError(format!("--codec {codec} is lossy, and --lossless forbids it; leave one of them out")).into()
        );
    }
    let pipeline = Pipeline::read(&args.pipeline).map_err(|error| UsageError(error.to_string()))?;
    let replicas = replicas_of(&pipeline, &args.replicas)?;
    let (nodes, spares) = match &args.cluster {
        Some(file) => {
            let placing::Placed { nodes, idle } = placing::read(&pipeline, file, &args.node, &args.spare)?;
            (nodes, [args.spare, idle].concat())
        }
        None => {
            let (nodes, idle) = placing::in_turn(&pipeline, &replicas, args.node)?;
            (nodes, [args.spare, idle].concat())
        }
    };
    let inference = Exposure::new(&api_token, args.insecure).bind("--listen", "--api-token-file", args.listen).await?;
    let admin = Exposure::new(&token, args.insecure).bind("--admin", "--token-file", args.admin).await?;
    let (inference_addr, admin_addr) = (inference.local_addr()?, admin.local_addr()?);
    let shutdown = shutdown_on_signal()?;
    let config = Config {
        name: args.name.unwrap_or_else(host_name),
        pipeline: args.pipeline,
        nodes,
        spares,
        replicas,
        state_dir: args.state_dir,
        store_limit: args.store_limit.saturating_mul(super::MEBI),
        wait_for_nodes: Duration::from_secs(args.wait_for_nodes),
        replan_after: Duration::from_secs(args.replan_after),
        token,
        api_token: (!api_token.is_empty()).then(|| api_token.text()),
        codec: args.codec,
        rounding: if args.lossless { Rounding::Never } else { Rounding::Allowed },
        queue: usize::from(args.queue),
        request_memory: request_memory(args.request_memory_mb),
        request_timeout: Duration::from_secs(args.request_timeout),
        repeat_window: Duration::from_secs(args.repeat_window),
        replay_after: Duration::from_secs(args.replay_after),
        drain: Duration::from_secs(args.drain_timeout),
        bounds,
    };
    let bars = Arc::new(Bars::default());
    let dispatcher = Dispatcher::deploy(config, Arc::clone(&bars) as Arc<dyn Progress>, &shutdown).await?;
    bars.finish();
    dispatcher.report();
    println!("listening inference http://{inference_addr}");
    println!("listening admin http://{admin_addr}");
    dispatcher.serve(inference, admin, shutdown).await
}

/// `stage=I:N`.
fn replicas(text: &str) -> Result<(usize, usize), String> {
    let parse = || {
        let (stage, nodes) = text.strip_prefix("stage=")?.split_once(':')?;
        Some((stage.parse().ok()?, nodes.parse().ok().filter(|nodes| (1..=MOST_REPLICAS).contains(nodes))?))
    };
    parse().ok_or_else(|| format!("give stage=I:N, such as stage=1:2, with at most {MOST_REPLICAS} nodes"))
}

/// On how many nodes stages run, as `given`.
fn replicas_of(pipeline: &Pipeline, given: &[(usize, usize)]) -> Result<BTreeMap<usize, usize>, UsageError> {
    let mut replicas = BTreeMap::new();
    for &(stage, nodes) in given {
        if stage >= pipeline.stages.len() {
            let (name, last) = (&pipeline.name, pipeline.stages.len() - 1);
            return Err(UsageError(format!(
                "--replicas: pipeline \"{name}\" has stages 0 to {last}, no stage {stage}"
            )));
        }
        if replicas.insert(stage, nodes).is_some() {
            return Err(UsageError(format!("--replicas: stage {stage} is given twice")));
        }
    }
    Ok(replicas)
}

/// Bytes for pending requests.
fn request_memory(mb: Option<u64>) -> usize {
    /// Where the system does not say how much there is.
    const UNKNOWN: u64 = 1 << 30;
    let bytes = mb.map(|mb| mb.saturating_mul(1 << 20));
    let bytes = bytes.unwrap_or_else(|| memory::total().map_or(UNKNOWN, |all| all / 4));
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A bar per artifact that is shipped, on stderr if that is a terminal.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
    /// By stage and node.
    shipping: Mutex<BTreeMap<(usize, String), ProgressBar>>,
}

impl Bars {
    fn finish(&self) {
        let _ = self.all.clear();
    }
}

impl Progress for Bars {
    fn shipped(&self, stage: usize, node: &str, bytes: u64, total: u64) {
        let mut shipping = self.shipping.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = shipping.entry((stage, node.to_owned())).or_insert_with(|| {
            let style =
                ProgressStyle::with_template("{prefix:>9} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {msg}")
                    .expect("the template is well-formed");
            let bar =
                ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_prefix(format!("stage {stage}"));
            self.all.add(bar)
        });
        bar.inc(bytes);
        if bar.position() >= total {
            bar.set_message(format!("loading on {node}"));
        }
    }

    fn prepared(&self, stage: usize, node: &str) {
        let mut shipping = self.shipping.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = shipping.remove(&(stage, node.to_owned())) {
            bar.finish_with_message(format!("ready on {node}"));
        }
    }
}
