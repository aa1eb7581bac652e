//! The planner: which atoms run together, and where.
//!
//! [`place`] plans for a cluster of machines, equal or not, with links between them; [`min_max`] balances a given number
//! of equal stages that nothing but compute matters to.
//!
//! What [`place`] counts: a stage on a node takes (decode + compute + encode) / speed, a hop its bytes × 8 / bandwidth.
//! A node's CPU and its two directions work side by side, so the longest of all of them is the bottleneck; requests and
//! answers on the dispatcher's link, which is one for all nodes, are among them. Each node runs one stage. A stage on
//! several nodes has the sum of their rates, each gets a share by its rate, and a pair of nodes carries the product of
//! their shares.

mod bits;
mod error;
mod exact;
mod machines;
mod many;
mod memory;
mod min_max;
mod model;
mod paths;
mod place;
mod placement;
mod quickest;
mod route;
mod rows;
mod search;
mod shortage;
mod swift;

pub use error::NoPlan;
pub use min_max::{Costs, EQUALLY_FAST, Plan, PlanError, min_max};
pub use place::{EXACT_NODES, Objective, Options, Replicas, place, place_noting};
pub use placement::{Alternative, Kind, PlacedStage, Placement};
pub use shortage::fits;
