//! Good inputs to begin with, made by the project's own code.

use super::targets::frame::{REPAIR_HEADS, REPAIR_TENSORS};
use super::targets::oip::{Form, models as served};
use defer_host::artifact::{self, FORMAT, Manifest};
use defer_host::buffer::Pool;
use defer_host::build::GUEST;
use defer_host::oip::ModelMetadata;
use defer_host::relay::codec::{self, Codec};
use defer_host::relay::frame::{Failure, FailureKind, Kind, Part, PipelineId, Tag, data_head, write_head};
use defer_partition::testing::{Random, random_model};
use defer_partition::{Atoms, DType, Network, Partition, Tensor, TensorInfo, slice};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use prost::Message as _;
use serde_json::{Value, json};
use std::io::Write as _;

/// Random networks to begin with.
const NETWORKS: u64 = 24;

/// Values that are hard on a codec or a parser: zeros, repetitions, noise, and, as floats, numbers beyond all numbers.
fn values(dtype: DType, count: usize, random: &mut Random) -> Vec<u8> {
    let kind = random.below(4);
    let mut data = Vec::with_capacity(count * dtype.size());
    for at in 0..count {
        let bits = match kind {
            0 => 0,
            1 => (at % 3) as u64,
            2 => random.bits(),
            _ => [u64::MAX, 0x7ff0_0000_7f80_7c00, 0x3f80_3c00_3f80_3c00, 0x8000_8000_8000_8000][random.below(4)],
        };
        match dtype {
            DType::Bool => data.push((bits & 1) as u8),
            _ => data.extend(&bits.to_le_bytes()[..dtype.size()]),
        }
    }
    data
}

fn tensor(dtype: DType, shape: &[usize], random: &mut Random) -> Tensor {
    let data = values(dtype, shape.iter().product(), random);
    Tensor::new(dtype, shape.to_vec(), data).unwrap()
}

/// Streams of frames of every kind, with every codec and element type.
pub fn frames() -> Vec<Vec<u8>> {
    let mut random = Random::new(1);
    let tag = Tag { pipeline: PipelineId::of("p"), incarnation: 1, generation: 2, seq: 3, ..Tag::default() };
    let failure = Failure { node: "n".into(), stage: 1, kind: FailureKind::Stage, cause: vec!["it \"broke\"".into()] };
    let plain = [
        write_head(Kind::Hello, &tag, br#"{"protocol":1,"name":"n","nonce":"00"}"#, 0),
        write_head(Kind::Error, &tag, &serde_json::to_vec(&failure).unwrap(), 0),
        write_head(Kind::Credit, &tag, &3u32.to_le_bytes(), 0),
        write_head(Kind::Ping, &tag, &[], 0),
    ];
    let mut seeds = Vec::new();
    for (at, dtype) in DType::ALL.into_iter().enumerate() {
        let codec = Codec::ALL[at % Codec::ALL.len()];
        let shapes: [&[usize]; 3] = [&[2, 3, 40], &[], &[0, 4]];
        let part = |(name, shape): (usize, &&[usize])| {
            let tensor = codec::encode(tensor(dtype, shape, &mut random), codec, &Pool::new(0));
            Part { name: name as u16, tensor }
        };
        let parts: Vec<Part> = shapes.iter().enumerate().map(part).collect();
        let body: Vec<u8> = parts.iter().flat_map(|part| part.tensor.data.clone()).collect();
        let mut stream = vec![REPAIR_HEADS | (REPAIR_TENSORS * (at % 2) as u8)];
        stream.extend(write_head(Kind::Data, &tag, &data_head(&parts), body.len() as u64));
        stream.extend(body);
        stream.extend(&plain[at % plain.len()]);
        seeds.push(stream);
    }
    // Nothing is put right here.
    seeds.push([&[0][..], &plain.concat()].concat());
    seeds
}

/// Small networks with everything that makes reading and cutting hard.
pub fn models() -> Vec<Vec<u8>> {
    (0..NETWORKS).map(|seed| random_model(seed).encode_to_vec()).collect()
}

/// Stages as the builder writes them, and their parts for the target to assemble.
pub fn artifacts() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for seed in 0..NETWORKS {
        let network = Network::new(random_model(seed)).unwrap();
        let atoms = Atoms::new(&network);
        let middle: Vec<usize> = (1..atoms.atoms.len()).map(|at| at - 1).take(1).collect();
        let partition = Partition::new(&network, &atoms, &middle).unwrap();
        let info = |name: &String| TensorInfo { name: name.clone(), dtype: DType::Fp32, shape: vec![-1, 3] };
        for stage in &partition.stages {
            let mut slice = slice::slice(&network, stage, &|name| Some(info(&name.to_owned()))).unwrap();
            outside(&mut slice, seed);
            let infos = |names: &[String]| names.iter().map(info).collect::<Vec<_>>();
            let manifest = Manifest {
                format: FORMAT,
                pipeline: "p".into(),
                index: stage.index,
                count: partition.stages.len(),
                inputs: infos(&stage.inputs),
                outputs: infos(&stage.outputs),
                forwards: infos(&stage.forwards),
                model_digest: "0".repeat(64),
                warm_up: stage.inputs.iter().map(|_| vec![2, 3]).collect(),
                graph_bytes: 0,
                weights_bytes: 0,
                activation_peak_bytes: None,
            };
            let graph = slice.model.encode_to_vec();
            let text = serde_json::to_vec(&manifest).unwrap();
            let mut parts = vec![1];
            parts.extend([&text, &graph].map(|part| (part.len() as u32).to_le_bytes()).concat());
            parts.extend([text, graph, slice.weights_section()].concat());
            seeds.push(parts);
            if seed < 3 {
                let mut whole = vec![0];
                artifact::write(&mut whole, GUEST, manifest, &slice).unwrap();
                seeds.push(whole);
            }
        }
    }
    seeds
}

