//! The rows of the benchmark, and their table.

use crate::table::{Side, table};
use serde::Serialize;

/// One system under one condition.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// `defer-host`; `engine-alone` and `onnxruntime-alone`: one node, no chain; `replicas`: as many nodes, each with the
    /// whole network (added up, as if requests reached them for nothing); `defer-method`.
    pub system: &'static str,
    pub engine: String,
    pub model: String,
    pub nodes: u8,
    pub stages: u8,
    pub replicas: u8,
    /// What a node has of one CPU.
    pub cpu: f64,
    /// `null` where nothing crosses a link.
    pub link_mbit: Option<u32>,
    pub codec: Option<String>,
    /// Whether a codec that changes values was at work.
    pub lossy: bool,
    /// What the plan expected; `null` where cuts did not move with the link.
    pub predicted_rps: Option<f64>,
    pub throughput_rps: f64,
    /// Throughput over that of the same engine alone on one such node, in the same run; `null` where that did not run.
    pub vs_single: Option<f64>,
    pub cpu_ms_per_inference_max_node: f64,
    /// The same over what one inference takes of the same engine alone.
    pub cpu_vs_single: Option<f64>,
    /// Encoded bytes of tensors that left all stages but the last.
    pub bytes_per_inference: Option<f64>,
    /// Encoded bytes that enter the first stage.
    pub input_bytes: Option<f64>,
    /// What the bytes and CPU times measured allow at most: as often per second as the busiest node's share of a CPU lasts for
    /// what it takes of it, and as the busiest link's rate for what goes over it.
    pub bound_rps: Option<f64>,
    /// `throughput_rps` over that.
    pub of_bound: Option<f64>,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Of the node that had most resident.
    pub peak_memory_mb: f64,
    /// Page faults that had to read from a disk, per inference, of the node with most.
    pub major_faults_per_inference: f64,
    /// Largest difference from the uncut network's answers, relative to the tensor's largest value.
    pub max_relative_error: Option<f64>,
    /// Of each stage in order, per inference, in ms: CPU time of its node, and the parts of a stage's work by the clock.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stage_times: Vec<StageTime>,
}

impl Row {
    /// Works out the bound, from all the rest.
    pub fn bind(&mut self) {
        let cpu = self.stage_times.iter().map(|stage| self.cpu * 1e3 / stage.cpu_ms);
        // The last stage's output leaves over its node's link like the others.
        let bytes = self.stage_times.iter().map(|stage| stage.bytes_out).chain(self.input_bytes);
        let links = bytes.filter_map(|bytes| Some(f64::from(self.link_mbit?) * 1e6 / 8.0 / bytes));
        let bound = cpu.chain(links).fold(f64::INFINITY, f64::min);
        self.bound_rps = bound.is_finite().then_some(bound);
        self.of_bound = self.bound_rps.map(|bound| self.throughput_rps / bound);
    }

    /// Whether it is what rows of the same engine are related to.
    pub fn is_single(&self) -> bool {
        self.system == "engine-alone" || (self.system == "defer-method" && self.nodes == 1)
    }
}

/// Means of one stage, in ms.
#[derive(Clone, Debug, Serialize)]
pub struct StageTime {
    pub cpu_ms: f64,
    pub decode_ms: f64,
    pub compute_ms: f64,
    pub encode_ms: f64,
    pub bytes_out: f64,
    /// Of what left it last.
    pub codec: String,
}

/// The rows, for a person.
pub fn table_of(rows: &[Row]) -> String {
    let right = |title| (title, Side::Right);
    let left = |title| (title, Side::Left);
    let columns = [
        left("system"),
        left("engine"),
        right("nodes"),
        right("Mbit/s"),
        left("codec"),
        right("per second"),
        right("vs single"),
        right("of bound"),
        right("CPU ms max"),
        right("vs single"),
        right("kB/inference"),
        right("p50 ms"),
        right("p99 ms"),
        right("peak MiB"),
        right("major faults"),
        right("error"),
    ];
    let dash = || "–".to_owned();
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            [
                row.system.to_owned(),
                row.engine.clone(),
                row.nodes.to_string(),
                row.link_mbit.map_or_else(dash, |mbit| mbit.to_string()),
                row.codec.clone().unwrap_or_else(dash),
                format!("{:.2}", row.throughput_rps),
                row.vs_single.map_or_else(dash, |times| format!("{times:.2}")),
                row.of_bound.map_or_else(dash, |share| format!("{share:.2}")),
                format!("{:.1}", row.cpu_ms_per_inference_max_node),
                row.cpu_vs_single.map_or_else(dash, |times| format!("{times:.3}")),
                row.bytes_per_inference.map_or_else(dash, |bytes| format!("{:.0}", bytes / 1e3)),
                format!("{:.0}", row.p50_ms),
                format!("{:.0}", row.p99_ms),
                format!("{:.0}", row.peak_memory_mb),
                format!("{:.1}", row.major_faults_per_inference),
                row.max_relative_error.map_or_else(dash, |error| format!("{error:.1e}")),
            ]
        })
        .collect();
    table(columns, &cells)
}
