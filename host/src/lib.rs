//! Runs one neural network over many small computers.

pub mod artifact;
pub mod buffer;
pub mod engine;
pub mod http;
pub mod relay;
pub mod sandbox;
pub mod node;
pub mod telemetry;
