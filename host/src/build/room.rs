//! Room for layers: those that no machine of a cluster can hold, or that leave too little room for the rest, are split.

use super::profile::{Pieces, Size};
use super::shapes::Trace;
use super::{BuildError, Progress};
use defer_partition::cluster::Cluster;
use defer_partition::plan::{self, NoPlan, Options};
use defer_partition::profile::{AtomCost, CodecCost, CutCost, FORMAT, Profile};
use defer_partition::split::{Split, split};
use defer_partition::{Atoms, Network};

/// Shares of the largest machine's room that parts of layers may take, tried in this order: the fewest parts that do.
const SHARES: [f64; 7] = [1.0, 0.67, 0.5, 0.34, 0.25, 0.17, 0.125];

/// Groups a network and runs it.
type Look<'a> = dyn FnMut(&Network) -> Result<(Atoms, Trace), BuildError> + 'a;

/// What a network is to fit.
pub(super) struct Fitting<'a> {
    pub cluster: &'a Cluster,
    pub wish: Options,
}

impl Fitting<'_> {
    /// Whether the machines have room for the network.
    fn check(&self, network: &Network, atoms: &Atoms, trace: &Trace) -> Result<(), NoPlan> {
        plan::fits(&sizes(&Pieces::new(network, atoms, trace)), self.cluster, &self.wish)
    }

    /// Splits layers of `network`, which was cut into `atoms` and ran as `trace` tells, where the machines have no room for
    /// it as it is. `look` groups and runs a network that was split. Gives nothing where it is right as it is, or where no
    /// splitting helps: planning will say what is short.
    pub fn split(
        &self,
        network: &mut Network,
        (atoms, trace): (&Atoms, &Trace),
        look: &mut Look<'_>,
        progress: &dyn Progress,
    ) -> Result<Option<(Atoms, Trace)>, BuildError> {
        if self.check(network, atoms, trace).is_ok() || network.weights_bytes() > self.all_memory() {
            return Ok(None);
        }
        let pieces = Pieces::new(network, atoms, trace);
        let largest = self.cluster.nodes.iter().map(|node| node.memory_bytes).max().unwrap_or(0);
        let mut before = Vec::new();
        for share in SHARES {
            let room = |node: usize| {
                let peak = pieces.sizes[pieces.of_group(atoms.of_node(node))].activation_peak_bytes;
                largest.checked_sub(peak).map(|room| (room as f64 * share) as u64).filter(|room| *room > 0)
            };
            let mut finer = network.clone();
            let splits = split(&mut finer, &room);
            if splits == before {
                continue;
            }
            let (atoms, trace) = look(&finer)?;
            if self.check(&finer, &atoms, &trace).is_ok() {
                splits.iter().for_each(|split| progress.warning(&sentence(split)));
                *network = finer;
                return Ok(Some((atoms, trace)));
            }
            before = splits;
        }
        Ok(None)
    }

    fn all_memory(&self) -> u64 {
        let mut memories: Vec<u64> = self.cluster.nodes.iter().map(|node| node.memory_bytes).collect();
        memories.sort_unstable_by(|a, b| b.cmp(a));
        memories.into_iter().take(self.wish.max_stages.unwrap_or(usize::MAX)).fold(0, u64::saturating_add)
    }
}

fn sentence(split: &Split) -> String {
    let Split { name, weights_bytes, parts } = split;
    let megabytes = *weights_bytes as f64 / 1e6;
    format!(
        "the layer that makes \"{name}\" ({megabytes:.1} MB) is split into {parts} parts, which these machines have room for"
    )
}

/// What pieces take of memory, as a profile without times.
fn sizes(pieces: &Pieces) -> Profile {
    let atom = |size: &Size| AtomCost {
        name: size.name.clone(),
        compute_ms: 0.0,
        weights_bytes: size.weights_bytes,
        activation_peak_bytes: size.activation_peak_bytes,
    };
    let raw = || CodecCost { name: "raw".to_owned(), ..CodecCost::default() };
    let cut = |after| CutCost { after, codecs: vec![raw()], ..CutCost::default() };
    Profile {
        format: FORMAT,
        atoms: pieces.sizes.iter().map(atom).collect(),
        cuts: (0..pieces.count() - 1).map(cut).collect(),
        ..Profile::default()
    }
}
