//! Divisions by zero: in a graph they fail the request, in a component they trap as ever, whoever's signal handler came
//! first.

use crate::support::folder;
use crate::support::hand::ByHand;
use crate::support::hostile::{Parts, moody};
use crate::support::networks::{assert_same, model, random_inputs, stage, value};
use defer_host::artifact::Digest;
use defer_host::buffer::Pool;
use defer_host::engine::{self, Choice, Engine, Model, Named, Options};
use defer_host::node::{Loader, TimeLimits};
use defer_host::sandbox::{Limits, RunError, Sandbox};
use defer_partition::onnx::proto::ModelProto;
use defer_partition::onnx::tensor_of;
use defer_partition::testing::op;
use defer_partition::{DType, Tensor};
use prost::Message as _;
use std::process::Command;
use std::sync::Arc;

/// `a` / (`b` + 1), both INT64 [2]: the zeros of a warm-up can be divided by.
fn division() -> ModelProto {
    let pair = |name: &str| value(name, DType::Int64, &[2]);
    let one = tensor_of("one", Tensor::new(DType::Int64, vec![1], 1i64.to_le_bytes().to_vec()).unwrap());
    let nodes = vec![op("Add", &["b", "one"], &["more"]), op("Div", &["a", "more"], &["y"])];
    model(nodes, vec![pair("a"), pair("b")], vec![pair("y")], vec![one])
}

fn pair(a: [i64; 2], b: [i64; 2]) -> Vec<Named> {
    let tensor = |values: [i64; 2]| {
        Tensor::new(DType::Int64, vec![2], values.iter().flat_map(|v| v.to_le_bytes()).collect()).unwrap()
    };
    vec![("a".to_owned(), tensor(a)), ("b".to_owned(), tensor(b))]
}

fn divided(engine: &dyn Engine, inputs: &[Named]) -> Result<Vec<u8>, String> {
    let bytes = division().encode_to_vec();
    let mut session = engine.load(Model { bytes: &bytes, weights_folder: None }, Options::new(1)).unwrap();
    let outputs = session.run(inputs, &Pool::new(0)).map_err(|error| error.to_string())?;
    Ok(outputs.into_iter().next().unwrap().1.data)
}

/// Run by [`traps_are_told_apart_whichever_handler_came_first`] in processes of their own.
#[test]
#[ignore = "a part of another test"]
fn in_one_order() {
    let order = std::env::var("DEFER_TEST_ORDER").unwrap();
    let open = || engine::open(Choice::OnnxRuntime, None).unwrap();
    let sandbox = || Sandbox::new(Limits::default()).unwrap();
    let (engine, sandbox) = match order.as_str() {
        "engine first" => {
            let engine = open();
            (engine, sandbox())
        }
        _ => {
            let sandbox = sandbox();
            (open(), sandbox)
        }
    };
    let mood = "(drop (i32.div_s (local.get $len) (i32.load (i32.const 130000))))";
    let parts = Parts::good("split").component(&moody(mood));
    let path = folder(&format!("order-{}", &order[..6])).join("stage.wasm");
    std::fs::write(&path, parts.artifact()).unwrap();
    let loader = Loader {
        sandbox,
        engine: Arc::clone(&engine),
        rival: None,
        options: Options::new(1),
        limits: TimeLimits::default(),
        pool: Pool::new(0),
        max_tensor: 1 << 20,
    };
    let loaded = loader.load(Digest::of(std::fs::File::open(&path).unwrap()).unwrap(), &path).unwrap();
    let mut instance = loaded.instance().unwrap();
    let inputs = random_inputs(&parts.manifest.inputs, 1, 2);
    for _ in 0..2 {
        let error = divided(engine.as_ref(), &pair([7, 8], [1, -1])).unwrap_err();
        assert!(error.contains("integer division by zero"), "{order}: {error}");
        assert!(divided(engine.as_ref(), &pair([7, 8], [1, 2])).is_ok());
        // The first call of an instance goes well, the second divides by zero.
        instance.run(inputs.clone()).unwrap();
        let error = instance.run(inputs.clone()).unwrap_err();
        assert!(matches!(&error, RunError::Trap(cause) if cause.contains("divide by zero")), "{order}: {error}");
    }
}

#[test]
fn traps_are_told_apart_whichever_handler_came_first() {
    for order in ["engine first", "sandbox first"] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["traps::in_one_order", "--exact", "--ignored", "--nocapture"]).env("DEFER_TEST_ORDER", order);
        let output = child.output().unwrap();
        assert!(output.status.success(), "{order}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{order}");
    }
}

#[test]
fn a_zero_in_a_request_fails_it_and_the_node_serves_on() {
    for engine in ["onnxruntime", "tract"] {
        let name = format!("zero-{engine}");
        let staged = stage(&name, &division(), 1, &[]);
        let mut hand = ByHand::start(&name, &staged, &["--engine", engine]);
        for _ in 0..2 {
            let failure = hand.ask(&pair([1, 2], [3, -1])).failure();
            assert!(failure.cause[0].contains("zero"), "{failure:?}");
            let inputs = pair([9, -9], [2, 4]);
            let result = hand.ask(&inputs);
            assert_same(&hand.outputs(&result), &staged.whole(&inputs), engine);
        }
    }
}
