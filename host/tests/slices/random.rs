//! Random networks, cut at random.

use super::support::*;
use defer_host::build::{self, BuildError};
use defer_host::engine::{Engine, Named};
use defer_partition::testing::{Random, random_model};
use defer_partition::{Atoms, Network, Partition, Tensor, TensorInfo, fold, slice};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// Cuts `network` and compares the chain with `want`.
fn check_partition(
    engine: &dyn Engine,
    network: &Network,
    partition: &Partition,
    inputs: &[Named],
    want: &[Named],
    what: &str,
) {
    let crossing: Vec<&str> = partition.stages.iter().flat_map(|stage| stage.leaving()).collect();
    let traced = run(load(engine, &network.model_with_outputs(&crossing)).as_mut(), inputs);
    let known: HashMap<&str, &Tensor> = traced.iter().chain(inputs).map(|(name, t)| (name.as_str(), t)).collect();
    let describe = |name: &str| {
        let tensor = known.get(name)?;
        let shape = tensor.shape.iter().map(|&dim| dim as i64).collect();
        Some(TensorInfo { name: name.to_owned(), dtype: tensor.dtype, shape })
    };
    let mut stages: Vec<_> = partition
        .stages
        .iter()
        .map(|stage| {
            let model = slice::slice(network, stage, &describe).unwrap().embedded();
            let session = load(engine, &model);
            assert_eq!(set(&session.inputs()), set(&stage.inputs), "{what}");
            assert_eq!(set(&session.outputs()), set(&stage.outputs), "{what}");
            (session, set(&stage.inputs), set(&stage.forwards))
        })
        .collect();
    let got = chain(&mut stages, inputs, &|_, _, _| ());
    assert_eq!(got.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>(), set(network.outputs()), "{what}");
    let worst = difference(&got, want);
    assert!(worst <= TOLERANCE, "{what}: {worst}");
}

fn random_cuts(random: &mut Random, groups: usize) -> Vec<usize> {
    let stages = 1 + random.below(groups.min(6));
    let mut cuts = BTreeSet::new();
    while cuts.len() + 1 < stages {
        cuts.insert(random.below(groups - 1));
    }
    cuts.into_iter().collect()
}

#[test]
fn random_networks_compute_the_same_however_they_are_cut() {
    let engine = engine();
    for seed in 0..150 {
        let model = random_model(seed);
        let mut random = Random::new(seed ^ 0x5eed);
        let plain = Network::new(model.clone()).unwrap();
        let inputs = random_inputs(&mut random, plain.inputs());
        let want = run(load(engine.as_ref(), &model).as_mut(), &inputs);

        let mut folded = plain.clone();
        fold::fold(&mut folded);
        build::fold_constants(&mut folded, engine.as_ref(), ONE_THREAD).unwrap();
        let groups = Atoms::new(&folded);
        for _ in 0..2 {
            let cuts = random_cuts(&mut random, groups.atoms.len());
            let partition = Partition::new(&folded, &groups, &cuts).unwrap();
            check_partition(
                engine.as_ref(),
                &folded,
                &partition,
                &inputs,
                &want,
                &format!("seed {seed}, cuts {cuts:?}"),
            );
        }
        // Every node a stage of its own, nothing folded.
        let single = Atoms::single_nodes(&plain);
        let cuts: Vec<usize> = (0..single.atoms.len() - 1).collect();
        let partition = Partition::new(&plain, &single, &cuts).unwrap();
        check_partition(engine.as_ref(), &plain, &partition, &inputs, &want, &format!("seed {seed}, every node"));
    }
}

#[test]
fn built_pipelines_of_random_networks_compute_the_same() {
    let engine = engine();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    for seed in 1000..1025 {
        let model = random_model(seed);
        let file = write_model(dir.path(), "net.onnx", &model);
        let network = Network::new(model).unwrap();
        let inputs = random_inputs(&mut Random::new(seed), network.inputs());
        let built = match built(&file, Some(1 + seed as usize % 4), &[], &out, &()) {
            Err(BuildError::Plan(_)) => continue, // too few groups
            other => other.unwrap(),
        };
        assert_eq!(built.pipeline.stages.len(), 1 + seed as usize % 4);
        let want = run(build::load_whole(Path::new(&file), engine.as_ref(), ONE_THREAD).unwrap().as_mut(), &inputs);
        let mut chain = Chain::open(engine.as_ref(), &out);
        let needed: BTreeSet<&String> = chain.stages.iter().flat_map(|(_, reads, _)| reads).collect();
        let given: Vec<Named> = inputs.iter().filter(|(name, _)| needed.contains(name)).cloned().collect();
        let worst = difference(&chain.run(&given), &want);
        assert!(worst <= TOLERANCE, "seed {seed}: {worst}");
        // Nothing of an earlier build, and nothing temporary, is left.
        let mut expected: BTreeSet<String> = built.pipeline.stages.iter().map(|stage| stage.file.clone()).collect();
        expected.insert("pipeline.json".to_owned());
        assert_eq!(files(&out), expected, "seed {seed}");
    }
}
