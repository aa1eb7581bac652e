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
                // A sender that reaches any other receiver does its work.
                let is_alone = apart.len() == next.len() && (apart.len() > 1 || self.is_at_fault(&link));
                let (index, blamed) = match is_alone {
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

    /// Nodes that have given stage `index` up of late, those that do now first.
    fn gave_up<'a>(&'a self, deployment: &Deployment, index: usize, sick: &'a [Sick]) -> Vec<&'a Arc<Member>> {
        let Some(stage) = deployment.pipeline.stages.get(index) else { return Vec::new() };
        let now = sick.iter().filter(|sick| sick.index == index && sick.link.is_none() && is_recent(&sick.since));
        let mut nodes: Vec<&Arc<Member>> = now.map(|sick| &sick.node).collect();
        let before = self.given_up.iter().filter(|(of, _, since)| *of == stage.digest && is_recent(since));
        for (_, node, _) in before {
            if !nodes.iter().any(|known| Arc::ptr_eq(known, node)) {
                nodes.push(node);
            }
        }
        nodes
    }

    /// Whether no further node is to get stage `index`, since several have given it up.
    pub fn is_barred(&self, deployment: &Deployment, index: usize, sick: &[Sick]) -> bool {
        self.gave_up(deployment, index, sick).len() > 1
    }

    /// Why stage `index`, which its nodes have given up, goes to no further one, if so.
    pub fn spent(&self, deployment: &Deployment, index: usize, sick: &[Sick]) -> Option<String> {
        if !sick.iter().any(|sick| sick.index == index && sick.link.is_none()) {
            return None;
        }
        let nodes = self.gave_up(deployment, index, sick);
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
    use crate::dispatcher::deploy::place;
    use crate::dispatcher::fleet::Fleet;
    use crate::node::generation::Owner;
    use crate::pipeline::Pipeline;
    use crate::relay::Token;
    use serde_json::{Value, json};

    const LONG: Duration = Duration::from_secs(60);

    /// Stage i on the nodes of these numbers, all of which answer.
    fn deployment(homes: &[&[usize]]) -> (Vec<Arc<Member>>, Deployment) {
        let urls = (0..6).map(|n| format!("http://n{n}:1").parse().unwrap());
        let nodes = Fleet::new(urls, &Token::default()).unwrap().members().to_vec();
        nodes.iter().for_each(|node| node.said(LONG, Vec::new()));
        let none: [u8; 0] = [];
        let stage = |index: usize| {
            let digest = Digest::of(&[u8::try_from(index).unwrap()][..]).unwrap();
            json!({"index": index, "file": "", "digest": digest, "inputs": none, "outputs": none, "forwards": none, "weights_bytes": 0, "predicted_ms": 0.0})
        };
        let stages: Vec<Value> = (0..homes.len()).map(stage).collect();
        let model = json!({"digest": "", "file": ""});
        let plan = json!({"bottleneck_ms": 0.0, "lower_bound_ms": 0.0});
        let pipeline = json!({"format": 1, "name": "p", "model": model, "inputs": none, "outputs": none, "stages": stages, "plan": plan});
        let pipeline: Arc<Pipeline> = Arc::new(serde_json::from_value(pipeline).unwrap());
        let homes: Homes = homes.iter().map(|home| home.iter().map(|&n| Arc::clone(&nodes[n])).collect()).collect();
        let owner = Owner { name: "d".to_owned(), incarnation: 1, heir_of: Vec::new() };
        let placed = place(&pipeline, &homes, 7, owner, None);
        (nodes, placed)
    }

    fn ailing(generation: u64, index: usize, ms: u64, ailment: Ailment) -> Ailing {
        Ailing { pipeline: "p".to_owned(), generation, index, ms, ailment }
    }

    /// Stage `index` has had no link to these nodes for a while.
    fn misses(index: usize, to: &[usize]) -> Vec<Ailing> {
        let link = |n: &usize| ailing(7, index, 5000, Ailment::Link { relay: format!("n{n}") });
        to.iter().map(link).collect()
    }

    fn found(judge: &Judge, deployment: &Deployment) -> Vec<(usize, String)> {
        let sick = judge.sick(deployment, LONG, APART);
        sick.iter().map(|sick| (sick.index, sick.node.url().host_str().unwrap().to_owned())).collect()
    }

    #[test]
    fn the_far_end_of_a_missing_link_leaves_or_the_near_one_where_it_reaches_nobody() {
        let judge = Judge::default();
        for (homes, who, to, want) in [
            (&[&[0][..], &[1], &[2]][..], 0, &[1][..], vec![(1, "n1")]),
            (&[&[0], &[1, 2], &[3]], 0, &[2], vec![(1, "n2")]),
            (&[&[0], &[1, 2], &[3]], 0, &[1, 2], vec![(0, "n0")]),
        ] {
            let (nodes, deployment) = deployment(homes);
            nodes[who].said(LONG, misses(0, to));
            let want: Vec<(usize, String)> = want.into_iter().map(|(index, node)| (index, node.to_owned())).collect();
            assert_eq!(found(&judge, &deployment), want, "{homes:?}");
        }
        // It is cut off both ways: what it says of the next one counts for nothing.
        let (nodes, deployment) = deployment(&[&[0], &[1], &[2]]);
        nodes[0].said(LONG, misses(0, &[1]));
        nodes[1].said(LONG, misses(1, &[2]));
        assert_eq!(found(&judge, &deployment), [(1, "n1".to_owned())]);
    }

    #[test]
    fn one_that_has_missed_another_before_is_at_fault_itself() {
        let mut judge = Judge::default();
        let (nodes, first) = deployment(&[&[0], &[1], &[2]]);
        nodes[0].said(LONG, misses(0, &[1]));
        judge.moved(&first, &judge.sick(&first, LONG, APART));
        assert_eq!(found(&judge, &first), [(1, "n1".to_owned())], "it is still the same link");
        assert!(judge.has_missed(&first.homes(), 1, &nodes[1]) && !judge.has_missed(&first.homes(), 1, &nodes[3]));
        let (nodes, second) = deployment(&[&[0], &[3], &[2]]);
        nodes[0].said(LONG, misses(0, &[3]));
        assert_eq!(found(&judge, &second), [(0, "n0".to_owned())]);
        let (nodes, third) = deployment(&[&[0], &[3, 4], &[2]]);
        nodes[0].said(LONG, misses(0, &[3]));
        assert_eq!(found(&judge, &third), [(1, "n3".to_owned())], "it reaches another one");
        judge.missed[0].2 = Instant::now().checked_sub(REMEMBERED).unwrap();
        assert_eq!(found(&judge, &second), [(1, "n3".to_owned())], "that was long ago");
    }

    #[test]
    fn what_is_new_or_of_another_generation_is_no_reason_to_leave() {
        let judge = Judge::default();
        let (nodes, deployment) = deployment(&[&[0], &[1]]);
        let relay = || Ailment::Link { relay: "n1".to_owned() };
        for ailing in [ailing(6, 0, 5000, relay()), ailing(7, 1, 5000, relay()), ailing(7, 0, 100, relay())] {
            nodes[0].said(LONG, vec![ailing.clone()]);
            assert!(found(&judge, &deployment).is_empty(), "{ailing:?}");
        }
        nodes[0].said(LONG, misses(0, &[1]));
        assert!(judge.sick(&deployment, Duration::from_secs(1), APART).is_empty(), "the links are new");
        nodes[1].said(Duration::from_secs(1), Vec::new());
        assert!(found(&judge, &deployment).is_empty(), "the far end has just come back");
        nodes[1].said(LONG, Vec::new());
        assert_eq!(found(&judge, &deployment).len(), 1);
    }

    #[test]
    fn a_stage_that_two_nodes_have_given_up_goes_to_no_third() {
        let mut judge = Judge::default();
        let given_up = |index| vec![ailing(7, index, 0, Ailment::Engine { cause: "it loops".to_owned() })];
        let (nodes, first) = deployment(&[&[0], &[1]]);
        nodes[1].said(LONG, given_up(1));
        let sick = judge.sick(&first, LONG, APART);
        assert!(!sick[0].is_unreached() && judge.spent(&first, 1, &sick).is_none());
        judge.moved(&first, &sick);
        let (nodes, second) = deployment(&[&[0], &[2]]);
        nodes[2].said(LONG, given_up(1));
        let sick = judge.sick(&second, LONG, APART);
        let reason = judge.spent(&second, 1, &sick).unwrap();
        assert!(reason.contains("stage 1 of pipeline \"p\" was given up by nodes"), "{reason}");
        assert!(judge.spent(&second, 0, &sick).is_none() && !judge.is_barred(&second, 0, &sick));
        judge.moved(&second, &sick);
        assert!(
            judge.is_barred(&second, 1, &[]) && judge.spent(&second, 1, &[]).is_none(),
            "a node's death is another matter"
        );
    }
}
