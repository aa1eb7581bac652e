//! Small networks to cut, their inputs, and what the whole network computes from them in this process.

use super::folder;
use defer_host::buffer::Pool;
use defer_host::build::{self, BuildError, BuildOptions};
use defer_host::engine::{self, Choice, Engine, Named, Options};
use defer_host::pipeline::Pipeline;
use defer_partition::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
    attribute_proto::AttributeType,
};
use defer_partition::onnx::tensor_of;
use defer_partition::testing::{Random, op};
use defer_partition::{DType, Dim, InputInfo, Tensor, TensorInfo};
use prost::Message as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub fn engine() -> Arc<dyn Engine> {
    engine::open(Choice::Auto, None).expect("`cargo xtask setup` has installed the engine")
}

/// A network that was cut.
#[derive(Clone, Debug)]
pub struct Staged {
    /// What was cut.
    pub file: PathBuf,
    /// What it was cut into.
    pub folder: PathBuf,
    pub pipeline: Pipeline,
}

impl Staged {
    pub fn name(&self) -> &str {
        &self.pipeline.name
    }

    /// Bytes of the artifact of stage `index`.
    pub fn artifact(&self, index: usize) -> Vec<u8> {
        std::fs::read(self.folder.join(&self.pipeline.stages[index].file)).expect("build-stages wrote it")
    }

    /// Pseudo-random inputs, others for each seed; open dimensions get the size `open`.
    pub fn inputs(&self, seed: u64, open: usize) -> Vec<Named> {
        random_inputs(&self.pipeline.inputs, seed, open)
    }

    /// What the uncut network makes of `inputs`.
    pub fn whole(&self, inputs: &[Named]) -> Vec<Named> {
        self.whole_all(std::slice::from_ref(&inputs)).remove(0)
    }

    /// The same for several requests, with the network loaded once.
    pub fn whole_all(&self, requests: &[&[Named]]) -> Vec<Vec<Named>> {
        let engine = engine();
        let mut whole = build::load_whole(&self.file, engine.as_ref(), Options::new(1)).expect("a network");
        let mut run = |inputs: &&[Named]| whole.run(inputs, &Pool::new(0)).expect("the whole network runs");
        requests.iter().map(&mut run).collect()
    }
}

/// Writes `model` under a name and cuts it into `stages`, or at the tensors `cuts`.
pub fn stage(name: &str, model: &ModelProto, stages: usize, cuts: &[&str]) -> Staged {
    let folder = folder(&format!("network-{name}"));
    let file = folder.join(format!("{name}.onnx"));
    std::fs::write(&file, model.encode_to_vec()).expect("a file");
    let path = file.to_str().expect("cargo's path is UTF-8").to_owned();
    cut(&path, &folder.join("stages"), stages, cuts).expect("the network can be cut")
}

/// Cuts a file, or a network of the catalogue.
pub fn cut(model: &str, out: &Path, stages: usize, cuts: &[&str]) -> Result<Staged, BuildError> {
    built(BuildOptions {
        model: model.to_owned(),
        stages: cuts.is_empty().then_some(stages),
        out: Some(out.to_owned()),
        cuts: cuts.iter().map(|&tensor| tensor.to_owned()).collect(),
        ..BuildOptions::default()
    })
}

/// Cuts as `options` say.
pub fn built(options: BuildOptions) -> Result<Staged, BuildError> {
    let built = build::build(&options, engine().as_ref(), &())?;
    let file = PathBuf::from(&built.pipeline.model.file);
    Ok(Staged { file, folder: built.folder, pipeline: built.pipeline })
}

pub fn random_inputs(infos: &[TensorInfo], seed: u64, open: usize) -> Vec<Named> {
    let mut random = Random::new(seed);
    let tensor = |info: &TensorInfo| {
        let shape: Vec<usize> = info.shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(open)).collect();
        let mut data = Vec::new();
        for _ in 0..shape.iter().product() {
            match info.dtype {
                DType::Fp32 => data.extend(random.unit().to_le_bytes()),
                DType::Int64 => data.extend((random.below(7) as i64 - 3).to_le_bytes()),
                DType::Bool => data.push(random.below(2) as u8),
                other => panic!("no random values of {other}"),
            }
        }
        (info.name.clone(), Tensor::new(info.dtype, shape, data).expect("as many values as the shape needs"))
    };
    infos.iter().map(tensor).collect()
}

