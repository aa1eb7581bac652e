//! How a tensor's bytes travel over one hop.
//!
//! A codec is chosen per tensor and hop; its number and parameters stand in the frame beside the tensor, so that both ends
//! need not agree on anything beforehand. Decoders are total: any bytes give a tensor of the declared size, or an error.
//!
//! Codecs are made of layers (`layer.rs`), one file each; `table.rs` says which there are and what numbers they have.

pub use constant::Constant;
