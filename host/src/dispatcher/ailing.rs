//! Stages that cannot do their work although their nodes live, as the nodes say with their heartbeats.

use super::deploy::Deployment;
use super::fleet::Member;
use super::placement::Homes;
use crate::artifact::Digest;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long two nodes that live must be without a link before one of them loses its stage.
pub const APART: Duration = Duration::from_secs(2);
/// How long it is remembered who could not do what.
const REMEMBERED: Duration = Duration::from_secs(600);

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
    /// Such as "there is no link from node \"pi-1\" to node \"pi-2\"".
    pub cause: String,
    /// The two ends of the link that is missing, by their URLs.
    link: Option<(String, String)>,
}

impl Sick {
    pub fn is(&self, index: usize, node: &Arc<Member>) -> bool {
        self.index == index && Arc::ptr_eq(&self.node, node)
    }

    /// Whether nobody sends to it, since it is the far end of a missing link.
    pub fn is_unreached(&self) -> bool {
        self.link.as_ref().is_some_and(|(_, to)| to == self.node.url().as_str())
    }
}

/// Tells which end of a missing link is at fault, and remembers it.
#[derive(Debug, Default)]
pub struct Judge {
    /// Links, from and to, for whose want a stage was moved.
    missed: Vec<(String, String, Instant)>,
    /// Artifacts, and nodes that gave them up.
    given_up: Vec<(Digest, Arc<Member>, Instant)>,
}

fn is_recent(since: &Instant) -> bool {
    since.elapsed() < REMEMBERED
}

impl Judge {
    /// The stages of `deployment` that have to leave their nodes, where it and both ends have been there without a link for
    /// `patience`. `age` is the deployment's. Nodes that do not answer are not among them.
    pub fn sick(&self, deployment: &Deployment, age: Duration, patience: Duration) -> Vec<Sick> {
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
                    Ailment::Link { relay } => {
                        // The far end may have come back only just now.
                        let is_long = |next: &&Arc<Member>| lasts.min(age).min(next.up_for()) >= patience;
                        let missing = next.iter().copied().filter(|next| next.relay() == *relay).filter(is_long);
                        apart.extend(missing.map(|next| (next, since)));
                    }
                }
            }
            // One that has to leave anyway says nothing about others.
            if found.iter().any(|sick| sick.is(index, node)) {
                continue;
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

    fn missed(&self) -> impl Iterator<Item = (&str, &str)> {
        let recent = self.missed.iter().filter(|(.., since)| is_recent(since));
        recent.map(|(from, to, _)| (from.as_str(), to.as_str()))
    }

    /// Whether it is the sender's doing that it does not reach the receiver: it has not reached another one either.
    fn is_at_fault(&self, (from, to): &(String, String)) -> bool {
        self.missed().any(|(other, before)| other == from && before != to)
    }

    /// Whether `node` with stage `index` would need a link that was missing before.
    pub fn has_missed(&self, homes: &Homes, index: usize, node: &Member) -> bool {
        let runs = |index: usize, url: &str| {
            homes.get(index).is_some_and(|home| home.iter().any(|node| node.url().as_str() == url))
        };
        let own = node.url().as_str();
        self.missed()
            .any(|(from, to)| to == own && index > 0 && runs(index - 1, from) || from == own && runs(index + 1, to))
    }

    /// Why stage `index`, which its nodes gave up, goes to no further one: others have given it up before.
    pub fn spent(&self, deployment: &Deployment, index: usize, sick: &[Sick]) -> Option<String> {
        let digest = deployment.pipeline.stages.get(index)?.digest;
        let now = sick.iter().filter(|sick| sick.index == index && sick.link.is_none()).map(|sick| &sick.node);
        let mut nodes: Vec<&Arc<Member>> = now.collect();
        if nodes.is_empty() {
            return None;
        }
        let before = self.given_up.iter().filter(|(of, _, since)| *of == digest && is_recent(since));
        for (_, node, _) in before {
            if !nodes.iter().any(|known| Arc::ptr_eq(known, node)) {
                nodes.push(node);
            }
        }
        let names: Vec<String> = nodes.iter().map(|node| format!("\"{}\"", node.name())).collect();
        let (name, nodes) = (&deployment.pipeline.name, names.join(", "));
        (names.len() > 1).then(|| {
            format!("stage {index} of pipeline \"{name}\" was given up by nodes {nodes}: its inputs or the stage itself are at fault, and no further node gets it for now")
        })
    }

    /// They have left.
    pub fn moved(&mut self, deployment: &Deployment, sick: &[Sick]) {
        self.missed.retain(|(.., since)| is_recent(since));
        self.given_up.retain(|(.., since)| is_recent(since));
        let now = Instant::now();
        for Sick { index, node, link, .. } in sick {
            match (link, deployment.pipeline.stages.get(*index)) {
                (Some((from, to)), _) => self.missed.push((from.clone(), to.clone(), now)),
                (None, Some(stage)) => self.given_up.push((stage.digest, Arc::clone(node), now)),
                (None, None) => {}
            }
        }
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
        judge.missed.push(("a".to_owned(), "b".to_owned(), Instant::now()));
        assert!(!judge.is_at_fault(&link("a", "b")), "it is still the same link");
        assert!(judge.is_at_fault(&link("a", "c")));
        assert!(!judge.is_at_fault(&link("b", "c")));
        let long_ago = Instant::now().checked_sub(REMEMBERED).expect("the machine runs for longer");
        judge.missed[0].2 = long_ago;
        assert!(!judge.is_at_fault(&link("a", "c")));
    }
}
