//! What every open port owes to everybody else: a bound on what strangers may hold.
//!
//! A port has a number of [`Places`]. When they are taken, whoever has been idle the longest makes room; a peer whose
//! request is under way is never cut off for another. Whoever began something, be it a head, a body or a frame, must
//! go on with it at a [`Pace`]; slow is fine, standing still is not.

pub mod files;
pub mod http;
mod pace;
mod places;

pub use pace::{LEAST, Pace, Paced, Stalled, Steady};
pub use places::{Busy, Full, Place, Places};

use std::time::Duration;

/// Connections of one port at once, where nothing else is said.
pub const CONNECTIONS: usize = 1024;
/// How long a peer may take for [`LEAST`] bytes of what it began, where nothing else is said.
pub const STALL: Duration = Duration::from_secs(30);

/// What the peers of a port may hold.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once.
    pub connections: usize,
    /// How long a peer may take for [`LEAST`] bytes of what it began, and for a whole head.
    pub stall: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connections: CONNECTIONS, stall: STALL }
    }
}
