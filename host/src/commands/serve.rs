//! `defer-host serve`: a node.

use super::{Exposure, MEBI, bounds, host_name, read_token, shutdown_on_signal};
use crate::buffer::Pool;
use crate::client::UsageError;
use crate::discovery::{self, Admission, Announcement, Presence};
use crate::engine::{self, Choice, EngineError, Options};
use crate::node::{Loader, Node, NodeConfig, Rival, StoreError, TimeLimits};
use crate::port;
use crate::relay::frame;
use crate::sandbox::{Execution, Limits, Sandbox};
use anyhow::Result;
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Spare buffer bytes that are kept: what some frames of a large network's activations leave behind.
const POOL: usize = 128 << 20;

/// Runs a node: takes stages over REST, computes them, and relays frames to the next node.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-host serve
  defer-host serve --listen 0.0.0.0:7700 --relay 0.0.0.0:7701 --token-file ~/.defer-token
  defer-host serve --listen 0.0.0.0:7700 --relay 0.0.0.0:7701 --token-file ~/.defer-token --announce
  defer-host serve --listen 127.0.0.1:0 --relay 127.0.0.1:0 --state-dir /tmp/node-b

Prints one line per address when it is ready: \"listening rest http://…\" and \"listening relay …\".
SIGTERM or Ctrl-C lets it finish what is in it; a second one stops it at once. Logs go to stderr (DEFER_LOG=debug for more).")]
pub struct ServeArgs {
    /// Name of this node in reports and errors [default: MACHINE-PORT]
    #[arg(long)]
    name: Option<String>,
    /// Address of the REST port
    #[arg(long, default_value = "127.0.0.1:7700", value_name = "ADDR")]
    listen: SocketAddr,
    /// Address of the relay port
    #[arg(long, default_value = "127.0.0.1:7701", value_name = "ADDR")]
    relay: SocketAddr,
    /// Address at which other nodes reach the relay, as host:port [default: the host of this node's URL, the relay's port]
    #[arg(long, value_name = "ADDR", value_parser = host_and_port)]
    advertise: Option<String>,
    /// Makes this node known in the local network (mDNS), for `defer-host cluster discover`: name, addresses, the relay's
    /// address, architecture, engine, versions of program and protocol, and whether a token is needed, never the token
    #[arg(long)]
    announce: bool,
    /// Where artifacts and generations are kept, for one process at a time [default: ~/.local/state/defer-host/NAME, without
    /// --name MACHINE-PORT with the port that --listen asks for, so that port 0 finds the same one at each start]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Threads that one inference may use [default: the cores that this process may use]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Inference engine: onnxruntime, tract, auto: onnxruntime where its library loads, else tract, or fastest: for each stage
    /// the one that computes it faster here, measured when it is first loaded, where memory allows, and remembered
    #[arg(long, default_value = "auto", value_name = "E")]
    engine: EngineWish,
    /// The onnxruntime shared library [default: ORT_DYLIB_PATH, else beside the program, else what `cargo xtask setup` installed]
    #[arg(long, value_name = "FILE")]
    ort_lib: Option<PathBuf>,
    /// Seconds that the engine may compute for one request, whatever time the request itself has
    #[arg(long, default_value = "60", value_name = "S", value_parser = seconds)]
    engine_timeout: Duration,
    /// Seconds to load a stage and warm it up
    #[arg(long, default_value = "120", value_name = "S", value_parser = seconds)]
    load_timeout: Duration,
    /// File with the secret that nodes, dispatchers and people who give orders share
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Largest tensor that is accepted, in MiB
    #[arg(long, default_value_t = 256, value_name = "M")]
    max_tensor_mb: u64,
    /// Memory for this process and the stages that are loaded at once, in MiB: what it takes without stages, their weights, and
    /// the most that their activations took when they were cut [default: no limit]
    #[arg(long, value_name = "M")]
    memory_limit: Option<u64>,
    /// Artifacts kept on disk, in MiB; those in use stay even beyond it
    #[arg(long, default_value_t = 8192, value_name = "M")]
    store_limit: u64,
    /// Seconds to finish what is in the node when it is told to stop
    #[arg(long, default_value_t = 10, value_name = "S")]
    drain_timeout: u64,
    /// Connections that each port takes at once; beyond that the idlest makes room
    #[arg(long, default_value_t = port::CONNECTIONS, value_name = "N", value_parser = super::connections)]
    max_connections: usize,
    /// Seconds that a peer may take for 4 KiB of what it began to send: a request, a body, a frame
    #[arg(long, default_value_t = port::STALL.as_secs(), value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    stall_timeout: u64,
    /// Allow ports that other machines can reach without a token
    #[arg(long)]
    insecure: bool,
    /// Run components on wasmtime's interpreter, as on architectures that it has no code generator for
    #[arg(long, hide = true)]
    interpreter: bool,
}

/// Which engine stages run on.
#[derive(Clone, Copy, Debug)]
enum EngineWish {
    /// The same for all.
    One(Choice),
    /// For each the faster one.
    Fastest,
}

impl FromStr for EngineWish {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "fastest" => Ok(Self::Fastest),
            name => name.parse().map(Self::One).map_err(|error| format!("{error}, and fastest")),
        }
    }
}

impl ServeArgs {
    fn execution(&self) -> Execution {
        if self.interpreter { Execution::Interpreted } else { Execution::Best }
    }
}

