//! The commands of `defer-host`: their flags, and what runs behind them.

mod cluster;
mod deploy;
mod dispatch;
mod inspect;
mod models;
mod placing;
mod plan;
mod serve;
mod swap;

pub use cluster::{ClusterArgs, cluster};
pub use deploy::{DeployArgs, deploy};
pub use dispatch::{DispatchArgs, dispatch};
pub use inspect::{InspectArgs, inspect};
pub use models::{ModelsArgs, models};
pub use plan::plan;
pub use serve::{ServeArgs, serve};
pub use swap::{SwapArgs, swap};

use crate::client::UsageError;
use crate::port::{self, Bounds};
use crate::relay::Token;
use anyhow::{Context as _, Result};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const MEBI: u64 = 1 << 20;
/// A node has two ports, and so has a dispatcher.
const PORTS: usize = 2;

/// What the peers of each port may hold, as the flags say and the limit of open files allows.
fn bounds(connections: usize, stall: u64) -> Bounds {
    Bounds { connections: port::files::make_room(PORTS, connections), stall: Duration::from_secs(stall) }
}

/// Reads `--max-connections`.
fn connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("give a number from 1".to_owned()),
    }
}

/// The token in `file`; none without a file.
fn read_token(file: Option<&Path>) -> Result<Token> {
    let Some(file) = file else { return Ok(Token::default()) };
    let secret =
        fs::read(file).map_err(|error| UsageError(format!("cannot read the token in {}: {error}", file.display())))?;
    let token = Token::new(&secret);
    if token.is_empty() {
        return Err(UsageError(format!("{} is empty; put a long random text into it", file.display())).into());
    }
    Ok(token)
}

/// Whether a port may be opened without a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exposure {
    Guarded,
    /// The user insists.
    Insecure,
    Open,
}

impl Exposure {
    fn new(token: &Token, insecure: bool) -> Self {
        match (token.is_empty(), insecure) {
            (false, _) => Self::Guarded,
            (true, true) => Self::Insecure,
            (true, false) => Self::Open,
        }
    }

    /// Binds `address`, which flag `flag` gave; refuses one that other machines can reach without a token.
    async fn bind(self, flag: &str, token_flag: &str, address: SocketAddr) -> Result<TcpListener> {
        if self == Self::Open && !address.ip().is_loopback() {
            return Err(UsageError(format!(
                "{flag} {address} can be reached from other machines and has no token; give {token_flag}, or --insecure \
                 if everyone there may use it"
            ))
            .into());
        }
        TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen on {address}; choose another port with {flag} (0 takes a free one)")
        })
    }
}

/// Cancelled by the first SIGTERM or SIGINT; a second one ends the process at once.
fn shutdown_on_signal() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancel = token.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        cancel.cancel();
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::warn!("stopped at once");
        std::process::exit(1);
    });
    Ok(token)
}

/// Name of this machine.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "node".to_owned() } else { name.trim().to_owned() }
}
