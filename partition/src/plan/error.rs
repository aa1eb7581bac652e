//! Why there is no plan for a cluster.

/// Why there is no plan for a cluster.
#[derive(Debug, thiserror::Error)]
pub enum NoPlan {
    /// What was given cannot be used.
    #[error("{0}")]
    Invalid(String),
    #[error("no plan: {short}; {cure}")]
    Memory {
        short: String,
        cure: String,
        /// Whether a part of the network is too large for any node, so that only splitting it would do without more memory.
        part_too_large: bool,
    },
}

impl NoPlan {
    /// Whether what was asked for makes no sense, rather than being impossible here.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Invalid(_))
    }
}

/// Bytes for people, never fewer than there are: `412.4 MB (412345678 bytes)`.
pub(super) fn megabytes(bytes: u64) -> String {
    let tenths = bytes.div_ceil(100_000);
    format!("{}.{} MB ({bytes} bytes)", tenths / 10, tenths % 10)
}
