//! What happens when: all of it drawn from a seed before anything runs.

use super::versions::{ENDS, PIPELINES};
use defer_partition::testing::Random;
use std::fmt;
use std::time::Duration;

/// Before the first event, and after the last one.
const QUIET: Duration = Duration::from_secs(3);
const CLOSING: Duration = Duration::from_secs(7);
/// Around a swap whose throughput counts.
const CALM: Duration = Duration::from_millis(2600);
/// A node that was hurt is left alone for so long.
const REST: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Everything to and from the node.
    Whole,
    /// What goes to it only; what it answers passes.
    Inward,
    Outward,
    /// Its relay alone.
    Relay,
    /// Its connections end, and new ones are refused.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    Kill {
        node: usize,
        ms: u64,
    },
    Freeze {
        node: usize,
        ms: u64,
    },
    Stop {
        node: usize,
        ms: u64,
    },
    Cut {
        node: usize,
        how: Cut,
        ms: u64,
    },
    FullDisk {
        node: usize,
        ms: u64,
    },
    KillDispatcher {
        ms: u64,
    },
    StopDispatcher {
        ms: u64,
    },
    FreezeDispatcher {
        ms: u64,
    },
    Burst {
        clients: usize,
        ms: u64,
    },
    /// The last stage for its other version, with nothing else around.
    Swap,
    /// As many bytes of a good stage as `keep` hundredths.
    TornStage {
        keep: usize,
    },
    /// Another stage than that of the slot.
    WrongStage,
    RollBack,
    Deploy {
        pipeline: usize,
        end: usize,
    },
    Canary {
        pipeline: usize,
        end: usize,
        promote: bool,
    },
    BrokenPipeline,
    /// A deployment, whose dispatcher is killed so long after it began.
    DeployKilled {
        pipeline: usize,
        end: usize,
        after_ms: u64,
    },
}

impl Event {
    /// Whether something is broken, as opposed to changed in an orderly manner.
    pub fn is_fault(self) -> bool {
        !matches!(self, Self::Swap | Self::RollBack | Self::Deploy { .. } | Self::Canary { .. })
    }

    fn duration(self) -> Duration {
        Duration::from_millis(match self {
            Self::Kill { ms, .. } | Self::Freeze { ms, .. } | Self::Stop { ms, .. } | Self::Cut { ms, .. } => ms,
            Self::FullDisk { ms, .. } | Self::KillDispatcher { ms } | Self::StopDispatcher { ms } => ms,
            Self::FreezeDispatcher { ms } | Self::Burst { ms, .. } => ms,
            Self::Canary { .. } | Self::DeployKilled { .. } => 1500,
            _ => 0,
        })
    }

    fn hurts_dispatcher(self) -> bool {
        matches!(
            self,
            Self::KillDispatcher { .. }
                | Self::StopDispatcher { .. }
                | Self::FreezeDispatcher { .. }
                | Self::DeployKilled { .. }
        )
    }

    fn node(self) -> Option<usize> {
        match self {
            Self::Kill { node, .. } | Self::Freeze { node, .. } | Self::Stop { node, .. } => Some(node),
            Self::Cut { node, .. } | Self::FullDisk { node, .. } => Some(node),
            _ => None,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Kill { node, ms } => write!(f, "kill node-{node} for {ms} ms"),
            Self::Freeze { node, ms } => write!(f, "freeze node-{node} for {ms} ms"),
            Self::Stop { node, ms } => write!(f, "stop node-{node} for {ms} ms"),
            Self::Cut { node, how, ms } => write!(f, "cut node-{node} off ({how:?}) for {ms} ms"),
            Self::FullDisk { node, ms } => write!(f, "fill the disk of node-{node} for {ms} ms"),
            Self::KillDispatcher { ms } => write!(f, "kill the dispatcher for {ms} ms"),
            Self::StopDispatcher { ms } => write!(f, "stop the dispatcher for {ms} ms"),
            Self::FreezeDispatcher { ms } => write!(f, "freeze the dispatcher for {ms} ms"),
            Self::Burst { clients, ms } => write!(f, "{clients} clients more for {ms} ms"),
            Self::Swap => write!(f, "swap the last stage"),
            Self::TornStage { keep } => write!(f, "swap in {keep} % of a stage"),
            Self::WrongStage => write!(f, "swap in another stage"),
            Self::RollBack => write!(f, "roll the last stage back"),
            Self::Deploy { pipeline, end } => write!(f, "deploy pipeline {pipeline}{end}"),
            Self::Canary { pipeline, end, promote } => {
                let then = if promote { "promote" } else { "abort" };
                write!(f, "try pipeline {pipeline}{end} out, then {then} it")
            }
            Self::BrokenPipeline => write!(f, "deploy a pipeline with half a stage"),
            Self::DeployKilled { pipeline, end, after_ms } => {
                write!(f, "deploy pipeline {pipeline}{end}, and kill the dispatcher after {after_ms} ms")
            }
        }
    }
}

