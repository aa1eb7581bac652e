//! Graphs that are valid protobuf and nonsense: sizes of zero, below zero and beyond memory. Loading or running them may
//! fail; it may not end the process.

use crate::support::folder;
use crate::support::hostile::Parts;
use crate::support::networks::{model, value};
use defer_host::artifact::Digest;
use defer_host::buffer::Pool;
use defer_host::engine::{self, Choice, Options};
use defer_host::node::{LoadError, Loader, TimeLimits, Wish};
use defer_host::sandbox::{Limits, Sandbox};
use defer_partition::onnx::proto::{
    AttributeProto, NodeProto, OperatorSetIdProto, TensorProto, attribute_proto::AttributeType,
};
use defer_partition::onnx::tensor_of;
use defer_partition::slice::Slice;
use defer_partition::testing::op;
use defer_partition::{DType, Tensor, TensorInfo};
use std::process::Command;
use std::time::{Duration, Instant};

const SHAPE: [i64; 4] = [1, 2, 4, 4];

/// A node's attributes: numbers, or lists of numbers.
type Attributes<'a> = &'a [(&'a str, &'a [i64])];

/// Attributes that operators declare as a list even where it holds one number.
const LISTS: [&str; 8] =
    ["strides", "dilations", "pads", "kernel_shape", "output_padding", "output_shape", "axes", "pooled_shape"];

