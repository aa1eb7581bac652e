//! Plans for clusters, held against all that there are: every order of nodes, every set of cuts, every codec.
#![allow(clippy::unwrap_used)] // in functions that tests share

mod cases;
mod cost;

use cost::{Figures, evaluate, memory};
use defer_partition::cluster::{Cluster, ClusterNode, DispatcherLink, Links, Pair};
use defer_partition::plan::{Kind, Objective, Options, PlacedStage, Placement, Replicas, place};
use defer_partition::profile::{AtomCost, CodecCost, CutCost, FORMAT, Profile, RunCost, TensorCost};
use defer_partition::testing::Random;
use std::time::Duration;

/// What a random problem has.
#[derive(Clone, Copy, Debug, Default)]
struct Shape {
    atoms: usize,
    nodes: usize,
    codecs: usize,
    /// Nodes and links differ.
    unequal: bool,
    /// Memory is short.
    tight: bool,
    /// There is a table of tensors, some of which are forwarded.
    table: bool,
    /// Some stages were timed as a whole.
    runs: bool,
}

fn number(random: &mut Random, end: usize) -> f64 {
    (random.below(end * 8) + 1) as f64 / 8.0
}

fn profile(shape: Shape, random: &mut Random) -> Profile {
    let count = shape.atoms;
    let atom = |index: usize, random: &mut Random| AtomCost {
        name: format!("atom-{index}"),
        compute_ms: if random.below(6) == 0 { 0.0 } else { number(random, 20) },
        weights_bytes: random.below(1000) as u64,
        activation_peak_bytes: random.below(300) as u64,
    };
    let atoms: Vec<AtomCost> = (0..count).map(|index| atom(index, random)).collect();
    let codecs = |random: &mut Random| {
        let codec = |index: usize, random: &mut Random| CodecCost {
            name: format!("codec-{index}"),
            bytes: (random.below(4000) / (index + 1)) as u64,
            encode_ms: if index == 0 { 0.0 } else { number(random, 3) },
            decode_ms: if index == 0 { 0.0 } else { number(random, 2) },
        };
        (0..shape.codecs).map(|index| codec(index, random)).collect::<Vec<_>>()
    };
    let mut profile = Profile {
        format: FORMAT,
        model: "random".to_owned(),
        atoms,
        input_bytes: 100,
        output_bytes: 50,
        ..Profile::default()
    };
    if shape.table {
        // Each atom makes a tensor that the next one reads, and perhaps a later one; there is an input that is read late.
        for made in 0..count {
            let mut used = vec![made + 1];
            if random.below(2) == 0 {
                used.push(made + 1 + random.below(count - made));
            }
            used.retain(|atom| *atom < count);
            let made = if made == 0 && random.below(2) == 0 { None } else { Some(made) };
            let name = format!("t{}", profile.tensors.len());
            profile.tensors.push(TensorCost { name, made, used, codecs: codecs(random) });
        }
    }
    for after in 0..count - 1 {
        if count > 3 && random.below(7) == 0 {
            continue; // cannot be cut
        }
        let crosses =
            |tensor: &&TensorCost| tensor.made.unwrap_or(0) <= after && tensor.used.iter().any(|used| *used > after);
        let crossing: Vec<TensorCost> = profile.tensors.iter().filter(crosses).cloned().collect();
        let mut all = codecs(random);
        if !crossing.is_empty() {
            for (index, codec) in all.iter_mut().enumerate() {
                let sum =
                    |of: fn(&CodecCost) -> f64| crossing.iter().map(|tensor| of(&tensor.codecs[index])).sum::<f64>();
                codec.bytes = crossing.iter().map(|tensor| tensor.codecs[index].bytes).sum();
                codec.encode_ms = sum(|codec| codec.encode_ms);
                codec.decode_ms = sum(|codec| codec.decode_ms);
            }
        }
        let boundary_ms = if random.below(2) == 0 { number(random, 3) } else { 0.0 };
        let tensors = crossing.into_iter().map(|tensor| tensor.name).collect();
        profile.cuts.push(CutCost { after, tensors, codecs: all, boundary_ms });
    }
    if shape.runs {
        for _ in 0..2 {
            let from = random.below(count);
            let to = from + random.below(count - from);
            profile.runs.push(RunCost { atoms: [from, to], compute_ms: number(random, 30) });
        }
        profile.runs.dedup_by_key(|run| run.atoms);
    }
    profile
}

