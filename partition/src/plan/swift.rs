//! Chains with little latency over nodes that are too many for all sets of them.
//!
//! From point to point, the soonest that each node can have come there. If nodes may come twice, nothing is sooner: a
//! bound. If each remembers the nodes of its own way, and those may not come again, it is a plan, if not always the best.

use super::machines::{Hop, Machines};
use super::model::Model;
use super::route::{Leg, Route};

/// Nodes in a set.
type Set = u128;
/// Most nodes.
pub(super) const NODES: usize = 128;

/// Whether a chain may come to a node again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Nodes {
    Once,
    Again,
}

#[derive(Clone, Copy)]
struct Label {
    ms: f64,
    used: Set,
    stages: usize,
    /// The point at which the stage began, or the node that handed over.
    from: usize,
}

/// The soonest end before `best`, the ways from and to the dispatcher not counted, and how.
pub(super) fn swift(
    model: &Model,
    machines: &Machines,
    max_stages: usize,
    best: f64,
    nodes: Nodes,
) -> Option<(f64, Route)> {
    let (count, end) = (machines.count().min(NODES), model.end());
    let hops: Vec<Vec<Hop>> = (0..count).map(|a| (0..count).map(|b| machines.hop(&[a], &[b])).collect()).collect();
    let fastest = machines.fastest(1);
    let mut starts: Vec<Vec<Option<Label>>> = vec![vec![None; end + 1]; count];
    let mut ends = starts.clone();
    for (node, starts) in starts.iter_mut().enumerate() {
        starts[0] = Some(Label { ms: 0.0, used: 1 << node, stages: 1, from: node });
    }
    let mut best = best;
    for point in 0..end {
        let bytes = model.points[point].bytes as f64;
        for node in 0..count {
            for before in (0..count).filter(|before| *before != node) {
                let Some(label) = ends[before][point] else { continue };
                if label.stages == max_stages || nodes == Nodes::Once && label.used >> node & 1 == 1 {
                    continue;
                }
                let ms = label.ms + hops[before][node].delay(bytes);
                if starts[node][point].is_none_or(|known| ms < known.ms) {
                    let used = label.used | 1 << node;
                    starts[node][point] = Some(Label { ms, used, stages: label.stages + 1, from: before });
                }
            }
            let Some(start) = starts[node][point] else { continue };
            if start.ms + model.rest[point] / fastest >= best {
                continue;
            }
            let (speed, ends) = (machines.speed[node], &mut ends[node]);
            model.scan(point, machines.memory[node], f64::INFINITY, |to, work| {
                let ms = start.ms + work / speed;
                if ends[to].is_none_or(|known| ms < known.ms) {
                    ends[to] = Some(Label { ms, from: point, ..start });
                }
            });
            best = ends[end].map_or(best, |label| best.min(label.ms));
        }
    }
    let soonest = |node: &usize| ends[*node][end].map_or(f64::INFINITY, |label| label.ms);
    let mut node = (0..count).min_by(|a, b| soonest(a).total_cmp(&soonest(b)))?;
    let ms = ends[node][end]?.ms;
    let (mut to, mut legs) = (end, Vec::new());
    loop {
        let from = ends[node][to]?.from;
        legs.push(Leg { nodes: vec![node], from, to });
        if from == 0 {
            legs.reverse();
            return Some((ms, Route { legs }));
        }
        node = starts[node][from]?.from;
        to = from;
    }
}
