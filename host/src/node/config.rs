//! What a node is told at its start.

use crate::port::Bounds;
use crate::relay::Token;
use std::net::SocketAddr;
use std::path::PathBuf;

/// How a node is set up.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub name: String,
    pub state_dir: PathBuf,
    pub token: Token,
    /// Bytes of one tensor.
    pub max_tensor: usize,
    /// Bytes that the stages loaded at once and the process itself may take; `None` for no limit.
    pub memory_limit: Option<u64>,
    /// Bytes that the artifact store keeps.
    pub store_limit: u64,
    /// Address at which other nodes reach the relay; `None` for the host of this node's URL and the relay's port.
    pub advertise: Option<String>,
    /// Address to which the relay is bound.
    pub relay: SocketAddr,
    /// What the peers of each port may hold.
    pub bounds: Bounds,
}

impl NodeConfig {
    /// Where the node says that its relay is: `host:port` with `advertise`, else `:port`, at the node's own address.
    pub fn stated_relay(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| format!(":{}", self.relay.port()))
    }
}
