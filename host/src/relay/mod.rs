//! Moves tensors from host to host: frames, the codecs inside them, and the connections they travel on.
//!
//! The relay knows pipelines, generations and stages by name and number only; it knows nothing of components or engines.

pub mod adaptive;
pub mod chooser;
pub mod codec;
pub mod feed;
pub mod frame;
pub mod hello;
pub mod link;
mod rate;
pub mod spread;
pub mod toll;
pub mod traffic;
mod wake;

pub use codec::{Choice as CodecChoice, Codec, CodecError, Encoded};
pub use frame::{Failure, FailureKind, FrameError, Part, PipelineId, Tag};
pub use hello::{Hello, Role, Token};
pub use link::{Connection, Frame, FrameReader, FrameWriter, Limits, LinkError};
pub use rate::LinkRate;
pub use toll::Toll;
