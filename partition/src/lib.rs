//! Cuts an ONNX network into pipeline stages.

pub mod onnx;
pub mod tensor;

pub use tensor::{DType, Tensor, TensorInfo, byte_len};
