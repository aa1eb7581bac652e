//! How long planning takes.

use super::Row;
use anyhow::{Context as _, Result};
use defer_host::build::Activations;
use defer_partition::cluster::{Cluster, ClusterNode, DispatcherLink, Links, Pair};
use defer_partition::plan::{Options, Replicas, place};
use defer_partition::profile::{AtomCost, CodecCost, CutCost, FORMAT, Profile};
use defer_partition::testing::Random;
use std::time::{Duration, Instant};

/// Codecs that trade bytes for time, none of which is worse than another in everything: part of the bytes that is left,
/// and ns per byte to encode and to decode. Made up, about as ours are.
const CODECS: [(&str, f64, f64, f64); 8] = [
    ("raw", 1.0, 0.0, 0.0),
    ("sparse", 0.8, 0.15, 0.12),
    ("lz4", 0.7, 0.5, 0.25),
    ("shuffle-lz4", 0.62, 0.8, 0.4),
    ("shuffle-zstd", 0.55, 2.0, 0.9),
    ("sparse+shuffle-zstd", 0.48, 2.4, 1.1),
    ("f16", 0.46, 2.5, 1.2),
    ("int8+zstd", 0.15, 3.2, 1.6),
];

/// A generated network of `count` atoms.
pub fn generated(count: usize) -> Activations {
    let mut random = Random::new(count as u64);
    let atom = |index| (format!("atom-{index}"), 100_000 + random.below(900_000) as u64);
    let atoms = (0..count).map(atom).collect();
    let cut = |after| (after, 200_000 + random.below(3_000_000) as u64, 0);
    Activations { atoms, cuts: (0..count - 1).map(cut).collect() }
}

/// The network with compute times and codecs that are made up.
fn profile(model: &str, activations: &Activations) -> Profile {
    let mut random = Random::new(5);
    let atom = |(name, weights): &(String, u64)| AtomCost {
        name: name.clone(),
        compute_ms: 0.1 + random.below(1000) as f64 / 500.0,
        weights_bytes: *weights,
        activation_peak_bytes: 2_000_000,
    };
    let atoms = activations.atoms.iter().map(atom).collect();
    let cut = |&(after, bytes, _): &(usize, u64, u64)| {
        let codec = |&(name, share, encode, decode): &(&str, f64, f64, f64)| CodecCost {
            name: name.to_owned(),
            bytes: (bytes as f64 * share) as u64,
            encode_ms: bytes as f64 * encode / 1e6,
            decode_ms: bytes as f64 * decode / 1e6,
        };
        CutCost { after, tensors: Vec::new(), codecs: CODECS.iter().map(codec).collect(), boundary_ms: 0.1 }
    };
    let cuts = activations.cuts.iter().map(cut).collect();
    Profile {
        format: FORMAT,
        model: model.to_owned(),
        atoms,
        cuts,
        input_bytes: 602_112,
        output_bytes: 4_000,
        ..Profile::default()
    }
}

/// Nodes of which no two are alike, nor any two links; each has room for a quarter of `weights`, or a little more.
fn cluster(nodes: usize, weights: u64) -> Cluster {
    let mut random = Random::new(nodes as u64);
    let name = |node: usize| format!("node-{node}");
    let node = |node, random: &mut Random| ClusterNode {
        name: name(node),
        url: None,
        speed: 0.1 + random.below(1 << 20) as f64 / f64::from(1 << 20),
        memory_bytes: weights / 4 + 4_000_000 + random.below(8_000_000) as u64,
        cores: None,
    };
    let list: Vec<ClusterNode> = (0..nodes).map(|index| node(index, &mut random)).collect();
    let mut pairs = Vec::new();
    for a in 0..nodes {
        for b in 0..a {
            let bandwidth_bps = Some(2e7 + random.below(400_000_000) as f64);
            pairs.push(Pair { a: name(a), b: name(b), bandwidth_bps, latency_ms: None });
        }
    }
    let link = Links { bandwidth_bps: None, latency_ms: Some(0.3), pairs };
    Cluster { nodes: list, link, dispatcher: Some(DispatcherLink { bandwidth_bps: 1e9, latency_ms: 0.1 }) }
}

/// Plans once and says how long that took.
pub fn measure(
    model: &str,
    activations: &Activations,
    nodes: usize,
    replicas: Replicas,
    budget: Duration,
) -> Result<Row> {
    let profile = profile(model, activations);
    let cluster = cluster(nodes, activations.atoms.iter().map(|(_, weights)| weights).sum());
    let options = Options { replicas, budget, deadline: Some(budget), ..Options::default() };
    let started = Instant::now();
    let plan = place(&profile, &cluster, &options).with_context(|| format!("cannot plan {model} on {nodes} nodes"))?;
    let took = started.elapsed();
    Ok(Row {
        part: "planning",
        model: model.to_owned(),
        atoms: profile.atoms.len(),
        nodes,
        method: if replicas == Replicas::Auto { "planner, replicas" } else { "planner" },
        planning_ms: Some(took.as_secs_f64() * 1e3),
        bottleneck_s: plan.bottleneck_ms / 1e3,
        stages: plan.stages.len() as f64,
        gap: Some(1.0 - plan.lower_bound_ms / plan.bottleneck_ms),
        optimal_share: Some(f64::from(u8::from(plan.optimal))),
        ..Row::default()
    })
}
