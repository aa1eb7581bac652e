//! A node: one process that runs stages. Its REST port takes orders, its relay port takes frames.

mod ailing;
mod candidates;
mod choices;
mod config;
mod contest;
mod drift;
mod encoder;
pub mod generation;
mod history;
mod intake;
mod loaded;
mod notes;
mod outlet;
mod prepacking;
mod probe;
mod refusal;
mod rest;
mod restart;
mod room;
mod runner;
mod slot;
mod store;
pub mod swap;
mod table;
mod wanted;
mod writer;

pub use config::NodeConfig;
pub use contest::Rival;
pub use loaded::{LoadError, Loaded, Loader, TimeLimits, Wish};
pub use refusal::PrepareError;
pub use store::{Store, StoreError};
pub use table::Node;

use crate::port;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves `rest` and `relay` until `shutdown`, then finishes what is in the stages, for at most `drain`.
pub async fn run(
    node: Arc<Node>,
    rest: TcpListener,
    relay: TcpListener,
    shutdown: CancellationToken,
    drain: Duration,
) -> io::Result<()> {
    let relay = tokio::spawn(intake::serve(Arc::clone(&node), relay));
    let janitor = tokio::spawn(Arc::clone(&node).expire());
    let app = rest::router(Arc::clone(&node));
    let stopped = CancellationToken::new();
    let server = tokio::spawn(port::http::serve(rest, app, node.config().bounds, stopped.clone()));
    shutdown.cancelled().await;
    tracing::info!(in_flight = node.in_flight(), "draining");
    node.drain(drain).await;
    relay.abort();
    janitor.abort();
    stopped.cancel();
    // Connections that are kept alive would hold the server for ever.
    let _ = tokio::time::timeout(Duration::from_secs(1), server).await;
    Ok(())
}
