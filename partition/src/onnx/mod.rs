#[allow(clippy::all, clippy::cast_lossless, rustdoc::all)]
pub mod proto;
