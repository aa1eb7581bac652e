//! The planner: which atoms run together, and where.
//!
//! [`min_max`] balances a given number of equal stages that nothing but compute matters to.

mod min_max;

pub use min_max::{Costs, EQUALLY_FAST, Plan, PlanError, min_max};