/// An event and when it happens, from the start of the load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Planned {
    pub at: Duration,
    pub event: Event,
}

/// The schedule of `seed` for `length` over `nodes` nodes.
pub fn draw(seed: u64, length: Duration, nodes: usize) -> Vec<Planned> {
    let mut random = Random::new(seed);
    let mut planned: Vec<Planned> = Vec::new();
    let mut deck = Vec::new();
    let mut free = vec![Duration::ZERO; nodes];
    let (mut at, mut all_over, mut dispatcher_free) = (QUIET, QUIET, QUIET);
    loop {
        if deck.is_empty() {
            deck = shuffled(&mut random);
        }
        let Some(kind) = deck.pop() else { return planned };
        let event = make(kind, &mut random, &mut free, at);
        let begin = match event {
            Event::Swap => at.max(all_over + CALM),
            event if event.hurts_dispatcher() => at.max(dispatcher_free),
            _ => at,
        };
        let end = begin + event.duration();
        if end + CLOSING > length {
            return planned;
        }
        if let Some(node) = event.node() {
            free[node] = end + REST;
        }
        if event.hurts_dispatcher() {
            dispatcher_free = end + REST * 2;
        }
        planned.push(Planned { at: begin, event });
        all_over = all_over.max(end);
        let pause = if event == Event::Swap { 900 } else { 1000 };
        at = begin + Duration::from_millis(pause + random.below(900) as u64);
    }
}

/// One event of each kind, the common ones more than once, in any order.
fn shuffled(random: &mut Random) -> Vec<usize> {
    let mut deck: Vec<usize> = (0..KINDS).chain([0, 1, 9, 9, 13]).collect();
    for i in (1..deck.len()).rev() {
        deck.swap(i, random.below(i + 1));
    }
    deck
}

const KINDS: usize = 17;

fn make(kind: usize, random: &mut Random, free: &mut [Duration], at: Duration) -> Event {
    let mut between = |least: u64, most: usize| least + random.below(most - least as usize) as u64;
    let ms = between(600, 3500);
    let first = between(0, free.len()) as usize;
    let how = [Cut::Whole, Cut::Inward, Cut::Outward, Cut::Relay, Cut::Refused][between(0, 5) as usize];
    let (pipeline, end) = (between(0, PIPELINES) as usize, between(0, ENDS) as usize);
    let (brief, share, flag) = (between(30, 900), between(5, 95) as usize, between(0, 2) == 0);
    // The first one from there on that is well, or will be first.
    let order = (0..free.len()).map(|step| (first + step) % free.len());
    let node = order.clone().find(|&node| free[node] <= at).unwrap_or(first);
    // With two that are hurt at a time there is a node for each stage.
    let hurt = free.iter().filter(|&&free| free > at).count();
    if hurt >= 2 && (kind <= 4) {
        return Event::Burst { clients: 60, ms: 500 };
    }
    match kind {
        0 => Event::Kill { node, ms },
        1 => Event::Freeze { node, ms },
        2 => Event::Stop { node, ms },
        3 => Event::Cut { node, how, ms: ms.min(2500) },
        4 => Event::FullDisk { node, ms },
        5 => Event::KillDispatcher { ms: brief },
        6 => Event::StopDispatcher { ms: brief },
        7 => Event::FreezeDispatcher { ms: brief * 2 },
        8 => Event::Burst { clients: 150, ms: brief },
        9 => Event::Swap,
        10 => Event::TornStage { keep: share },
        11 => Event::WrongStage,
        12 => Event::RollBack,
        13 => Event::Deploy { pipeline, end },
        14 => Event::Canary { pipeline, end, promote: flag },
        15 => Event::BrokenPipeline,
        _ => Event::DeployKilled { pipeline, end, after_ms: brief / 2 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_one_schedule_that_fits_its_time() {
        let length = Duration::from_secs(60);
        for seed in 0..200 {
            let one = draw(seed, length, 6);
            assert_eq!(one, draw(seed, length, 6));
            assert_ne!(one, draw(seed + 1, length, 6));
            assert!(one.len() >= 15, "{seed}: {}", one.len());
            let faults = one.iter().filter(|planned| planned.event.is_fault()).count();
            assert!(faults >= 8, "{seed}: {faults}");
            assert!(one.iter().all(|planned| planned.at + planned.event.duration() + CLOSING <= length));
            assert!(one.windows(2).all(|pair| pair[0].at < pair[1].at));
        }
        let hour = draw(1, Duration::from_secs(3600), 6);
        assert!(hour.iter().filter(|planned| planned.event.is_fault()).count() >= 200);
    }
}
