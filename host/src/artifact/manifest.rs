//! What a stage says of itself.

use defer_partition::{TensorInfo, byte_len};
use serde::{Deserialize, Serialize};

/// Version of the artifact's layout.
pub const FORMAT: u32 = 1;

/// The `defer:manifest` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// Name of the pipeline.
    pub pipeline: String,
    /// Position of this stage, from 0.
    pub index: usize,
    /// Number of stages.
    pub count: usize,
    /// What the slice computes from.
    pub inputs: Vec<TensorInfo>,
    /// What the slice computes.
    pub outputs: Vec<TensorInfo>,
    /// What enters and leaves unchanged, for a later stage or because the model already made it.
    pub forwards: Vec<TensorInfo>,
    /// SHA-256 of the model file that was cut.
    pub model_digest: String,
    /// A shape for each input, in their order, to warm up with where it is not fixed.
    pub warm_up: Vec<Vec<usize>>,
    /// Bytes of the graph section.
    pub graph_bytes: u64,
    /// Bytes of the weights section, from its first aligned byte.
    pub weights_bytes: u64,
    /// Most that its activations, forwarded ones too, took at once when the network was cut, in bytes; unknown in artifacts of
    /// earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_peak_bytes: Option<u64>,
}

impl Manifest {
    /// Bytes of activations of one request: their peak, else, too little, what the warm-up takes in.
    pub fn activation_bytes(&self) -> u64 {
        let inputs = self.inputs.iter().zip(&self.warm_up);
        let entering = inputs.map(|(input, shape)| byte_len(input.dtype, shape).map_or(u64::MAX, |bytes| bytes as u64));
        self.activation_peak_bytes.unwrap_or_else(|| entering.fold(0, u64::saturating_add))
    }

    /// The tensors that enter the stage, in the order in which frames number them: by name.
    pub fn entering(&self) -> Vec<&TensorInfo> {
        Self::by_name(self.inputs.iter().chain(&self.forwards))
    }

    /// The tensors that leave the stage, in the order in which frames number them: by name.
    pub fn leaving(&self) -> Vec<&TensorInfo> {
        Self::by_name(self.outputs.iter().chain(&self.forwards))
    }

    /// The order in which frames number tensors: by the bytes of their names, each once.
    pub fn by_name<'a>(tensors: impl Iterator<Item = &'a TensorInfo>) -> Vec<&'a TensorInfo> {
        let mut tensors: Vec<_> = tensors.collect();
        tensors.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        tensors.dedup_by(|a, b| a.name == b.name);
        tensors
    }
}