fn cluster(shape: Shape, random: &mut Random, profile: &Profile) -> Cluster {
    let whole = memory(profile, 0, profile.atoms.len() - 1);
    let node = |index: usize, random: &mut Random| ClusterNode {
        name: format!("node-{index}"),
        url: None,
        speed: if shape.unequal { number(random, 2) } else { 0.5 },
        memory_bytes: match (shape.tight, shape.unequal) {
            (false, _) => whole + 1,
            (true, false) => whole / 2 + 200,
            (true, true) => whole * (1 + random.below(8) as u64) / 8 + 100,
        },
        cores: None,
    };
    let nodes: Vec<ClusterNode> = (0..shape.nodes).map(|index| node(index, random)).collect();
    let mut link = Links { bandwidth_bps: Some(2e6), latency_ms: Some(0.25), pairs: Vec::new() };
    if shape.unequal {
        for a in 0..shape.nodes {
            for b in 0..shape.nodes {
                if a != b && random.below(3) > 0 {
                    link.pairs.push(Pair {
                        a: format!("node-{a}"),
                        b: format!("node-{b}"),
                        bandwidth_bps: Some(number(random, 4) * 1e6),
                        latency_ms: (random.below(2) == 0).then(|| number(random, 2)),
                    });
                }
            }
        }
    }
    let dispatcher = (random.below(2) == 0).then_some(DispatcherLink { bandwidth_bps: 5e6, latency_ms: 0.5 });
    Cluster { nodes, link, dispatcher }
}

/// The least bottleneck and the least latency of all plans; infinite where there is none.
fn brute_force(profile: &Profile, cluster: &Cluster, max_stages: usize, shared: bool) -> Figures {
    let mut best = Figures { bottleneck_ms: f64::INFINITY, latency_ms: f64::INFINITY };
    let mut stages = Vec::new();
    extend(profile, cluster, max_stages, shared, 0, 0, &mut stages, &mut best);
    best
}

#[allow(clippy::too_many_arguments)]
fn extend(
    profile: &Profile,
    cluster: &Cluster,
    max_stages: usize,
    shared: bool,
    from: usize,
    used: usize,
    stages: &mut Vec<(Vec<usize>, [usize; 2], Option<String>)>,
    best: &mut Figures,
) {
    if stages.len() == max_stages {
        return;
    }
    let last = profile.atoms.len() - 1;
    let groups =
        (1usize..1 << cluster.nodes.len()).filter(|group| group & used == 0 && (shared || group.count_ones() == 1));
    for group in groups {
        let nodes: Vec<usize> = (0..cluster.nodes.len()).filter(|node| group >> node & 1 == 1).collect();
        for to in from..=last {
            if nodes.iter().any(|node| memory(profile, from, to) > cluster.nodes[*node].memory_bytes) {
                break;
            }
            if to == last {
                stages.push((nodes.clone(), [from, to], None));
                let figures = evaluate(profile, cluster, stages);
                best.bottleneck_ms = best.bottleneck_ms.min(figures.bottleneck_ms);
                best.latency_ms = best.latency_ms.min(figures.latency_ms);
                stages.pop();
            } else if let Some(cut) = profile.cuts.iter().find(|cut| cut.after == to) {
                for codec in &cut.codecs {
                    stages.push((nodes.clone(), [from, to], Some(codec.name.clone())));
                    extend(profile, cluster, max_stages, shared, to + 1, used | group, stages, best);
                    stages.pop();
                }
            }
        }
    }
}

fn plain(cluster: &Cluster, stages: &[PlacedStage]) -> Vec<(Vec<usize>, [usize; 2], Option<String>)> {
    let node = |name: &String| cluster.nodes.iter().position(|node| node.name == *name).unwrap();
    stages.iter().map(|stage| (stage.nodes.iter().map(node).collect(), stage.atoms, stage.codec_out.clone())).collect()
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * (1.0 + a.abs())
}

/// The plan is one that can be run, and costs what it says.
fn check(profile: &Profile, cluster: &Cluster, plan: &Placement, context: &str) {
    let mut next = 0;
    let mut seen = Vec::new();
    for stage in &plan.stages {
        assert_eq!(stage.atoms[0], next, "{context}");
        next = stage.atoms[1] + 1;
        for name in &stage.nodes {
            assert!(!seen.contains(name), "{context}: {name} runs two stages");
            seen.push(name.clone());
            let need = memory(profile, stage.atoms[0], stage.atoms[1]);
            assert!(need <= cluster.node(name).unwrap().memory_bytes, "{context}: {name} is too small");
            assert_eq!(stage.memory_bytes, need, "{context}");
        }
    }
    assert_eq!(next, profile.atoms.len(), "{context}");
    let figures = evaluate(profile, cluster, &plain(cluster, &plan.stages));
    assert!(near(figures.bottleneck_ms, plan.bottleneck_ms), "{context}: {figures:?} but {plan:?}");
    assert!(near(figures.latency_ms, plan.latency_ms), "{context}: {figures:?} but {plan:?}");
    let busiest = plan.stages.iter().map(|stage| stage.busy_ms().max(stage.link_ms)).fold(plan.input_link_ms, f64::max);
    assert!(near(busiest, plan.bottleneck_ms), "{context}: {busiest} but {plan:?}");
    for alternative in plan.alternatives.iter().filter(|alternative| alternative.impossible.is_none()) {
        let figures = evaluate(profile, cluster, &plain(cluster, &alternative.stages));
        assert!(near(figures.bottleneck_ms, alternative.bottleneck_ms.unwrap()), "{context}: {alternative:?}");
    }
}

