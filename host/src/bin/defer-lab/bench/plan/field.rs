//! The published setting: nodes at random places in a square, links that get slower with distance, nothing but memory and
//! transfers counted (Parthasarathy and Krishnamachari, "Partitioning and Placement of Deep Neural Networks on Distributed
//! Edge Devices to Maximize Inference Throughput", arXiv 2210.12219).

use defer_host::build::Activations;
use defer_partition::cluster::{Cluster, ClusterNode, Links, Pair};
use defer_partition::profile::{AtomCost, CodecCost, CutCost, FORMAT, Profile};
use defer_partition::testing::Random;

/// Side of the square, in metres.
const SIDE: f64 = 150.0;
/// Nearer than this, in metres, the formula of the bandwidth means nothing.
const NEAREST: f64 = 1.0;

/// How large what crosses a cut is taken to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// As it is.
    AsIs,
    /// 8 bytes per element, made 1.44 times smaller: what was published.
    Published,
    /// The same, with 8 bytes per weight: the published bottlenecks look as if that was meant.
    PublishedWeights,
}

impl Size {
    pub fn name(self) -> &'static str {
        match self {
            Self::AsIs => "as it is",
            Self::Published => "8 bytes, ZFP 1.44",
            Self::PublishedWeights => "the same, weights too",
        }
    }

    /// By how much more a weight takes than with us, who have 4 bytes.
    fn weight(self) -> u64 {
        if self == Self::PublishedWeights { 2 } else { 1 }
    }
}

/// Bytes that an element takes where it was published: 8, made smaller.
const PUBLISHED_BYTES: f64 = 8.0 / 1.44;
/// Bytes that most elements take with us.
const BYTES: u64 = 4;

/// What is asked of the planner. Settings that differ in a factor only ask the same, and are asked once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    pub nodes: usize,
    /// Bytes of our weights that a node may hold.
    memory: u64,
    elements: bool,
}

impl Question {
    /// With it, how long transfers of that setting take where those of the question take 1.
    pub fn of(activations: &Activations, size: Size, memory: u64, nodes: usize) -> (Self, f64) {
        let alike = activations.cuts.iter().all(|(_, bytes, elements)| *bytes == BYTES * elements);
        let elements = size != Size::AsIs || alike;
        let scale = if size == Size::AsIs && alike { BYTES as f64 / PUBLISHED_BYTES } else { 1.0 };
        (Self { nodes, memory: memory / size.weight(), elements }, scale)
    }

    fn bytes(self, bytes: u64, elements: u64) -> u64 {
        if self.elements { (elements as f64 * PUBLISHED_BYTES).round() as u64 } else { bytes }
    }
}

/// A network of which only weights and transfers count.
pub fn profile(model: &str, activations: &Activations, question: Question) -> Profile {
    let atom = |(name, weights): &(String, u64)| AtomCost {
        name: name.clone(),
        weights_bytes: *weights,
        ..AtomCost::default()
    };
    let cut = |&(after, bytes, elements): &(usize, u64, u64)| {
        let codec =
            CodecCost { name: "raw".to_owned(), bytes: question.bytes(bytes, elements), ..CodecCost::default() };
        CutCost { after, codecs: vec![codec], ..CutCost::default() }
    };
    Profile {
        format: FORMAT,
        model: model.to_owned(),
        atoms: activations.atoms.iter().map(atom).collect(),
        cuts: activations.cuts.iter().map(cut).collect(),
        ..Profile::default()
    }
}

/// Nodes alike, somewhere.
pub fn cluster(question: Question, random: &mut Random) -> Cluster {
    let Question { nodes, memory, .. } = question;
    const STEPS: usize = 1 << 20;
    let mut place = || SIDE * random.below(STEPS) as f64 / STEPS as f64;
    let places: Vec<(f64, f64)> = (0..nodes).map(|_| (place(), place())).collect();
    let name = |node: usize| format!("node-{node}");
    let mut pairs = Vec::new();
    for a in 0..nodes {
        for b in 0..a {
            let (x, y) = (places[a].0 - places[b].0, places[a].1 - places[b].1);
            let square = (x * x + y * y).max(NEAREST * NEAREST);
            let bandwidth_bps = Some(1e6 * (1.0 + 283_230.0 / square).log2());
            pairs.push(Pair { a: name(a), b: name(b), bandwidth_bps, latency_ms: None });
        }
    }
    let node = |node| ClusterNode { name: name(node), url: None, speed: 1.0, memory_bytes: memory, cores: None };
    let link = Links { bandwidth_bps: None, latency_ms: Some(0.0), pairs };
    Cluster { nodes: (0..nodes).map(node).collect(), link, dispatcher: None }
}

