//! Runs one neural network over many small computers.

pub mod accuracy;
pub mod artifact;
pub mod buffer;
pub mod build;
pub mod client;
pub mod commands;
pub mod cpu;
pub mod discovery;
pub mod dispatcher;
mod durable;
pub mod engine;
pub mod http;
pub mod memory;
pub mod node;
pub mod oip;
pub mod openapi;
pub mod pipeline;
pub mod port;
pub mod probe;
pub mod relay;
pub mod sandbox;
pub mod stdout;
pub mod telemetry;
