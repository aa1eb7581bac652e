//! Integer divisions that the processor cannot do are errors of the call, on every engine; the process lives.

use super::engines::both;
use super::models::model;
use defer_host::buffer::Pool;
use defer_host::engine::{Engine, Model, Options};
use defer_partition::onnx::proto::NodeProto;
use defer_partition::testing::op;
use defer_partition::{DType, Dim, InputInfo, Tensor};
use prost::Message as _;

fn network(nodes: Vec<NodeProto>, dtype: DType) -> Vec<u8> {
    let input = |name: &str| InputInfo { name: name.into(), dtype, dims: vec![Dim::Fixed(4)] };
    model(&[input("a"), input("b")], &["y"], nodes).encode_to_vec()
}

fn tensor(dtype: DType, values: [i64; 4]) -> Tensor {
    let data = match dtype {
        DType::Int32 => values.iter().flat_map(|&value| (value as i32).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    Tensor::new(dtype, vec![4], data).unwrap()
}

/// What `engine` makes of `a` and `b`, on so many threads.
fn divide(
    engine: &dyn Engine,
    threads: usize,
    op_type: &str,
    dtype: DType,
    a: [i64; 4],
    b: [i64; 4],
) -> Vec<Result<Tensor, String>> {
    let bytes = network(vec![op(op_type, &["a", "b"], &["y"])], dtype);
    let mut session = engine.load(Model { bytes: &bytes, weights_folder: None }, Options::new(threads)).unwrap();
    let named = |values: [i64; 4], b: [i64; 4]| {
        vec![("a".to_owned(), tensor(dtype, values)), ("b".to_owned(), tensor(dtype, b))]
    };
    // The same session goes on afterwards.
    [named(a, b), named([7, 8, 9, -9], [2, 2, 2, 2])]
        .iter()
        .map(|inputs| {
            let outputs = session.run(inputs, &Pool::new(0)).map_err(|error| error.to_string())?;
            Ok(outputs.into_iter().next().unwrap().1)
        })
        .collect()
}

#[test]
fn a_zero_among_the_divisors_fails_the_call_and_the_session_goes_on() {
    for engine in both() {
        for dtype in [DType::Int32, DType::Int64] {
            let smallest = if dtype == DType::Int32 { i64::from(i32::MIN) } else { i64::MIN };
            for (a, b) in [([1, 2, 3, 4], [1, 0, 1, 1]), ([smallest, 2, 3, 4], [-1, 1, 1, 1])] {
                for op_type in ["Div", "Mod"] {
                    let mut results = divide(engine.as_ref(), 1, op_type, dtype, a, b);
                    let what = format!("{} {op_type} {dtype} {a:?} {b:?}: {results:?}", engine.name());
                    let after = results.pop().unwrap().unwrap();
                    let want = if op_type == "Div" { [3, 4, 4, -4] } else { [1, 0, 1, 1] };
                    assert_eq!(after, tensor(dtype, want), "{what}");
                    // An overflow may wrap around instead, where the division is done in more bits.
                    match results.pop().unwrap() {
                        Err(error) if engine.name() == "onnxruntime" => {
                            assert!(error.contains("integer division by zero"), "{what}");
                        }
                        Err(error) => assert!(error.contains("panicked"), "{what}"),
                        Ok(_) => assert!(!b.contains(&0), "{what}"),
                    }
                }
            }
        }
    }
}
