//! What a plan costs, written down anew from what the planner promises to count.

use defer_partition::cluster::Cluster;
use defer_partition::profile::{CodecCost, CutCost, Profile};

#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub bottleneck_ms: f64,
    pub latency_ms: f64,
}

/// Nodes, first and last atom, codec of the hop that follows.
pub type Stage = (Vec<usize>, [usize; 2], Option<String>);

/// Weights of all atoms and the largest activations of one.
pub fn memory(profile: &Profile, first: usize, last: usize) -> u64 {
    let atoms = &profile.atoms[first..=last];
    atoms.iter().map(|atom| atom.weights_bytes).sum::<u64>()
        + atoms.iter().map(|atom| atom.activation_peak_bytes).max().unwrap()
}

fn cut(profile: &Profile, after: usize) -> &CutCost {
    profile.cuts.iter().find(|cut| cut.after == after).unwrap()
}

fn codec<'a>(codecs: &'a [CodecCost], name: &str) -> &'a CodecCost {
    codecs.iter().find(|codec| codec.name == name).unwrap()
}

fn decode_ms(profile: &Profile, [first, last]: [usize; 2], name: &str) -> f64 {
    let cut = cut(profile, first - 1);
    if profile.tensors.is_empty() || cut.tensors.is_empty() {
        return codec(&cut.codecs, name).decode_ms;
    }
    let crossing = profile.tensors.iter().filter(|tensor| cut.tensors.contains(&tensor.name));
    let used = crossing.filter(|tensor| tensor.used.iter().any(|atom| (first..=last).contains(atom)));
    used.map(|tensor| codec(&tensor.codecs, name).decode_ms).sum()
}

fn encode_ms(profile: &Profile, [first, last]: [usize; 2], name: &str) -> f64 {
    let cut = cut(profile, last);
    if profile.tensors.is_empty() || cut.tensors.is_empty() {
        return codec(&cut.codecs, name).encode_ms;
    }
    let crossing = profile.tensors.iter().filter(|tensor| cut.tensors.contains(&tensor.name));
    let made = crossing.filter(|tensor| tensor.made.is_some_and(|atom| (first..=last).contains(&atom)));
    made.map(|tensor| codec(&tensor.codecs, name).encode_ms).sum()
}

fn compute_ms(profile: &Profile, [first, last]: [usize; 2]) -> f64 {
    if let Some(run) = profile.runs.iter().rev().find(|run| run.atoms == [first, last]) {
        return run.compute_ms;
    }
    let mut ms: f64 = profile.atoms[first..=last].iter().map(|atom| atom.compute_ms).sum();
    if first > 0 {
        ms += cut(profile, first - 1).boundary_ms / 2.0;
    }
    if last + 1 < profile.atoms.len() {
        ms += cut(profile, last).boundary_ms / 2.0;
    }
    ms
}

pub fn evaluate(profile: &Profile, cluster: &Cluster, stages: &[Stage]) -> Figures {
    let links = cluster.links().unwrap();
    let (dispatcher_bps, dispatcher_latency) =
        cluster.dispatcher.map_or((f64::INFINITY, 0.0), |link| (link.bandwidth_bps, link.latency_ms));
    let input = profile.input_bytes as f64 * 8.0 / dispatcher_bps * 1000.0;
    let output = profile.output_bytes as f64 * 8.0 / dispatcher_bps * 1000.0;
    let mut bottleneck_ms = input.max(output);
    let mut latency_ms = input + output + 2.0 * dispatcher_latency;
    let mut previous: Option<(Vec<(usize, f64)>, u64)> = None;
    for (index, (nodes, atoms, codec_out)) in stages.iter().enumerate() {
        let mut work = compute_ms(profile, *atoms);
        if index > 0 {
            work += decode_ms(profile, *atoms, stages[index - 1].2.as_ref().unwrap());
        }
        if let Some(name) = codec_out {
            work += encode_ms(profile, *atoms, name);
        }
        // A node that costs nothing has no rate: shares are those of the speeds then, which they are anyway.
        let total: f64 = nodes.iter().map(|node| cluster.nodes[*node].speed).sum();
        let shares: Vec<(usize, f64)> = nodes.iter().map(|node| (*node, cluster.nodes[*node].speed / total)).collect();
        let rate: f64 = nodes.iter().map(|node| 1.0 / (work / cluster.nodes[*node].speed)).sum();
        bottleneck_ms = bottleneck_ms.max(1.0 / rate);
        latency_ms += shares.iter().map(|(node, share)| share * work / cluster.nodes[*node].speed).sum::<f64>();
        if let Some((before, bytes)) = previous {
            for (a, share_a) in &before {
                for (b, share_b) in &shares {
                    let link = links[*a][*b];
                    let whole = bytes as f64 * 8.0 / link.bandwidth_bps * 1000.0;
                    let share = share_a * share_b;
                    bottleneck_ms = bottleneck_ms.max(share * whole);
                    latency_ms += share * (whole + link.latency_ms);
                }
            }
        }
        let bytes = codec_out.as_ref().map(|name| codec(&cut(profile, atoms[1]).codecs, name).bytes);
        previous = bytes.map(|bytes| (shares, bytes));
    }
    Figures { bottleneck_ms, latency_ms }
}
