//! Stages that cannot do their work although their nodes live, as the nodes say with their heartbeats.

use super::deploy::Deployment;
use super::fleet::Member;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long two nodes must be without a link before one of them loses its stage: longer than it takes to see that one is dead.
const APART: Duration = Duration::from_secs(2);

/// A stage that cannot do its work: part of `GET /v1/pulse`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ailing {
    pub pipeline: String,
    pub generation: u64,
    pub index: usize,
    /// For how long.
    pub ms: u64,
    pub ailment: Ailment,
}

/// Why it cannot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ailment {
    /// Its engine does not return, and no fresh session can be had.
    Engine { cause: String },
    /// Nothing answers at this relay of the next stage.
    Link { relay: String },
}

/// A stage that has to leave a node.
#[derive(Clone, Debug)]
pub struct Sick {
    pub index: usize,
    pub node: Arc<Member>,
    pub since: Instant,
    /// Such as "its node \"pi-2\" is not reached from node \"pi-1\"".
    pub cause: String,
    /// The two ends of the link that is missing, by their URLs.
    link: Option<(String, String)>,
}

impl Sick {
    pub fn is(&self, index: usize, node: &Arc<Member>) -> bool {
        self.index == index && Arc::ptr_eq(&self.node, node)
    }
}

/// Tells which end of a missing link is at fault.
#[derive(Debug, Default)]
pub struct Judge {
    /// Links, from and to, for whose want a stage was moved.
    missed: Vec<(String, String)>,
}

impl Judge {
    /// The stages of `deployment`, which runs for `age`, that have to leave their nodes. Nodes that do not answer are not
    /// among them.
    pub fn sick(&self, deployment: &Deployment, age: Duration) -> Vec<Sick> {
        let mut found: Vec<Sick> = Vec::new();
        for placed in deployment.stages.iter().filter(|placed| placed.node.is_up()) {
            let (index, node) = (placed.index, &placed.node);
            let ailing = node.ailing();
            let own = |ailing: &&Ailing| {
                let Ailing { pipeline, generation, index, .. } = ailing;
                (pipeline, *generation, *index) == (&deployment.pipeline.name, deployment.generation, placed.index)
            };
            let next: Vec<&Arc<Member>> = deployment.nodes_of(index + 1).filter(|next| next.is_up()).collect();
            let mut apart = Vec::new();
            for Ailing { ms, ailment, .. } in ailing.iter().filter(own) {
                let lasts = Duration::from_millis(*ms);
                let since = Instant::now().checked_sub(lasts).unwrap_or_else(Instant::now);
                match ailment {
                    Ailment::Engine { cause } => {
                        let cause = format!("its node \"{}\" does not compute it ({cause})", node.name());
                        found.push(Sick { index, node: Arc::clone(node), since, cause, link: None });
                    }
                    // The other end may have loaded its stage only just now.
                    Ailment::Link { relay } if lasts.min(age) >= APART => {
                        apart.extend(next.iter().filter(|next| next.relay() == *relay).map(|next| (*next, since)));
                    }
                    Ailment::Link { .. } => {}
                }
            }
            for (other, since) in &apart {
                let link = (node.url().to_string(), other.url().to_string());
                let is_alone = apart.len() > 1 && apart.len() == next.len();
                let (index, blamed) = match is_alone || self.is_at_fault(&link) {
                    true => (index, node),
                    false => (index + 1, *other),
                };
                if found.iter().any(|sick| sick.is(index, blamed)) {
                    continue;
                }
                let cause = format!("there is no link from node \"{}\" to node \"{}\"", node.name(), other.name());
                found.push(Sick { index, node: Arc::clone(blamed), since: *since, cause, link: Some(link) });
            }
        }
        found
    }

    /// Whether it is the sender's doing that it does not reach the receiver: it has not reached another one either.
    fn is_at_fault(&self, (from, to): &(String, String)) -> bool {
        self.missed.iter().any(|(other, before)| other == from && before != to)
    }

    /// They have left.
    pub fn moved(&mut self, sick: &[Sick]) {
        let new: Vec<_> = sick.iter().filter_map(|sick| sick.link.clone()).collect();
        self.missed.extend(new.into_iter().filter(|link| !self.missed.contains(link)).collect::<Vec<_>>());
    }

    /// Nodes came or went.
    pub fn forget(&mut self) {
        self.missed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_has_not_reached_another_either_is_at_fault_itself() {
        let link = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        let mut judge = Judge::default();
        assert!(!judge.is_at_fault(&link("a", "b")));
        judge.missed.push(link("a", "b"));
        assert!(!judge.is_at_fault(&link("a", "b")), "it is still the same link");
        assert!(judge.is_at_fault(&link("a", "c")));
        assert!(!judge.is_at_fault(&link("b", "c")));
        judge.forget();
        assert!(!judge.is_at_fault(&link("a", "c")));
    }
}