/// Puts a weight outside the graph: those of random networks are small enough to stay inside.
fn outside(slice: &mut slice::Slice, seed: u64) {
    let data: bytes::Bytes = values(DType::Fp32, 300, &mut Random::new(seed)).into();
    let mut weight = defer_partition::onnx::tensor_of("outside", Tensor::from_f32(vec![0], &[]).unwrap());
    weight.dims = vec![3, 100];
    weight.raw_data = None;
    weight.data_location = Some(1);
    let entries = [("location", slice::WEIGHTS_LOCATION.to_owned()), ("offset", "0".into()), ("length", "1200".into())];
    let entry = |(key, value): (&str, String)| defer_partition::onnx::proto::StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value),
    };
    weight.external_data = entries.map(entry).to_vec();
    slice.model.graph.as_mut().unwrap().initializer.push(weight);
    slice.weights_len = 1200;
    slice.weights = vec![slice::Weight { name: "outside".into(), data, offset: 0 }];
}

fn request(model: usize, form: Form, length: usize, body: &[u8]) -> Vec<u8> {
    let form = Form::ALL.iter().position(|other| std::mem::discriminant(other) == std::mem::discriminant(&form));
    let mut bytes = vec![model as u8, form.unwrap() as u8];
    bytes.extend((length as u32).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// Inputs of `model`, some with their data in the JSON, and the raw bytes of the others.
fn described(model: &ModelMetadata, raw: bool, random: &mut Random) -> (Value, Vec<u8>) {
    let mut inputs = Vec::new();
    let mut bytes = Vec::new();
    for info in &model.inputs {
        let shape: Vec<usize> = info.shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(2)).collect();
        let tensor = tensor(info.dtype, &shape, random);
        let mut input = json!({"name": info.name, "datatype": info.dtype.name(), "shape": shape});
        if raw {
            input["parameters"] = json!({"binary_data_size": tensor.data.len()});
            bytes.extend(&tensor.data);
        } else {
            let number = |_| match info.dtype {
                DType::Bool => json!(random.below(2) == 0),
                DType::Fp32 | DType::Fp64 | DType::Fp16 | DType::Bf16 => json!(random.unit()),
                _ => json!(random.below(100)),
            };
            let data: Vec<Value> = (0..shape.iter().product()).map(number).collect();
            let rows = shape.last().copied().filter(|&row| row > 0 && shape.len() == 2 && random.below(2) == 0);
            input["data"] = match rows {
                Some(row) => data.chunks(row).map(<[Value]>::to_vec).collect::<Vec<_>>().into(),
                None => data.into(),
            };
        }
        inputs.push(input);
    }
    let outputs: Vec<Value> =
        model.outputs.iter().rev().map(|out| json!({"name": out.name, "parameters": {"binary_data": raw}})).collect();
    let parameters = json!({"timeout": 1_000_000, "binary_data_output": true});
    (json!({"id": "7", "parameters": parameters, "inputs": inputs, "outputs": outputs}), bytes)
}

/// Requests for each model in every form.
pub fn requests() -> Vec<Vec<u8>> {
    let mut random = Random::new(2);
    let mut seeds = Vec::new();
    for (index, model) in served().iter().enumerate() {
        for _ in 0..3 {
            let text = described(model, false, &mut random).0.to_string().into_bytes();
            seeds.push(request(index, Form::Json, 0, &text));
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&text).unwrap();
            seeds.push(request(index, Form::Gzip, 0, &gzip.finish().unwrap()));
            let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
            zlib.write_all(&text).unwrap();
            seeds.push(request(index, Form::Deflate, 0, &zlib.finish().unwrap()));
            let (text, raw) = described(model, true, &mut random);
            let text = text.to_string().into_bytes();
            for form in [Form::Binary, Form::Fitted] {
                seeds.push(request(index, form, text.len(), &[&text[..], &raw].concat()));
            }
        }
    }
    seeds.push(request(0, Form::Raw, 0, &[7; 24]));
    seeds
}

/// Encodings and tensors for every codec and element type.
pub fn encodings() -> Vec<Vec<u8>> {
    let mut random = Random::new(3);
    let mut seeds = Vec::new();
    for codec in 0..Codec::ALL.len() {
        for (at, dtype) in DType::ALL.into_iter().enumerate() {
            let shape = [3, 4, 50];
            let tensor = tensor(dtype, &shape, &mut random);
            let dims: Vec<u8> = shape.iter().flat_map(|&dim| (dim as u16).to_le_bytes()).collect();
            let seed = |mode: u8, codec: usize, data: &[u8]| {
                let mut bytes = vec![codec as u8, at as u8, mode, shape.len() as u8];
                bytes.extend(&dims);
                bytes.extend(data);
                bytes
            };
            seeds.push(seed(1, codec, &tensor.data));
            let encoded = codec::encode(tensor, Codec::ALL[codec], &Pool::new(0));
            let used = Codec::ALL.iter().position(|other| *other == encoded.codec).unwrap();
            seeds.push(seed(0, used, &encoded.data));
        }
    }
    seeds
}
