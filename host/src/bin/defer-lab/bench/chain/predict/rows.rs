//! What `bench predict` reports: for each network and cluster what was promised and what came.

use crate::table::{Side, table};
use defer_partition::cluster::Cluster;
use serde::Serialize;

/// One network on one cluster.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub model: String,
    pub engine: &'static str,
    pub nodes: u8,
    /// Stages of the plan.
    pub stages: usize,
    /// Nodes that it uses.
    pub used: usize,
    /// What the plan promises, at the pace that the machine had while the network was profiled.
    pub planned_rps: f64,
    /// The same at the pace that it had during the run.
    pub predicted_rps: f64,
    pub throughput_rps: f64,
    /// Measured over predicted.
    pub ratio: f64,
    /// CPU time that a standard network took during the run over that during the profile.
    pub pace: f64,
    pub predicted_latency_ms: f64,
    pub p50_ms: f64,
    /// Of the nodes, by name: what each has of a CPU, its speed as probed, and the rate of its link.
    pub cpu: Vec<f64>,
    pub speed: Vec<f64>,
    pub link_mbit: Vec<u32>,
    /// Where the stages are, and what they cost their nodes as planned and as measured, in ms of CPU time.
    pub placed: Vec<Placed>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Placed {
    pub nodes: Vec<String>,
    pub codec: Option<String>,
    pub planned_cpu_ms: f64,
    pub cpu_ms: f64,
}

/// What a plan that promises `planned_rps` does where computing takes `pace` times as long: what links allow stays.
pub fn at_pace(planned_rps: f64, stages: &[Placed], cluster: &Cluster, pace: f64) -> f64 {
    let speed = |stage: &Placed| stage.nodes.iter().filter_map(|name| Some(cluster.node(name)?.speed)).sum::<f64>();
    let busiest_ms = stages.iter().map(|stage| stage.planned_cpu_ms / speed(stage)).fold(0.0, f64::max);
    let planned_ms = 1e3 / planned_rps;
    // Where computing limits it, links are as fast at least.
    let link_ms = if planned_ms > busiest_ms * 1.001 { planned_ms } else { 0.0 };
    1e3 / (busiest_ms * pace).max(link_ms)
}

/// The rows, and how far predictions are off.
pub fn table_of(rows: &[Row]) -> String {
    let right = |title| (title, Side::Right);
    let left = |title| (title, Side::Left);
    let columns = [
        left("model"),
        right("nodes"),
        right("stages"),
        right("used"),
        right("planned/s"),
        right("pace"),
        right("predicted/s"),
        right("measured/s"),
        right("ratio"),
        left("CPU ms per stage, planned / measured, and codec"),
    ];
    let stage = |stage: &Placed| {
        let codec = stage.codec.as_ref().map_or_else(String::new, |codec| format!(" {codec}"));
        format!("{:.1}/{:.1}{codec}", stage.planned_cpu_ms, stage.cpu_ms)
    };
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            [
                row.model.clone(),
                row.nodes.to_string(),
                row.stages.to_string(),
                row.used.to_string(),
                format!("{:.2}", row.planned_rps),
                format!("{:.2}", row.pace),
                format!("{:.2}", row.predicted_rps),
                format!("{:.2}", row.throughput_rps),
                format!("{:.3}", row.ratio),
                row.placed.iter().map(stage).collect::<Vec<_>>().join(", "),
            ]
        })
        .collect();
    let mut off: Vec<f64> = rows.iter().map(|row| (row.ratio - 1.0).abs() * 100.0).collect();
    off.sort_unstable_by(f64::total_cmp);
    let median = off.get(off.len() / 2).copied().unwrap_or_default();
    format!("{}\nmedian distance from the prediction: {median:.1} %\n", table(columns, &cells))
}
