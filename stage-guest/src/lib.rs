//! The guest of every stage: it loads the graph that the host registered as `slice` and computes it.
//!
//! It knows no model, holds no weights and opens no socket. Tensors pass through as resource handles; it never reads
//! their bytes. Its only imports are `wasi:nn/*`, which is why there is no `std` here.
#![no_std]

extern crate alloc;

use alloc::{boxed::Box, format, string::String, vec::Vec};

use once_cell::race::OnceBox;

wit_bindgen::generate!({
    path: "../wit",
    world: "defer:stage/stage",
    generate_all,
});

use exports::defer::stage::runner::{Guest, NamedTensor};
use wasi::nn::{errors::Error, graph::load_by_name, inference::GraphExecutionContext};

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Set by `init`, used by every `run` of this instance.
static CONTEXT: OnceBox<GraphExecutionContext> = OnceBox::new();

struct Stage;

impl Guest for Stage {
    fn init() -> Result<(), String> {
        let graph = load_by_name("slice").map_err(|e| describe("load graph \"slice\"", &e))?;
        let context = graph.init_execution_context().map_err(|e| describe("make an execution context", &e))?;
        CONTEXT.set(Box::new(context)).map_err(|_| String::from("init was called twice on one instance"))
    }

    fn run(inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, String> {
        let context = CONTEXT.get().ok_or_else(|| String::from("run was called before init"))?;
        context.compute(inputs).map_err(|e| describe("compute", &e))
    }
}

fn describe(doing: &str, error: &Error) -> String {
    format!("{doing}: {:?}: {}", error.code(), error.data())
}

export!(Stage);

/// A trap ends this instance and names the stage on the host's side; there is nowhere to print to.
#[cfg(target_arch = "wasm32")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
