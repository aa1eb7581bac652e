//! A plan for people and programs: stages, nodes, and what is expected of them.

use super::machines::Machines;
use super::model::Model;
use super::place::Objective;
use super::route::{Cost, Route};
use crate::cluster::Cluster;
use serde::{Deserialize, Serialize};

/// A plan for a cluster. Times are in ms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// What was to be good.
    pub objective: Objective,
    /// The longest that any stage or link is busy with one inference.
    pub bottleneck_ms: f64,
    /// 1000 / `bottleneck_ms`; null where nothing takes any time.
    pub throughput_rps: Option<f64>,
    /// Of one inference when there is no other: the sum of all stages and hops, on average over replicas.
    pub latency_ms: f64,
    /// No plan of the kind that was asked for has a smaller bottleneck, or latency where that is the objective.
    pub lower_bound_ms: f64,
    /// Whether it is proved that there is no better one.
    pub optimal: bool,
    /// Whether the deadline ended a search before its effort was spent: what was found depends on the machine's speed.
    pub cut_short: bool,
    /// What kind of plan it is.
    pub kind: Kind,
    /// From the dispatcher to the first stage.
    pub input_link_ms: f64,
    pub stages: Vec<PlacedStage>,
    pub alternatives: Vec<Alternative>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The whole network on one node.
    Single,
    /// The whole network on each of several nodes.
    Replication,
    /// Stages on one node each.
    Chain,
    /// Stages of which some are on several nodes.
    Mixed,
}

/// A stage. Its times are per inference: with replicas, what each of them needs, by its share of the inferences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlacedStage {
    pub nodes: Vec<String>,
    /// Share of the inferences that each node gets.
    pub shares: Vec<f64>,
    /// The first and the last atom.
    pub atoms: [usize; 2],
    /// Codec of the outgoing hop; none from the last stage, whose answers the dispatcher takes as they are.
    pub codec_out: Option<String>,
    pub compute_ms: f64,
    pub encode_ms: f64,
    pub decode_ms: f64,
    /// Of the outgoing hop: to the next stage (the busiest pair of nodes), or to the dispatcher.
    pub link_ms: f64,
    pub weights_bytes: u64,
    /// Weights and the largest activations.
    pub memory_bytes: u64,
}

impl PlacedStage {
    /// How long each of its nodes is busy with an inference.
    pub fn busy_ms(&self) -> f64 {
        self.decode_ms + self.compute_ms + self.encode_ms
    }
}

/// Another way to run the network, to see what the plan gains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    pub kind: Kind,
    /// Why there is none; the figures are there otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impossible: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bottleneck_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput_rps: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<PlacedStage>,
}

pub(super) fn throughput(bottleneck_ms: f64) -> Option<f64> {
    (bottleneck_ms > 0.0).then(|| 1e3 / bottleneck_ms)
}

impl Alternative {
    pub(super) fn possible(kind: Kind, cost: Cost, stages: Vec<PlacedStage>) -> Self {
        Self {
            kind,
            impossible: None,
            bottleneck_ms: Some(cost.bottleneck),
            throughput_rps: throughput(cost.bottleneck),
            latency_ms: Some(cost.latency),
            stages,
        }
    }

    pub(super) fn impossible(kind: Kind, why: String) -> Self {
        Self {
            kind,
            impossible: Some(why),
            bottleneck_ms: None,
            throughput_rps: None,
            latency_ms: None,
            stages: Vec::new(),
        }
    }
}

impl Route {
    pub fn kind(&self) -> Kind {
        match self.legs.as_slice() {
            [one] if one.nodes.len() == 1 => Kind::Single,
            [_] => Kind::Replication,
            legs if legs.iter().all(|leg| leg.nodes.len() == 1) => Kind::Chain,
            _ => Kind::Mixed,
        }
    }

    pub fn stages(&self, model: &Model, machines: &Machines, cluster: &Cluster) -> Vec<PlacedStage> {
        let stage = |(index, leg): (usize, &super::route::Leg)| {
            let (from, to) = (&model.points[leg.from], &model.points[leg.to]);
            let work = model.work(leg.from, leg.to);
            let speed = machines.group(&leg.nodes).speed;
            let link_ms = match self.legs.get(index + 1) {
                Some(next) => to.bytes as f64 * machines.hop(&leg.nodes, &next.nodes).ms_per_byte,
                None => machines.dispatcher.ms(to.bytes),
            };
            let (weights_bytes, memory_bytes) = model.memory(from.at, to.at);
            PlacedStage {
                nodes: leg.nodes.iter().map(|node| cluster.nodes[*node].name.clone()).collect(),
                shares: leg.nodes.iter().map(|node| machines.speed[*node] / speed).collect(),
                atoms: [from.at, to.at - 1],
                codec_out: to.codec.as_ref().map(|(_, name)| name.clone()),
                compute_ms: work.compute / speed,
                encode_ms: work.encode / speed,
                decode_ms: work.decode / speed,
                link_ms,
                weights_bytes,
                memory_bytes,
            }
        };
        self.legs.iter().enumerate().map(stage).collect()
    }
}
