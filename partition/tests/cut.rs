//! Cuts: what crosses them, for random networks and for cuts at named tensors.

#![allow(clippy::unwrap_used)]

mod support;

use defer_partition::cut::{CutError, Partition, Warning, crossings};
use defer_partition::fold::fold;
use defer_partition::testing::{Random, random_model};
use defer_partition::{Atoms, Network};
use proptest::prelude::*;
use std::collections::BTreeSet;
use support::*;

proptest! {
    #[test]
    fn what_leaves_a_stage_enters_the_next(seed: u64, cuts in prop::collection::btree_set(0usize..40, 0..8), single: bool) {
        let mut net = Network::new(random_model(seed)).unwrap();
        if seed % 2 == 0 {
            fold(&mut net);
        }
        let atoms = if single { Atoms::single_nodes(&net) } else { Atoms::new(&net) };
        let cuts: Vec<usize> = cuts.into_iter().filter(|c| c + 1 < atoms.atoms.len()).collect();
        let partition = Partition::new(&net, &atoms, &cuts).unwrap();
        prop_assert_eq!(partition.stages.len(), cuts.len() + 1);

        // The first stage is entered by the inputs that something reads or passes on; the outputs leave the last.
        let reads: BTreeSet<&str> = net.nodes().iter().flat_map(|n| n.reads()).collect();
        let inputs: BTreeSet<&str> = net.inputs().iter().map(|i| i.name.as_str()).collect();
        let used: Vec<&str> = inputs.into_iter().filter(|n| reads.contains(n)).collect();
        prop_assert_eq!(partition.stages[0].entering(), used);
        let outputs: BTreeSet<&str> = net.outputs().iter().map(String::as_str).collect();
        prop_assert_eq!(partition.stages.last().unwrap().leaving(), outputs.into_iter().collect::<Vec<_>>());

        let all = crossings(&net, &atoms);
        prop_assert_eq!(all.len() + 1, atoms.atoms.len());
        for (k, pair) in partition.stages.windows(2).enumerate() {
            prop_assert_eq!(pair[0].leaving(), pair[1].entering());
            prop_assert_eq!(&all[cuts[k]], &partition.crossing(k));
        }
        let mut nodes = 0;
        for stage in &partition.stages {
            prop_assert!(stage.nodes.is_sorted() && !stage.nodes.is_empty() && !stage.outputs.is_empty());
            nodes += stage.nodes.len();
            let made: BTreeSet<&str> = stage.nodes.iter().flat_map(|&n| net.nodes()[n].writes()).collect();
            for &node in &stage.nodes {
                for name in net.nodes()[node].reads() {
                    let here = made.contains(name) || net.is_constant(name) || stage.inputs.iter().any(|i| i == name);
                    prop_assert!(here, "{} lacks {}", stage.index, name);
                }
            }
            prop_assert!(stage.outputs.iter().all(|name| made.contains(name.as_str())));
            prop_assert!(stage.forwards.iter().chain(&stage.inputs).all(|name| !made.contains(name.as_str())));
        }
        prop_assert_eq!(nodes, net.nodes().len());
    }

    #[test]
    fn any_tensors_in_the_order_of_the_network_can_be_cut_at(seed: u64) {
        let net = Network::new(random_model(seed)).unwrap();
        let mut random = Random::new(seed);
        let nodes = net.nodes().len();
        let first = random.below(nodes);
        let second = first + random.below(nodes - first);
        let tensor = |node: usize| net.nodes()[node].writes().next().unwrap().to_owned();
        let atoms = Atoms::new(&net);
        if let Ok((atoms, partition, warnings)) = Partition::at_tensors(&net, &atoms, &[tensor(first), tensor(second)]) {
            prop_assert_eq!(partition.stages.len(), 3);
            prop_assert!(partition.stages[0].nodes.contains(&first) && partition.stages[1].nodes.contains(&second));
            prop_assert!(warnings.len() <= 2);
            for pair in partition.stages.windows(2) {
                prop_assert_eq!(pair[0].leaving(), pair[1].entering());
            }
            let order: Vec<usize> = atoms.atoms.iter().flat_map(|a| a.nodes.clone()).collect();
            prop_assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), nodes);
        }
        // One tensor alone can always be cut at, unless nothing follows.
        match Partition::at_tensors(&net, &atoms, &[tensor(first)]) {
            Ok((_, partition, _)) => prop_assert!(partition.stages[0].nodes.contains(&first)),
            Err(error) => prop_assert!(matches!(error, CutError::Last { .. }), "{error}"),
        }
    }
}

