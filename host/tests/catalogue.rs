//! The networks of the catalogue in chains of 2, 4 and 8 nodes, the heaviest in one of them: each answers as the whole
//! network does.
//!
//! Eight nodes run throughout; the pipelines of all networks come to them one after the other.
#![allow(clippy::unwrap_used)] // tests, and functions that only tests call

mod support;

use defer_host::engine::Named;
use defer_models::{Entry, catalogue};
use defer_partition::TensorInfo;
use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;
use support::chain::{Node, spawn_dispatcher};
use support::networks::{Staged, assert_same, cut};
use support::{PATIENCE, folder, http};

/// The lengths of the chains that a network is served by. Those of half a gigabyte would take most of the time.
fn chains(name: &str) -> &'static [usize] {
    match name {
        "vgg16" => &[4],
        "vgg19" => &[2],
        _ => &[2, 4, 8],
    }
}

/// Whether the network can be had; where CI runs, it must be.
fn is_there(entry: &Entry) -> bool {
    match entry.fetch(&mut |line| println!("{line}")) {
        Ok(_) => true,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{} cannot be had: {error}", entry.name);
            println!("SKIPPED: {} cannot be had: {error}", entry.name);
            false
        }
    }
}

/// A network that was cut, and its samples with what the whole makes of them.
struct Case {
    staged: Staged,
    samples: Vec<(String, Vec<Named>, Vec<Named>)>,
}

/// Cuts all networks, and computes what the answers should be.
fn cases(each: impl Fn(Case)) {
    for entry in catalogue().iter().filter(|entry| is_there(entry)) {
        let mut wanted = None;
        for &count in chains(entry.name) {
            let staged = cut(entry.name, &folder(&format!("catalogue-{}-{count}", entry.name)), count, &[]).unwrap();
            assert_eq!(staged.pipeline.stages.len(), count);
            let samples = wanted.get_or_insert_with(|| {
                let samples = entry.sample_inputs().unwrap();
                let inputs: Vec<&[Named]> = samples.iter().map(|(_, inputs)| inputs.as_slice()).collect();
                let whole = staged.whole_all(&inputs);
                samples.into_iter().zip(whole).map(|((name, inputs), want)| (name, inputs, want)).collect::<Vec<_>>()
            });
            each(Case { samples: samples.clone(), staged });
        }
    }
}

#[test]
fn every_network_answers_in_2_4_and_8_nodes_as_the_whole() {
    let folder = folder("catalogue-nodes");
    let nodes: Vec<Node> = (0..8).map(|index| Node::start(&folder, &format!("n{index}"), &[])).collect();
    let started = Instant::now();
    let mut served: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    // The next network is cut while this one is asked.
    let (sender, cut) = sync_channel(1);
    thread::scope(|scope| {
        scope.spawn(move || cases(|case| sender.send(case).unwrap()));
        for (turn, Case { staged, samples }) in cut.into_iter().enumerate() {
            let (name, count) = (staged.name().to_owned(), staged.pipeline.stages.len());
            // Not always the same nodes, nor in the same order.
            let chosen: Vec<&Node> = (0..count).map(|at| &nodes[(turn + at) % nodes.len()]).collect();
            let mut dispatcher = spawn_dispatcher(&staged, &chosen, &[]);
            dispatcher.wait_listening(&["inference"], PATIENCE).unwrap();
            for (sample, inputs, want) in &samples {
                let what = format!("{name} in {count} nodes, {sample}");
                let got = http::infer(dispatcher.address("inference"), &name, inputs);
                assert_same(&got.unwrap_or_else(|refusal| panic!("{what}: {refusal:?}")), want, &what);
            }
            if name == "bert-mini" && count > 2 {
                let handed_on = |info: &TensorInfo| info.name == "attention_mask";
                let before_the_last_layer = &staged.pipeline.stages[..count - 2];
                assert!(before_the_last_layer.iter().all(|stage| stage.forwards.iter().any(handed_on)), "{count}");
            }
            assert!(dispatcher.terminate().is_some_and(|status| status.success()), "{name} in {count}");
            println!("{name} in {count}: {} s", started.elapsed().as_secs());
            served.entry(name).or_default().push(count);
        }
    });
    assert!(served.iter().all(|(name, counts)| counts == chains(name)), "{served:?}");
    // The generated ones need no network, and are served in any case.
    assert!(
        ["resnet50", "mobilenetv2", "bert-mini", "vgg16", "vgg19"].iter().all(|name| served.contains_key(*name)),
        "{served:?}"
    );
    for node in &nodes {
        assert!(node.stages().is_empty(), "{} kept a stage", node.name);
    }
}
