//! The rows of the check, and their table.

use crate::table::{Side, table};
use defer_host::accuracy::Budget;
use serde::Serialize;

/// One pipeline in one way of use.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub model: String,
    /// Whether its answers mean something.
    pub trained: bool,
    pub stages: usize,
    /// `lossless`; `most-lossy`: each hop by the most lossy codec that it is allowed; `auto`: as nodes choose.
    pub mode: &'static str,
    pub budget: Budget,
    /// Whether the budget holds.
    pub holds: bool,
    /// Inputs that were tried; none of them was calibrated with.
    pub inputs: usize,
    /// Against the uncut network; `null` where it is no number.
    pub max_relative_error: Option<f64>,
    /// `null` where there are no positions.
    pub top1_agreement: Option<f64>,
    pub positions: u64,
    /// What is counted as right: `characters` as printed, `directions` as turned, `lines found` as by the uncut network.
    pub right_unit: Option<&'static str>,
    pub right: usize,
    pub right_of: usize,
    /// The same of the uncut network.
    pub right_uncut: usize,
    /// Encoded bytes of tensors that left all stages but the last, …
    pub bytes_per_inference: f64,
    /// … and the last.
    pub answer_bytes_per_inference: f64,
    /// Of each hop, in use at the end; the last one goes to the dispatcher.
    pub codecs: Vec<String>,
}

/// The rows, for a person.
pub fn table_of(rows: &[Row]) -> String {
    let right = |title| (title, Side::Right);
    let left = |title| (title, Side::Left);
    let columns = [
        left("network"),
        left("mode"),
        left("budget"),
        left("holds"),
        right("inputs"),
        right("error"),
        right("agreement"),
        left("right"),
        right("kB/inference"),
        right("kB/answer"),
        left("codecs"),
    ];
    let dash = || "–".to_owned();
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            let right = row.right_unit.map_or_else(dash, |unit| {
                format!("{} of {} {unit} (uncut {})", row.right, row.right_of, row.right_uncut)
            });
            [
                row.model.clone(),
                row.mode.to_owned(),
                row.budget.to_string(),
                if row.holds { "yes" } else { "NO" }.to_owned(),
                row.inputs.to_string(),
                row.max_relative_error.map_or_else(dash, |error| format!("{error:.1e}")),
                row.top1_agreement.map_or_else(dash, |share| format!("{share:.5}")),
                right,
                format!("{:.1}", row.bytes_per_inference / 1e3),
                format!("{:.1}", row.answer_bytes_per_inference / 1e3),
                row.codecs.join(" "),
            ]
        })
        .collect();
    table(columns, &cells)
}
