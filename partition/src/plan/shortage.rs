//! What to say where memory is too small.

use super::error::{NoPlan, megabytes};
use super::machines::Machines;
use super::memory::{Change, Fit, Memory};
use super::model::Model;
use super::place::{Options, Planner};
use crate::cluster::Cluster;
use crate::profile::Profile;
use std::cell::Cell;
use std::time::Instant;

/// Whether the nodes of `cluster` have room for `profile` at all; the error says what is short. Times do not matter to it.
pub fn fits(profile: &Profile, cluster: &Cluster, options: &Options) -> Result<(), NoPlan> {
    let machines = &Machines::new(cluster).map_err(|error| NoPlan::Invalid(error.to_string()))?;
    let largest = machines.memory.iter().copied().max().unwrap_or(0);
    let model = &Model::new(profile, |_| true, largest);
    let (started, cut_short) = (Instant::now(), Cell::new(false));
    let planner = Planner { profile, cluster, options, model, machines, started, cut_short, note: &|_| {} };
    match Memory::new(model).fit(&machines.memory, planner.max_stages()) {
        Fit::Fits(_) => Ok(()),
        short => Err(planner.too_little(&short)),
    }
}

impl Planner<'_> {
    /// What is short of memory, and a change that would do: the smallest one, if it does not say otherwise.
    pub(super) fn too_little(&self, fit: &Fit) -> NoPlan {
        let memory = Memory::new(self.model);
        let memories = &self.machines.memory;
        let node = |node: usize| &self.cluster.nodes[node].name;
        let (largest, most) =
            memories.iter().enumerate().max_by_key(|(at, most)| (**most, usize::MAX - at)).unwrap_or((0, &0));
        let too_large = memory.too_large(*most);
        let short = match too_large {
            Some((from, to, need)) => {
                let name = |at: usize| format!("{at} \"{}\"", self.profile.atoms[at].name);
                let atoms = match to - from {
                    1 => format!("atom {}", name(from)),
                    _ => format!("atoms {} to {}, which cannot be parted,", name(from), name(to - 1)),
                };
                format!(
                    "{atoms} needs {}, and the largest node, \"{}\", has {}",
                    megabytes(need),
                    node(largest),
                    megabytes(*most)
                )
            }
            None => {
                let (weights, _) = self.model.memory(0, self.profile.atoms.len());
                let all: u64 = memories.iter().fold(0, |sum, memory| sum.saturating_add(*memory));
                let within = match self.options.max_stages {
                    Some(most) if most < memories.len() => format!(" in at most {most} stages"),
                    _ => String::new(),
                };
                let proved = match fit {
                    Fit::Unknown => "no way was found to",
                    _ => "there is no way to",
                };
                format!(
                    "{proved} place weights of {} and what stages compute with on {} nodes that have {} together{within}",
                    megabytes(weights),
                    memories.len(),
                    megabytes(all)
                )
            }
        };
        let Change { raise, add, stages, least } =
            memory.change(memories, self.options.max_stages.unwrap_or(usize::MAX));
        let mut cures = Vec::new();
        cures.extend(stages.map(|stages| format!("allow {stages} stages")));
        cures.extend(raise.map(|(at, need)| format!("raise \"{}\" to {}", node(at), megabytes(need))));
        cures.extend(add.map(|need| format!("add one more node with at least {}", megabytes(need))));
        // One of the nodes raised to hold the whole network is always enough.
        let less = if least { "" } else { " (that is enough; less may be, too)" };
        NoPlan::Memory { short, cure: cures.join(", or ") + less, part_too_large: too_large.is_some() }
    }
}
