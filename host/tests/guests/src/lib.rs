//! What guests that misbehave have in common: each behaves in the first run of an instance, so that it passes its warm-up
//! and the slot's first request, and misbehaves in the second.
#![no_std]

#[doc(hidden)]
pub extern crate alloc;

use alloc::{boxed::Box, format, string::String, vec::Vec};
use core::sync::atomic::{AtomicU32, Ordering};
use once_cell::race::OnceBox;

wit_bindgen::generate!({
    path: "../../../wit",
    world: "defer:stage/stage",
    generate_all,
    pub_export_macro: true,
});

pub use exports::defer::stage::runner::{Guest, NamedTensor};
pub use wasi::nn::graph::{self, ExecutionTarget, GraphEncoding};
pub use wasi::nn::tensor::{Tensor, TensorType};

use wasi::nn::{errors::Error, inference::GraphExecutionContext};

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

static CONTEXT: OnceBox<GraphExecutionContext> = OnceBox::new();
static RUNS: AtomicU32 = AtomicU32::new(0);

/// As a good guest's `init`.
pub fn prepare() -> Result<(), String> {
    let graph = graph::load_by_name("slice").map_err(|e| describe("load graph \"slice\"", &e))?;
    let context = graph.init_execution_context().map_err(|e| describe("make an execution context", &e))?;
    CONTEXT.set(Box::new(context)).map_err(|_| String::from("init was called twice on one instance"))
}

/// As a good guest's `run`.
pub fn compute(inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, String> {
    let context = CONTEXT.get().ok_or_else(|| String::from("run was called before init"))?;
    context.compute(inputs).map_err(|e| describe("compute", &e))
}

/// Whether it is not yet time to misbehave.
pub fn behaves() -> bool {
    RUNS.fetch_add(1, Ordering::Relaxed) != 1
}

pub fn describe(doing: &str, error: &Error) -> String {
    format!("{doing}: {:?}: {}", error.code(), error.data())
}

/// A guest that computes, but for its second run.
#[macro_export]
macro_rules! misbehaves {
    (|$inputs:ident| $misdeed:expr) => {
        struct Misbehaving;

        impl $crate::Guest for Misbehaving {
            fn init() -> Result<(), $crate::alloc::string::String> {
                $crate::prepare()
            }

            fn run(
                $inputs: $crate::alloc::vec::Vec<$crate::NamedTensor>,
            ) -> Result<$crate::alloc::vec::Vec<$crate::NamedTensor>, $crate::alloc::string::String> {
                if $crate::behaves() {
                    return $crate::compute($inputs);
                }
                $misdeed
            }
        }

        $crate::export!(Misbehaving with_types_in $crate);
    };
}

#[cfg(target_arch = "wasm32")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