/// Panics unless `got` holds the tensors of `want`: floats within rounding, everything else to the bit.
pub fn assert_same(got: &[Named], want: &[Named], what: &str) {
    let names = |tensors: &[Named]| {
        let mut names: Vec<String> = tensors.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(got), names(want), "{what}");
    for (name, want) in want {
        let (_, got) = got.iter().find(|(other, _)| other == name).expect("the names are the same");
        assert_eq!((got.dtype, &got.shape), (want.dtype, &want.shape), "{what}: \"{name}\"");
        let (Some(got_values), Some(want_values)) = (got.to_f32(), want.to_f32()) else {
            assert_eq!(got.data, want.data, "{what}: \"{name}\"");
            continue;
        };
        // Folding weights rounds once more than the file's own order of operations.
        let largest = want_values.iter().fold(1e-6f32, |largest, value| largest.max(value.abs()));
        for (at, (got, want)) in got_values.iter().zip(&want_values).enumerate() {
            let difference = (got - want).abs() / largest;
            assert!(difference <= 2e-4, "{what}: \"{name}\"[{at}] is {got}, the whole network says {want}");
        }
    }
}

pub fn value(name: &str, dtype: DType, dims: &[i64]) -> ValueInfoProto {
    let dim = |&dim: &i64| usize::try_from(dim).map_or(Dim::Symbol("n".into()), Dim::Fixed);
    InputInfo { name: name.into(), dtype, dims: dims.iter().map(dim).collect() }.value_info()
}

/// An operator with one integer attribute.
pub fn op_with(op_type: &str, inputs: &[&str], outputs: &[&str], (name, i): (&str, i64)) -> NodeProto {
    let mut node = op(op_type, inputs, outputs);
    node.attribute.push(AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Int as i32),
        i: Some(i),
        ..Default::default()
    });
    node
}

/// A model of operator set 13.
pub fn model(
    node: Vec<NodeProto>,
    input: Vec<ValueInfoProto>,
    output: Vec<ValueInfoProto>,
    initializer: Vec<TensorProto>,
) -> ModelProto {
    let graph = GraphProto { name: Some("g".into()), node, input, output, initializer, ..Default::default() };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(13) }],
        graph: Some(graph),
        ..Default::default()
    }
}

/// Random weights of a product over the first dimension, scaled so that results stay about as large as what comes in.
fn weights(name: &str, shape: &[usize], seed: u64) -> TensorProto {
    let mut random = Random::new(seed);
    let scale = (3.0 / shape[0] as f32).sqrt();
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.unit() * scale).collect();
    tensor_of(name, Tensor::from_f32(shape.to_vec(), &values).expect("as many values as the shape needs"))
}

/// All that a frame has to carry: matrices, INT64, BOOL, a scalar, an empty tensor; `early` is an output made in the
/// first nodes, `late` an input read by the last but two, and `sum` is read again at the very end.
pub fn tour() -> ModelProto {
    let nodes = vec![
        op("Add", &["a", "b"], &["sum"]),
        op("Relu", &["sum"], &["early"]),
        op("Mul", &["sum", "s"], &["scaled"]),
        op("Greater", &["scaled", "a"], &["mask"]),
        op("Tanh", &["scaled"], &["t1"]),
        op("And", &["mask", "keep"], &["both"]),
        op_with("Cast", &["both"], &["count"], ("to", 7)),
        op("Add", &["count", "n"], &["total"]),
        op("Sigmoid", &["t1"], &["t2"]),
        op("MatMul", &["t2", "w"], &["product"]),
        op("Tanh", &["product"], &["t3"]),
        op("Neg", &["e"], &["nothing"]),
        op_with("ReduceMean", &["t3"], &["mean"], ("keepdims", 0)),
        op("Add", &["t3", "late"], &["last"]),
        op("Where", &["both", "last", "early"], &["chosen"]),
        op("Mul", &["chosen", "sum"], &["out"]),
    ];
    let matrix = |name: &str| value(name, DType::Fp32, &[2, 3]);
    let inputs = vec![
        matrix("a"),
        matrix("b"),
        value("n", DType::Int64, &[2, 3]),
        value("keep", DType::Bool, &[2, 3]),
        value("s", DType::Fp32, &[]),
        value("e", DType::Fp32, &[0, 4]),
        matrix("late"),
    ];
    let outputs = vec![
        matrix("out"),
        matrix("early"),
        value("both", DType::Bool, &[2, 3]),
        value("total", DType::Int64, &[2, 3]),
        value("nothing", DType::Fp32, &[0, 4]),
        value("mean", DType::Fp32, &[]),
    ];
    model(nodes, inputs, outputs, vec![weights("w", &[3, 3], 1)])
}

/// `x` FP32 [n,64] through `layers` of MatMul (weights of 16 KiB each, outside the graph) and Tanh to `y`; the tensors
/// between are called `t1`, `t2`, ….
pub fn ladder(layers: usize) -> ModelProto {
    ladder_of(&(1..=layers as u64).collect::<Vec<_>>())
}

