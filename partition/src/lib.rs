//! Cuts an ONNX network into pipeline stages.
//!
//! The way of a network through this crate:
//!
//! 1. [`onnx::read`] reads the file and the tensors kept beside it;
//! 2. [`Network::new`] prepares the graph: sorted, constants by name, nothing superfluous;
//! 3. [`fold::fold`] and [`fold::fold_constants`] make it smaller without changing what it computes;
//! 4. [`split::split`] makes several of a layer that is too large for any machine;
//! 5. [`Atoms::new`] groups nodes that engines run as one operation; each boundary between groups is a candidate cut;
//! 6. [`plan::min_max`] chooses cuts from what groups and boundaries were measured to cost, [`plan::place`] also nodes and
//!    codecs, or a user names tensors;
//! 7. [`Partition`] says what each stage takes, makes and hands on;
//! 8. [`slice::slice`] makes each stage an ONNX model of its own, with its weights apart.
//!
//! [`profile`] is what a network costs, [`cluster`] the machines that it may run on, [`command`] the planner's command.
//!
//! [`dims`] settles the sizes that a model leaves open; [`testing`] makes random networks for tests.
//!
//! The crate runs nothing itself: times, and types of the tensors that cross cuts, come from the caller's engine.

pub mod atoms;
pub mod cluster;
pub mod command;
pub mod cut;
pub mod dims;
pub mod fold;
pub mod graph;
pub mod onnx;
pub mod plan;
pub mod profile;
pub mod slice;
pub mod split;
pub mod tensor;
pub mod testing;

pub use atoms::{Atom, Atoms};
pub use cut::{Partition, Stage};
pub use graph::{Dim, InputInfo, Network};
pub use slice::{Slice, Weight};
pub use tensor::{DType, Tensor, TensorInfo, byte_len};
