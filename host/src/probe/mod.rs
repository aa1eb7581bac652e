//! What machines and links can do, measured: for `cluster.toml`, and so for plans.
//!
//! A node is asked over REST to compute a standard network, and to send frames to the relay of another node, which counts
//! and forgets them. Both are bounded in time and bytes, and guarded by the token like everything else.

pub mod path;
pub mod speed;
pub mod survey;