fn node(op_type: &str, inputs: &[&str], attributes: Attributes<'_>) -> NodeProto {
    let mut node = op(op_type, inputs, &["y"]);
    if let Some(name) = op_type.strip_prefix("ms.") {
        (node.op_type, node.domain) = (Some(name.to_owned()), Some("com.microsoft".to_owned()));
    }
    for (name, values) in attributes {
        let list = LISTS.contains(name);
        let kind = if list { AttributeType::Ints } else { AttributeType::Int };
        let mut attribute =
            AttributeProto { name: Some((*name).into()), r#type: Some(kind as i32), ..Default::default() };
        if list {
            attribute.ints = values.to_vec()
        } else {
            attribute.i = Some(values[0])
        }
        node.attribute.push(attribute);
    }
    node
}

fn ints(name: &str, values: &[i64]) -> TensorProto {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor_of(name, Tensor::new(DType::Int64, vec![values.len()], data).unwrap())
}

fn floats(name: &str, shape: &[usize]) -> TensorProto {
    tensor_of(name, Tensor::from_f32(shape.to_vec(), &vec![0.5; shape.iter().product()]).unwrap())
}

/// Each with the constants that it reads besides `x`, FP32 [1,2,4,4].
fn cases() -> Vec<(NodeProto, Vec<TensorProto>)> {
    let far = 1i64 << 40;
    let odd: [&[i64]; 6] = [&[0, 0], &[-1, -1], &[i64::MIN, 1], &[i64::MAX, i64::MAX], &[1 << 32, 1 << 32], &[0]];
    let mut cases = Vec::new();
    let mut add = |node: NodeProto, constants: Vec<TensorProto>| cases.push((node, constants));
    let weights = || vec![floats("w", &[2, 2, 3, 3])];
    for values in odd {
        for attribute in ["strides", "dilations", "kernel_shape"] {
            for op_type in ["Conv", "ConvTranspose"] {
                add(node(op_type, &["x", "w"], &[(attribute, values)]), weights());
            }
            for op_type in ["MaxPool", "AveragePool", "LpPool"] {
                let kernel: &[i64] = if attribute == "kernel_shape" { values } else { &[2, 2] };
                add(
                    node(
                        op_type,
                        &["x"],
                        &[("kernel_shape", kernel), (attribute, values)]
                            [..if attribute == "kernel_shape" { 1 } else { 2 }],
                    ),
                    vec![],
                );
            }
        }
        add(node("ConvTranspose", &["x", "w"], &[("output_padding", values)]), weights());
        add(node("ConvTranspose", &["x", "w"], &[("output_shape", values)]), weights());
        let pads: Vec<i64> = values.iter().chain(values).copied().collect();
        for (op_type, inputs) in [("Conv", &["x", "w"][..]), ("ConvTranspose", &["x", "w"])] {
            add(node(op_type, inputs, &[("pads", &pads)]), weights());
        }
        add(node("MaxPool", &["x"], &[("kernel_shape", &[2, 2]), ("pads", &pads)]), vec![]);
        add(node("MaxRoiPool", &["x", "rois"], &[("pooled_shape", values)]), vec![floats("rois", &[1, 5])]);
        add(node("ReduceSum", &["x", "k"], &[]), vec![ints("k", values)]);
        add(node("Unsqueeze", &["x", "k"], &[]), vec![ints("k", values)]);
        add(node("Squeeze", &["x", "k"], &[]), vec![ints("k", values)]);
        add(node("Split", &["x", "k"], &[("axis", &[2])]), vec![ints("k", values)]);
        let four: Vec<i64> = values.iter().cycle().take(4).copied().collect();
        for op_type in ["Reshape", "Tile", "Expand", "Resize"] {
            let inputs: &[&str] = if op_type == "Resize" { &["x", "", "", "k"] } else { &["x", "k"] };
            add(node(op_type, inputs, &[]), vec![ints("k", &four)]);
        }
        let eight: Vec<i64> = values.iter().cycle().take(8).copied().collect();
        add(node("Pad", &["x", "k"], &[]), vec![ints("k", &eight)]);
        add(node("ConstantOfShape", &["k"], &[]), vec![ints("k", &four)]);
        for op_type in ["Gather", "GatherND", "TopK"] {
            add(node(op_type, &["x", "k"], &[]), vec![ints("k", &values[..1])]);
        }
        let slice = vec![ints("from", &[0]), ints("to", &values[..1]), ints("axes", &[3]), ints("step", &values[..1])];
        add(node("Slice", &["x", "from", "to", "axes", "step"], &[]), slice);
        let scatter = vec![ints("k", &four), floats("one", &[])];
        add(node("ScatterND", &["x", "k", "one"], &[]), scatter);
    }
    for number in [0, -1, 3, far, i64::MIN, i64::MAX] {
        let one: &[i64] = &[number];
        for op_type in ["Conv", "ConvTranspose"] {
            add(node(op_type, &["x", "w"], &[("group", one)]), weights());
        }
        for op_type in ["DepthToSpace", "SpaceToDepth"] {
            add(node(op_type, &["x"], &[("blocksize", one)]), vec![]);
        }
        add(node("LpPool", &["x"], &[("p", one), ("kernel_shape", &[2, 2])]), vec![]);
        add(node("LRN", &["x"], &[("size", one)]), vec![]);
        for op_type in ["Softmax", "Flatten", "ArgMax", "Hardmax", "LogSoftmax"] {
            add(node(op_type, &["x"], &[("axis", one)]), vec![]);
        }
        add(node("CumSum", &["x", "k"], &[]), vec![ints("k", one)]);
        add(
            node("OneHot", &["k", "depth", "pair"], &[]),
            vec![ints("k", &[1]), ints("depth", one), floats("pair", &[2])],
        );
        add(node("Range", &["k", "k", "k"], &[]), vec![ints("k", one)]);
        let recurrent = || vec![floats("s", &[4, 1, 2]), floats("w", &[1, 8, 2]), floats("r", &[1, 8, 2])];
        for op_type in ["LSTM", "GRU", "RNN"] {
            add(node(op_type, &["s", "w", "r"], &[("hidden_size", one)]), recurrent());
        }
        let attention = vec![floats("s", &[1, 4, 8]), floats("w", &[8, 24]), floats("b", &[24])];
        add(node("ms.Attention", &["s", "w", "b"], &[("num_heads", one)]), attention);
        let heads = vec![floats("s", &[1, 4, 8])];
        add(node("ms.MultiHeadAttention", &["s", "s", "s"], &[("num_heads", one)]), heads);
        let norm = || vec![floats("s", &[1, 4, 4, 2]), floats("g", &[2]), floats("b", &[2])];
        add(node("ms.GroupNorm", &["s", "g", "b"], &[("groups", one), ("activation", &[0])]), norm());
        add(node("ms.NhwcMaxPool", &["x"], &[("kernel_shape", one)]), vec![]);
        add(
            node(
                "RoiAlign",
                &["x", "rois", "k"],
                &[("output_height", one), ("output_width", one), ("sampling_ratio", one)],
            ),
            vec![floats("rois", &[1, 4]), ints("k", &[0])],
        );
    }
    cases
}

fn parts(node: NodeProto, constants: Vec<TensorProto>) -> Parts {
    let mut parts = Parts::good("crafted");
    let mut proto = model(vec![node], vec![value("x", DType::Fp32, &SHAPE)], Vec::new(), constants);
    // Whatever its type and shape are: those of the manifest are checked after the run.
    proto.graph.as_mut().unwrap().output =
        vec![defer_partition::onnx::proto::ValueInfoProto { name: Some("y".into()), ..Default::default() }];
    proto.opset_import.push(OperatorSetIdProto { domain: Some("com.microsoft".into()), version: Some(1) });
    parts.slice = Slice { model: proto, weights: Vec::new(), weights_len: 0 };
    parts.manifest.inputs = vec![TensorInfo { name: "x".into(), dtype: DType::Fp32, shape: SHAPE.to_vec() }];
    parts.manifest.outputs = vec![TensorInfo { name: "y".into(), dtype: DType::Fp32, shape: vec![-1, -1, -1, -1] }];
    parts.manifest.warm_up = vec![vec![1, 2, 4, 4]];
    parts
}

/// Run by [`nonsense_sizes_do_not_end_the_process`] in a process of its own, from a given case on.
#[test]
#[ignore = "a part of another test"]
fn from_a_case_on() {
    let from: usize = std::env::var("DEFER_TEST_CASE").unwrap().parse().unwrap();
    let choice: Choice = std::env::var("DEFER_TEST_ENGINE").unwrap().parse().unwrap();
    let loader = Loader {
        sandbox: Sandbox::new(Limits::default()).unwrap(),
        engine: engine::open(choice, None).unwrap(),
        rival: None,
        options: Options::new(1),
        limits: TimeLimits { load_time: Duration::from_secs(2), ..TimeLimits::default() },
        pool: Pool::new(0),
        max_tensor: 1 << 20,
    };
    let path = folder(&format!("crafted-{choice:?}")).join("stage.wasm");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for (number, (node, constants)) in cases().into_iter().enumerate().skip(from) {
        let what = format!(
            "{} {:?}",
            node.op_type(),
            node.attribute.iter().map(|a| (a.name(), a.i, &a.ints)).collect::<Vec<_>>()
        );
        println!("case {number} {what}");
        std::fs::write(&path, parts(node, constants).artifact()).unwrap();
        let digest = Digest::of(std::fs::File::open(&path).unwrap()).unwrap();
        match runtime.block_on(loader.load_in_time(digest, &path, Wish::default())) {
            Ok(loaded) => {
                // Once more: the engine now writes into memory that was made for the warm-up's outputs.
                let deadline = Some(Instant::now() + Duration::from_secs(2));
                let x = Tensor::from_f32(vec![1, 2, 4, 4], &[-1.0; 32]).unwrap();
                let again = loaded.instance().map(|mut stage| stage.run_until(deadline, vec![("x".into(), x)]).is_ok());
                println!("loaded, and again {again:?}");
            }
            Err(error @ LoadError::Late(_)) => {
                // The engine keeps that thread: go on without it.
                println!("{error}");
                std::process::exit(0);
            }
            Err(error) => println!("error {error}"),
        }
    }
    println!("no more cases");
}

#[test]
fn nonsense_sizes_do_not_end_the_process() {
    let mut fatal = Vec::new();
    for engine in ["onnxruntime", "tract"] {
        let mut from = 0;
        loop {
            // A limit of memory, so that what is beyond it is refused and not tried.
            let mut child = Command::new("sh");
            child
                .args(["-c", "ulimit -v 8000000; ulimit -c 0; exec \"$0\" \"$@\""])
                .arg(std::env::current_exe().unwrap());
            child.args(["crafted::from_a_case_on", "--exact", "--ignored", "--nocapture"]);
            let child = child.env("DEFER_TEST_CASE", from.to_string()).env("DEFER_TEST_ENGINE", engine);
            let output = child.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            if said.contains("no more cases") {
                break;
            }
            let last = said.lines().rfind(|line| line.starts_with("case ")).unwrap_or("none").to_owned();
            from = last.split(' ').nth(1).and_then(|number| number.parse::<usize>().ok()).unwrap() + 1;
            if said.contains("loading took longer than") {
                continue;
            }
            fatal.push(format!("{engine}: {}: {last}", output.status));
        }
    }
    assert!(fatal.is_empty(), "{}", fatal.join("\n"));
}
