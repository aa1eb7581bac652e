//! Generated from `wit/`: the stage world, with wasi-nn's resources mapped to `wasmtime-wasi-nn`'s types.
#![allow(missing_docs, unused_qualifications, clippy::all)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "defer:stage/stage",
    with: {
        "wasi:nn/tensor.tensor": wasmtime_wasi_nn::Tensor,
        "wasi:nn/graph.graph": wasmtime_wasi_nn::Graph,
        "wasi:nn/inference.graph-execution-context": wasmtime_wasi_nn::ExecutionContext,
        "wasi:nn/errors.error": wasmtime_wasi_nn::wit::Error,
    },
});