/// Runs the command until a signal.
pub async fn serve(args: ServeArgs) -> Result<()> {
    let bounds = bounds(args.max_connections, args.stall_timeout);
    let token = read_token(args.token_file.as_deref())?;
    if args.announce {
        reachable(&args)?;
    }
    let exposure = Exposure::new(&token, args.insecure);
    let rest = exposure.bind("--listen", "--token-file", args.listen).await?;
    let relay = exposure.bind("--relay", "--token-file", args.relay).await?;
    let (rest_addr, relay_addr) = (rest.local_addr()?, relay.local_addr()?);

    let asked = |port: u16| args.name.clone().unwrap_or_else(|| format!("{}-{port}", host_name()));
    // The port that was asked for names the folder, the one that it became names the node: several nodes of one machine
    // differ in their names, and a node on port 0 does not leave a folder behind at each start.
    let name = asked(rest_addr.port());
    let execution = args.execution();
    let state_dir_given = args.state_dir.is_some();
    let state_dir = args.state_dir.map_or_else(|| default_state_dir(&asked(args.listen.port())), Ok)?;
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let max_tensor = usize::try_from(args.max_tensor_mb.saturating_mul(MEBI)).unwrap_or(usize::MAX);
    let choice = if let EngineWish::One(choice) = args.engine { choice } else { Choice::Auto };
    let engine = engine::find(choice, args.ort_lib).map_err(|error| match error {
        EngineError::Unavailable(_) => UsageError(error.to_string()).into(),
        error => anyhow::Error::from(error),
    })?;
    let loader = Loader {
        sandbox: Sandbox::with(execution, Limits::default())?,
        engine: Arc::clone(&engine),
        rival: matches!(args.engine, EngineWish::Fastest)
            .then(|| Rival::of(engine.as_ref(), threads, &state_dir))
            .flatten(),
        options: Options::new(threads.max(1)),
        limits: TimeLimits { engine_time: args.engine_timeout, load_time: args.load_timeout },
        pool: Pool::new(POOL),
        max_tensor,
    };
    let config = NodeConfig {
        name: name.clone(),
        state_dir,
        token,
        max_tensor,
        memory_limit: args.memory_limit.map(|limit| limit.saturating_mul(MEBI)),
        store_limit: args.store_limit.saturating_mul(MEBI),
        advertise: args.advertise,
        relay: relay_addr,
        bounds,
    };
    let presence = Presence {
        name: name.clone(),
        arch: std::env::consts::ARCH.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: frame::VERSION,
        engine: engine.name().to_owned(),
        relay: config.stated_relay(),
        admission: if config.token.is_empty() { Admission::Everybody } else { Admission::Token },
    };
    let node = Node::open(config, loader).map_err(|error| match error {
        StoreError::Open { .. } if state_dir_given => UsageError(format!("{:#}", anyhow::Error::from(error))).into(),
        error => anyhow::Error::from(error),
    })?;
    let node = Arc::new(node);
    node.restore().await;
    let shutdown = shutdown_on_signal()?;
    tracing::info!(node = name, engine = engine.name(), version = engine.version(), threads, "node ready");
    println!("listening rest http://{rest_addr}");
    println!("listening relay {relay_addr}");
    // From here on: what is found is ready.
    let announcement = if args.announce { announce(&presence, rest_addr) } else { None };
    let farewell = shutdown.clone();
    tokio::spawn(async move {
        farewell.cancelled().await;
        // It waits for its last packet.
        tokio::task::spawn_blocking(|| drop(announcement));
    });
    crate::node::run(node, rest, relay, shutdown, Duration::from_secs(args.drain_timeout)).await?;
    Ok(())
}

/// Refuses to announce what only this machine can reach.
fn reachable(args: &ServeArgs) -> Result<(), UsageError> {
    let (flag, address) = match args {
        ServeArgs { listen, .. } if listen.ip().is_loopback() => ("--listen", listen),
        ServeArgs { relay, advertise: None, .. } if relay.ip().is_loopback() => ("--relay", relay),
        _ => return Ok(()),
    };
    Err(UsageError(format!(
        "--announce tells other machines of this node, but they cannot reach {flag} {address}; give --listen 0.0.0.0:7700 \
         --relay 0.0.0.0:7701 --token-file FILE, or leave --announce out"
    )))
}

/// A network without multicast is no reason not to serve.
fn announce(presence: &Presence, rest: SocketAddr) -> Option<Announcement> {
    match Announcement::start(presence, &host_name(), rest) {
        Ok(announcement) => {
            tracing::info!(node = presence.name, service = discovery::SERVICE, "announced in the local network");
            Some(announcement)
        }
        Err(error) => {
            tracing::warn!(%error, "cannot announce this node; give its URL to those who need it");
            None
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let duration = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    // At most a day: an engine that is busy for longer is not coming back.
    let fits = duration.filter(|duration| (Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(duration));
    fits.ok_or_else(|| "give seconds, from 0.001 to 86400".to_owned())
}

fn host_and_port(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(text.to_owned()),
        _ => Err("give the host and the port, such as pi-1:7701".to_owned()),
    }
}

fn default_state_dir(name: &str) -> Result<PathBuf> {
    let base = std::env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let base = base.or_else(home).ok_or_else(|| UsageError("HOME is not set; give --state-dir".to_owned()))?;
    // A name is free text, a folder is not.
    let folder: String = name.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    Ok(base.join("defer-host").join(folder))
}