fn options(shape: Shape, random: &mut Random, replicas: Replicas) -> Options {
    let max_stages = (random.below(3) == 0).then(|| 1 + random.below(shape.nodes));
    Options { max_stages, replicas, budget: Duration::from_secs(60), ..Options::default() }
}

fn compare(shape: Shape, seeds: std::ops::Range<u64>, replicas: Replicas) {
    let (mut planned, mut cut) = (0, 0);
    for seed in seeds {
        let mut random = Random::new(seed);
        let random = &mut random;
        let profile = profile(shape, random);
        profile.check().unwrap();
        let cluster = cluster(shape, random, &profile);
        let options = options(shape, random, replicas);
        let context = format!("{shape:?}, seed {seed}, {:?} stages at most", options.max_stages);
        let max_stages = options.max_stages.unwrap_or(shape.nodes);
        let best = brute_force(&profile, &cluster, max_stages, replicas == Replicas::Auto);
        match place(&profile, &cluster, &options) {
            Ok(plan) => {
                check(&profile, &cluster, &plan, &context);
                assert!(near(plan.bottleneck_ms, best.bottleneck_ms), "{context}: {plan:?}, best {best:?}");
                assert!(plan.optimal && near(plan.lower_bound_ms, best.bottleneck_ms), "{context}: {plan:?}");
                planned += 1;
                cut += usize::from(plan.stages.len() > 1);
                let quick = Options { objective: Objective::Latency, ..options };
                let quick = place(&profile, &cluster, &quick).unwrap();
                check(&profile, &cluster, &quick, &context);
                assert!(near(quick.latency_ms, best.latency_ms), "{context}: {quick:?}, best {best:?}");
                assert!(quick.optimal, "{context}");
            }
            Err(error) => {
                assert!(best.bottleneck_ms.is_infinite(), "{context}: {error}, but {best:?}");
                assert!(!error.is_usage(), "{context}: {error}");
            }
        }
    }
    assert!(planned > 5 && cut > 2, "{shape:?}: {planned} planned, {cut} of them cut");
}

#[test]
fn no_chain_beats_the_planner() {
    let shape = Shape { atoms: 7, nodes: 4, codecs: 2, ..Shape::default() };
    for (unequal, tight) in [(false, false), (false, true), (true, false), (true, true)] {
        let shape = Shape { unequal, tight, ..shape };
        compare(shape, 0..200, Replicas::Off);
        compare(Shape { table: true, atoms: 6, codecs: 3, nodes: 3, ..shape }, 200..300, Replicas::Off);
        compare(Shape { runs: true, atoms: 8, codecs: 1, ..shape }, 300..500, Replicas::Off);
    }
}

#[test]
fn no_plan_with_replicas_beats_the_planner() {
    let shape = Shape { atoms: 6, nodes: 3, codecs: 2, ..Shape::default() };
    for (unequal, tight) in [(false, true), (true, true), (true, false), (false, false)] {
        if tight {
            compare(Shape { unequal, tight, ..shape }, 0..200, Replicas::Auto);
            compare(Shape { unequal, tight, table: true, runs: true, ..shape }, 200..300, Replicas::Auto);
            compare(Shape { unequal, tight, atoms: 5, nodes: 4, codecs: 1, ..shape }, 300..350, Replicas::Auto);
        } else {
            for seed in 0..20 {
                let mut random = Random::new(seed);
                let shape = Shape { unequal, tight, ..shape };
                let profile = profile(shape, &mut random);
                let cluster = cluster(shape, &mut random, &profile);
                let options = Options { replicas: Replicas::Auto, ..Options::default() };
                let plan = place(&profile, &cluster, &options).unwrap();
                check(&profile, &cluster, &plan, &format!("seed {seed}"));
                let best = brute_force(&profile, &cluster, 3, true);
                assert!(near(plan.bottleneck_ms, best.bottleneck_ms), "seed {seed}: {plan:?}, best {best:?}");
                // Nothing is cheaper than no hop at all.
                let runs_help = !matches!(plan.kind, Kind::Replication | Kind::Single);
                assert!(!runs_help || best.bottleneck_ms < plan.alternatives[1].bottleneck_ms.unwrap(), "seed {seed}");
            }
        }
    }
}
