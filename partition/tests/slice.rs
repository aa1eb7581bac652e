//! Slices: complete models with their own constants, the large ones outside.

#![allow(clippy::unwrap_used)]

mod support;

use defer_partition::onnx::proto::{ModelProto, TensorProto};
use defer_partition::slice::{SliceError, slice, whole};
use defer_partition::testing::random_model;
use defer_partition::{Atoms, DType, Network, Partition, TensorInfo, onnx};
use prost::Message;
use std::collections::HashSet;
use support::*;

fn info(name: &str) -> Option<TensorInfo> {
    Some(TensorInfo { name: name.to_owned(), dtype: DType::Fp32, shape: vec![-1, 2] })
}

fn constant<'a>(model: &'a ModelProto, name: &str) -> &'a TensorProto {
    model.graph.as_ref().unwrap().initializer.iter().find(|t| t.name() == name).unwrap()
}

fn entry(tensor: &TensorProto, key: &str) -> String {
    tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value().to_owned()).unwrap_or_default()
}

#[test]
fn large_constants_are_outside_aligned_and_once() {
    let nodes = vec![op("Concat", &["x", "small", "a", "b", "c", "shape"], &["m"]), op("Concat", &["m", "a"], &["y"])];
    let constants = vec![
        floats("small", &[255], &[1.0; 255]),
        floats("a", &[257], &[2.0; 257]),
        floats("b", &[257], &[3.0; 257]),
        floats("c", &[257], &[2.0; 257]),
        ints("shape", &[7; 200]),
    ];
    let mut model = model(&["x"], &["y"], nodes, constants);
    model.metadata_props = vec![onnx::proto::StringStringEntryProto { key: Some("k".into()), value: Some("v".into()) }];
    let net = Network::new(model).unwrap();
    assert_eq!(net.metadata("k"), Some("v"));
    let partition = Partition::new(&net, &Atoms::new(&net), &[0]).unwrap();
    let first = slice(&net, &partition.stages[0], &info).unwrap();

    assert_eq!(first.weights.iter().map(|w| (w.name.as_str(), w.offset)).collect::<Vec<_>>(), [("a", 0), ("b", 1088)]);
    assert_eq!(first.weights_len, 1088 + 1028);
    let section = first.weights_section();
    assert_eq!(section.len() as u64, first.weights_len);
    assert_eq!(&section[1088..1092], 3f32.to_le_bytes());
    for (name, offset) in [("a", "0"), ("b", "1088"), ("c", "0")] {
        let tensor = constant(&first.model, name);
        assert_eq!((tensor.data_location, tensor.raw_data.as_ref()), (Some(1), None));
        let got = ["location", "offset", "length"].map(|key| entry(tensor, key));
        assert_eq!(got, ["weights", offset, "1028"]);
    }
    for name in ["small", "shape"] {
        assert!(constant(&first.model, name).raw_data.is_some(), "{name} stays inside");
    }
    assert_eq!(constant(&first.embedded(), "c").raw_data(), net.initializers()["c"].raw_data());
    // The same bytes, not a copy of them.
    assert_eq!(first.weights[0].data.as_ptr(), net.initializers()["a"].raw_data().as_ptr());
    // A constant that two slices need is in both; metadata is in none.
    let second = slice(&net, &partition.stages[1], &info).unwrap();
    assert_eq!(second.weights.len(), 1);
    assert!(first.model.metadata_props.is_empty());

    // On disk beside its weights, a slice is a model like any other.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("weights"), &section).unwrap();
    std::fs::write(dir.path().join("s.onnx"), first.model.encode_to_vec()).unwrap();
    let read = onnx::read(&dir.path().join("s.onnx")).unwrap();
    assert_eq!(read, onnx::decode(first.embedded().encode_to_vec().into()).unwrap());
}

#[test]
fn types_come_from_the_caller_then_from_the_file() {
    let nodes = vec![op("MaxPool", &["x"], &["p"]), op("MaxPool", &["p"], &["y"])];
    let net = Network::new(model(&["x"], &["y"], nodes, vec![])).unwrap();
    let partition = Partition::new(&net, &Atoms::new(&net), &[0]).unwrap();
    let first = slice(&net, &partition.stages[0], &|_| None).unwrap().model.graph.unwrap();
    assert_eq!(first.input[0], value("x", 1, &[1, 2]));
    assert_eq!(first.output[0].r#type, None);
    let undescribed = slice(&net, &partition.stages[1], &|_| None).unwrap_err();
    assert_eq!(undescribed, SliceError::Undescribed { tensor: "p".into(), stage: 1 });
    let second = slice(&net, &partition.stages[1], &info).unwrap().model.graph.unwrap();
    assert_eq!(second.input[0], value("p", 1, &[-1, 2]));
}

#[test]
fn the_whole_network_gives_more_tensors_on_request() {
    let nodes = vec![op("MaxPool", &["x"], &["p"]), op("MaxPool", &["p"], &["y"])];
    let net = Network::new(model(&["x"], &["y"], nodes, vec![])).unwrap();
    let graph = whole(&net, &["p", "y", "x", "p"]).model.graph.unwrap();
    assert_eq!(graph.output.iter().map(|o| o.name()).collect::<Vec<_>>(), ["y", "p"]);
    assert_eq!(graph.output[0], value("y", 1, &[1, 2]));
}

#[test]
fn slices_of_random_networks_are_complete_and_hold_nothing_superfluous() {
    for seed in 0..200 {
        let net = Network::new(random_model(seed)).unwrap();
        let atoms = Atoms::single_nodes(&net);
        let cuts: Vec<usize> = (0..atoms.atoms.len() - 1).collect();
        for stage in Partition::new(&net, &atoms, &cuts).unwrap().stages {
            let graph = slice(&net, &stage, &info).unwrap().model.graph.unwrap();
            let mut known: HashSet<&str> = graph.input.iter().map(|i| i.name()).collect();
            let constants: HashSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
            assert!(known.is_disjoint(&constants));
            known.extend(&constants);
            let read: HashSet<&str> = stage.nodes.iter().flat_map(|&n| net.nodes()[n].reads()).collect();
            assert!(read.iter().all(|name| known.contains(name)), "seed {seed}");
            assert_eq!(read.len(), known.len(), "seed {seed}");
            let made: HashSet<&str> = graph.node.iter().flat_map(|n| &n.output).map(String::as_str).collect();
            assert!(graph.output.iter().all(|o| made.contains(o.name())));
        }
    }
}