/// A [`ladder`] with a layer for each of `seeds`, which its weights come from.
pub fn ladder_of(seeds: &[u64]) -> ModelProto {
    let mut nodes = Vec::new();
    let mut constants = Vec::new();
    let mut from = "x".to_owned();
    for (layer, seed) in (1..).zip(seeds) {
        let (w, product) = (format!("w{layer}"), format!("p{layer}"));
        let to = if layer == seeds.len() { "y".to_owned() } else { format!("t{layer}") };
        constants.push(weights(&w, &[64, 64], *seed));
        nodes.push(op("MatMul", &[&from, &w], &[&product]));
        nodes.push(op("Tanh", &[&product], &[&to]));
        from = to;
    }
    let row = |name: &str| value(name, DType::Fp32, &[-1, 64]);
    model(nodes, vec![row("x")], vec![row("y")], constants)
}

/// One layer of a [`ladder`] between the tensors `from` and `to`.
pub fn ladder_between(from: &str, to: &str, seed: u64) -> ModelProto {
    let nodes = vec![op("MatMul", &[from, "w"], &["p"]), op("Tanh", &["p"], &[to])];
    let row = |name: &str| value(name, DType::Fp32, &[-1, 64]);
    model(nodes, vec![row(from)], vec![row(to)], vec![weights("w", &[64, 64], seed)])
}

/// `x` FP32 [n,512] through `layers` products to `y`, each of 0.5 MFLOP a row: takes as long as there are rows.
pub fn long(layers: usize) -> ModelProto {
    let rows = |name: &str| value(name, DType::Fp32, &[-1, 512]);
    model(products(layers), vec![rows("x")], vec![rows("y")], vec![weights("w", &[512, 512], 7)])
}

/// `x` FP32 [n,1] to `t` = tanh(x), the large `big` = t · tᵀ [n,n], and its mean `y`; ends with `output`.
pub fn outer(output: &str) -> ModelProto {
    let nodes = vec![
        op("Tanh", &["x"], &["t"]),
        op("Transpose", &["t"], &["row"]),
        op("MatMul", &["t", "row"], &["big"]),
        op_with("ReduceMean", &["big"], &["y"], ("keepdims", 0)),
    ];
    let dims: &[i64] = if output == "y" { &[] } else { &[-1, -1] };
    model(nodes, vec![value("x", DType::Fp32, &[-1, 1])], vec![value(output, DType::Fp32, dims)], Vec::new())
}

/// `x` FP32 [n,2] to `tall` of `rank` dimensions and back to `y`.
pub fn tower(rank: usize) -> ModelProto {
    let mut shape = vec![1i64; rank];
    (shape[0], shape[rank - 1]) = (-1, 2);
    let constant = |name: &str, dims: &[i64]| {
        let data = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
        tensor_of(name, Tensor::new(DType::Int64, vec![dims.len()], data).expect("8 bytes each"))
    };
    let nodes = vec![
        op("Tanh", &["x"], &["t"]),
        op("Reshape", &["t", "up"], &["tall"]),
        op("Reshape", &["tall", "down"], &["flat"]),
        op("Tanh", &["flat"], &["y"]),
    ];
    let rows = |name: &str| value(name, DType::Fp32, &[-1, 2]);
    model(nodes, vec![rows("x")], vec![rows("y")], vec![constant("up", &shape), constant("down", &[-1, 2])])
}

/// `x` FP32 [512,512] through `layers` products to `y`: takes a while, and weighs 1 MiB.
pub fn slow(layers: usize) -> ModelProto {
    let square = |name: &str| value(name, DType::Fp32, &[512, 512]);
    model(products(layers), vec![square("x")], vec![square("y")], vec![weights("w", &[512, 512], 7)])
}

/// `x` FP32 [n,512] times one of several constants of `mebi` MiB, to `y`.
pub fn heavy(mebi: usize, seed: u64) -> ModelProto {
    let rows = |name: &str, columns: usize| value(name, DType::Fp32, &[-1, columns as i64]);
    let weights = weights("w", &[512, 512 * mebi], seed);
    model(vec![op("MatMul", &["x", "w"], &["y"])], vec![rows("x", 512)], vec![rows("y", 512 * mebi)], vec![weights])
}

/// `x` times `w`, its tanh times `w`, and so on, to `y`.
fn products(layers: usize) -> Vec<NodeProto> {
    let mut nodes = Vec::new();
    let mut from = "x".to_owned();
    for layer in 1..=layers {
        let product = format!("p{layer}");
        let to = if layer == layers { "y".to_owned() } else { format!("t{layer}") };
        nodes.push(op("MatMul", &[&from, "w"], &[&product]));
        nodes.push(op("Tanh", &[&product], &[&to]));
        from = to;
    }
    nodes
}
