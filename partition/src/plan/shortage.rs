//! What to say where memory is too small.

use super::error::{NoPlan, megabytes};
use super::memory::{Change, Fit, Memory};
use super::place::Planner;

impl Planner<'_> {
    /// What is short of memory, and a change that would do: the smallest one, if it does not say otherwise.
    pub(super) fn too_little(&self, fit: &Fit) -> NoPlan {
        let memory = Memory::new(self.model);
        let memories = &self.machines.memory;
        let node = |node: usize| &self.cluster.nodes[node].name;
        let (largest, most) =
            memories.iter().enumerate().max_by_key(|(at, most)| (**most, usize::MAX - at)).unwrap_or((0, &0));
        let short = match memory.too_large(*most) {
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
        NoPlan::Memory { short, cure: cures.join(", or ") + less }
    }
}