/// What everyone needs to know of one trial.
pub struct Trial {
    /// Where a stage may begin or end, in atoms.
    pub positions: Vec<usize>,
    /// Bytes that cross each of them; those of the two ends mean nothing.
    pub bytes: Vec<u64>,
    weights: Vec<u64>,
    memory: u64,
    /// ms per byte.
    pub pace: Vec<Vec<f64>>,
}

impl Trial {
    pub fn new(profile: &Profile, cluster: &Cluster) -> Option<Self> {
        let links = cluster.links().ok()?;
        let pace = links.iter().map(|row| row.iter().map(|link| 8e3 / link.bandwidth_bps).collect()).collect();
        let cuts = || profile.cuts.iter();
        let count = profile.atoms.len();
        let mut weights = vec![0];
        weights.extend(profile.atoms.iter().scan(0, |sum, atom| {
            *sum += atom.weights_bytes;
            Some(*sum)
        }));
        Some(Self {
            positions: [0].into_iter().chain(cuts().map(|cut| cut.after + 1)).chain([count]).collect(),
            bytes: [0].into_iter().chain(cuts().map(|cut| cut.codecs[0].bytes)).chain([0]).collect(),
            weights,
            memory: cluster.nodes.first()?.memory_bytes,
            pace,
        })
    }

    pub fn nodes(&self) -> usize {
        self.pace.len()
    }

    pub fn last(&self) -> usize {
        self.positions.len() - 1
    }

    /// Whether one node holds what is between two positions.
    pub fn holds(&self, from: usize, to: usize) -> bool {
        self.weights[self.positions[to]] - self.weights[self.positions[from]] <= self.memory
    }

    /// The fewest stages, as the positions at which they end, with no more than `most` bytes across any cut.
    pub fn fewest(&self, most: u64) -> Option<Vec<usize>> {
        let (mut at, mut ends) = (0, Vec::new());
        while at < self.last() {
            let reach = (at + 1..=self.last()).take_while(|to| self.holds(at, *to));
            let fits = |to: &usize| *to == self.last() || self.bytes[*to] <= most;
            at = reach.filter(fits).last()?;
            ends.push(at);
        }
        (ends.len() <= self.nodes()).then_some(ends)
    }

    /// The least possible largest transfer, with as few stages as it allows: positions at which they end.
    pub fn least_transfer(&self) -> Option<(u64, Vec<usize>)> {
        let mut sizes = self.bytes.clone();
        sizes.sort_unstable();
        sizes.dedup();
        let at = sizes.partition_point(|most| self.fewest(*most).is_none());
        let most = *sizes.get(at)?;
        Some((most, self.fewest(most)?))
    }

    /// What no plan can beat: the least possible largest transfer over the fastest link; 0 where one node is enough.
    pub fn bound(&self) -> Option<f64> {
        let (most, ends) = self.least_transfer()?;
        let fastest = self.pace.iter().flatten().copied().filter(|pace| *pace > 0.0).fold(f64::INFINITY, f64::min);
        Some(if ends.len() > 1 { most as f64 * fastest } else { 0.0 })
    }

    /// Stages that end at `ends`, on `nodes`: the longest transfer, in ms.
    pub fn bottleneck(&self, ends: &[usize], nodes: &[usize]) -> f64 {
        let hops = ends.iter().zip(nodes.windows(2));
        hops.map(|(end, pair)| self.bytes[*end] as f64 * self.pace[pair[0]][pair[1]]).fold(0.0, f64::max)
    }
}
