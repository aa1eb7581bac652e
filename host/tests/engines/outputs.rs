//! Outputs that the engine writes into memory of the caller: from the second run with inputs of one shape on.

use crate::support::networks::{assert_same, engine, model, op_with, value};
use defer_host::buffer::Pool;
use defer_host::engine::{Model, Named, Options, Session};
use defer_partition::onnx::proto::{ModelProto, NodeProto, TensorProto, ValueInfoProto};
use defer_partition::onnx::tensor_of;
use defer_partition::testing::op;
use defer_partition::{DType, Tensor};
use prost::Message as _;

/// Large enough that its memory comes from the pool.
const LARGE: usize = 40_000;

fn floats(values: &[f32]) -> Named {
    ("x".to_owned(), Tensor::from_f32(vec![values.len()], values).unwrap())
}

/// Nodes over `x`, a vector of any length, whose outputs are `names`.
fn graph(nodes: Vec<NodeProto>, constants: Vec<TensorProto>, names: &[&str]) -> ModelProto {
    let untyped = |name: &&str| ValueInfoProto { name: Some((*name).into()), ..Default::default() };
    let mut proto = model(nodes, vec![value("x", DType::Fp32, &[-1])], Vec::new(), constants);
    proto.graph.as_mut().unwrap().output = names.iter().map(untyped).collect();
    proto
}

fn load(proto: &ModelProto) -> Box<dyn Session> {
    let bytes = proto.encode_to_vec();
    engine().load(Model { bytes: &bytes, weights_folder: None }, Options::new(1)).unwrap()
}

#[test]
fn a_run_gives_what_a_fresh_session_gives_whatever_ran_before_in_the_same_memory() {
    let ones = vec![1.0; LARGE];
    let constant = tensor_of("c", Tensor::from_f32(vec![3], &[1.0, 2.0, 3.0]).unwrap());
    for (what, proto) in [
        ("one operator", graph(vec![op("Relu", &["x"], &["y"])], vec![], &["y"])),
        ("an input passed on", graph(vec![op("Identity", &["x"], &["y"])], vec![], &["y"])),
        (
            "an output that is used inside too",
            graph(vec![op("Neg", &["x"], &["y"]), op("Relu", &["y"], &["z"])], vec![], &["y", "z"]),
        ),
        (
            "a constant",
            graph(vec![op("Neg", &["x"], &["y"]), op("Identity", &["c"], &["z"])], vec![constant], &["y", "z"]),
        ),
        ("a shape that depends on data", graph(vec![op("NonZero", &["x"], &["y"])], vec![], &["y"])),
        ("a truth value", graph(vec![op("IsNaN", &["x"], &["y"])], vec![], &["y"])),
    ] {
        let mut session = load(&proto);
        let pool = Pool::new(1 << 24);
        let mut mixed = ones.clone();
        mixed.iter_mut().step_by(3).for_each(|value| *value = -2.0);
        mixed.iter_mut().step_by(5).for_each(|value| *value = 0.0);
        for values in [&ones[..], &ones, &mixed, &mixed[..7], &mixed[1..8], &[], &[], &mixed, &ones, &mixed] {
            let inputs = [floats(values)];
            let got = session.run(&inputs, &pool).unwrap();
            let want = load(&proto).run(&inputs, &Pool::new(0)).unwrap();
            assert_same(&got, &want, what);
            got.into_iter().for_each(|(_, tensor)| pool.give(tensor.data));
        }
    }
}

#[test]
fn a_request_that_fails_does_not_change_what_follows() {
    // A row that is not there, for some values of x.
    let table = tensor_of("t", Tensor::from_f32(vec![2, LARGE], &vec![0.5; 2 * LARGE]).unwrap());
    let cast = op_with("Cast", &["x"], &["i"], ("to", DType::Int64.onnx().into()));
    let proto = graph(vec![cast, op("Gather", &["t", "i"], &["y"])], vec![table], &["y"]);
    let mut session = load(&proto);
    let pool = Pool::new(1 << 24);
    for (row, works) in [(0.0, true), (1.0, true), (5.0, false), (1.0, true), (0.0, true), (9.0, false), (0.0, true)] {
        let got = session.run(&[floats(&[row])], &pool);
        assert_eq!(got.is_ok(), works, "row {row}: {got:?}");
        if let Ok(mut outputs) = got {
            let (_, tensor) = outputs.remove(0);
            assert_eq!(tensor.to_f32().unwrap(), vec![0.5; LARGE]);
            pool.give(tensor.data);
        }
    }
}