/// x → Conv → Sigmoid·Mul (one group), copied, MaxPool, Neg; `late` is an input that only the last node reads.
fn chain() -> Network {
    let nodes = vec![
        op("Conv", &["x", "w"], &["conv"]),
        op("Sigmoid", &["conv"], &["gate"]),
        op("Mul", &["conv", "gate"], &["silu"]),
        op("Identity", &["silu"], &["copy"]),
        op("MaxPool", &["copy"], &["pool"]),
        op("GlobalMaxPool", &["pool"], &["top"]),
        op("Add", &["top", "late"], &["y"]),
    ];
    Network::new(model(&["x", "late", "idle"], &["y", "silu"], nodes, vec![floats("w", &[1], &[1.0])])).unwrap()
}

#[test]
fn early_outputs_and_late_inputs_are_forwarded() {
    let net = chain();
    let atoms = Atoms::new(&net);
    let (_, partition, warnings) = Partition::at_tensors(&net, &atoms, &["copy".into(), "pool".into()]).unwrap();
    assert_eq!(warnings, []);
    let [first, second, third] = partition.stages.as_slice() else { panic!("three stages") };
    assert_eq!(
        (first.entering(), &first.inputs, &first.outputs),
        (vec!["late", "x"], &vec!["x".into()], &vec!["silu".into()])
    );
    assert_eq!(first.forwards, ["late"]);
    // Both read here and passed on.
    assert_eq!((&second.inputs, &second.forwards), (&vec!["silu".to_owned()], &vec!["late".to_owned(), "silu".into()]));
    assert_eq!((third.forwards.as_slice(), third.leaving()), (["silu".to_owned()].as_slice(), vec!["silu", "y"]));
    assert_eq!(partition.crossing(0), ["late", "silu"]);
}

#[test]
fn a_cut_inside_a_group_splits_it_and_says_so() {
    let net = chain();
    let atoms = Atoms::new(&net);
    let (split, partition, warnings) = Partition::at_tensors(&net, &atoms, &["gate".into()]).unwrap();
    assert_eq!(warnings, [Warning::Split { tensor: "gate".into(), atom: "silu".into() }]);
    assert_eq!(split.atoms.len(), atoms.atoms.len() + 1);
    assert_eq!(partition.stages[0].outputs, ["conv", "gate"]);
}

#[test]
fn a_cut_at_a_folded_tensor_is_after_the_whole_operation() {
    let nodes =
        vec![op("Conv", &["x", "w"], &["conv"]), op("Add", &["conv", "k"], &["sum"]), op("MaxPool", &["sum"], &["y"])];
    let constants = vec![floats("w", &[1, 1, 1, 1], &[1.0]), floats("k", &[], &[1.0])];
    let mut net = Network::new(model(&["x"], &["y"], nodes, constants)).unwrap();
    fold(&mut net);
    let (_, partition, warnings) = Partition::at_tensors(&net, &Atoms::new(&net), &["conv".into()]).unwrap();
    assert_eq!(warnings, [Warning::Absorbed { tensor: "conv".into(), into: "sum".into() }]);
    assert_eq!(partition.stages[0].outputs, ["sum"]);
}

#[test]
fn impossible_cuts_say_why() {
    let net = chain();
    let atoms = Atoms::new(&net);
    let at = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        Partition::at_tensors(&net, &atoms, &names).unwrap_err()
    };
    let unknown = at(&["silo"]).to_string();
    assert!(unknown.contains("\"silo\"") && unknown.contains("\"silu\""), "{unknown}");
    assert_eq!(at(&["w"]), CutError::Constant { tensor: "w".into() });
    assert_eq!(at(&["x"]), CutError::Input { tensor: "x".into() });
    assert_eq!(at(&["y"]), CutError::Last { tensor: "y".into() });
    assert_eq!(at(&["pool", "silu"]), CutError::Order { tensor: "silu".into(), before: "pool".into() });
    assert!(matches!(at(&["silu", "copy"]), CutError::Order { .. }));
    for bad in [vec![9], vec![1, 1], vec![1, 0], vec![atoms.atoms.len() - 1]] {
        assert!(matches!(Partition::new(&net, &atoms, &bad), Err(CutError::Boundary { .. })), "{bad:?}");
    }
}

#[test]
fn an_output_that_is_an_input_passes_through_every_stage() {
    let nodes = vec![op("MaxPool", &["x"], &["p"]), op("MaxPool", &["p"], &["y"])];
    let net = Network::new(model(&["x", "z"], &["y", "z"], nodes, vec![])).unwrap();
    let partition = Partition::new(&net, &Atoms::new(&net), &[0]).unwrap();
    assert_eq!(partition.stages[0].entering(), ["x", "z"]);
    assert_eq!(partition.stages[1].forwards, ["z"]);
    assert_eq!(partition.stages[1].leaving(), ["y", "z"]);
}
