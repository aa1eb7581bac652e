//! Frames, codecs and what is passed on: the same bytes on every architecture.

use crate::support::chain::Node;
use crate::support::folder;
use crate::support::hand::{INCARNATION, assignment};
use crate::support::networks::{model, stage, value};
use crate::support::raw::{Hello, Raw, Received, data, parts};
use defer_host::buffer::Pool;
use defer_host::relay::codec::{self, Codec};
use defer_host::relay::frame::{Kind, write_head};
use defer_partition::testing::{Random, op};
use defer_partition::{DType, Tensor};
use serde_json::json;

const CODECS: [&str; 20] = [
    "raw",
    "lz4",
    "shuffle-lz4",
    "shuffle-zstd",
    "sparse",
    "sparse+shuffle-lz4",
    "sparse+shuffle-zstd",
    "zfp:reversible",
    "f16",
    "sparse+f16",
    "int8",
    "sparse+int8",
    "int8+zstd",
    "int8+zstd:relative=1e-2",
    "zfp:accuracy=1e-3",
    "zfp:relative=1e-3",
    "zfp:rate=8",
    "zfp:precision=16",
    "constant-size:f16",
    "constant-size:int8",
];

/// A row count that fills no vector of any processor.
const ROWS: usize = 37;

/// Floats of all magnitudes, a third of them zeros of either sign.
fn values() -> Tensor {
    let mut random = Random::new(3);
    let mut value = || match random.below(6) {
        0 => 0.0,
        1 => -0.0,
        2 => random.unit() * 1e-40,
        3 => random.unit() * 1e4,
        _ => random.unit(),
    };
    let values: Vec<f32> = (0..ROWS * 64).map(|_| value()).collect();
    Tensor::from_f32(vec![ROWS, 64], &values).unwrap()
}

/// One frame through the last of two stages on `node`, encoded by `codec` on the way in and on the way out.
fn through(node: &Node, name: &str, digest: &str, codec: Codec, generation: u64) -> Received {
    let mut body = assignment(1, digest, &json!([]));
    body["stages"][0]["codec"] = json!(codec.to_string());
    let reply = node.prepare(name, generation, &body);
    assert!(reply.status.is_success(), "{codec}: {}", reply.error());
    let tag = (generation, INCARNATION);
    let last = Hello::new("collect", name, tag, 1);
    let (mut collect, _) = Raw::open(node.relay(), &last);
    collect.send(&write_head(Kind::Credit, &last.tag(0), &10u32.to_le_bytes(), 0));
    let hello = Hello::new("feed", name, tag, 1);
    let (mut feed, _) = Raw::open(node.relay(), &hello);
    feed.send(&data(&hello.tag(1), &parts(&[("t".to_owned(), values())], codec)));
    let result = collect.result();
    assert_eq!(result.kind, Kind::Data, "{codec}: {}", String::from_utf8_lossy(&result.head));
    node.remove(name, generation);
    result
}

#[test]
fn encoded_and_passed_on_tensors_are_equal_to_the_last_bit() {
    // A sign changes the same way everywhere, and "t" is an output already: the second stage passes it on as it came.
    let rows = |name: &str| value(name, DType::Fp32, &[-1, 64]);
    let nodes = vec![op("Abs", &["x"], &["t"]), op("Neg", &["t"], &["y"])];
    let staged = stage("bits", &model(nodes, vec![rows("x")], vec![rows("t"), rows("y")], Vec::new()), 0, &["t"]);
    let folder = folder("mixed-bits");
    let mut nodes = vec![Node::start(&folder, "native", &[]), Node::start_emulated(&folder, "aarch64")];
    if cfg!(target_arch = "x86_64") {
        // Without the vectors that this machine has.
        nodes.push(Node::start_oldest(&folder, "oldest", &[]));
    }
    let digest = staged.pipeline.stages[1].digest.to_string();
    for node in &nodes {
        assert!(node.upload(&digest, staged.artifact(1)).status.is_success());
    }
    let sent = values();
    let negated: Vec<u8> = sent.to_f32().unwrap().iter().flat_map(|value| (-value).to_le_bytes()).collect();
    for (generation, text) in (1..).zip(CODECS) {
        let codec: Codec = text.parse().unwrap();
        let came = parts(&[("t".to_owned(), sent.clone())], codec).remove(0).tensor;
        let passed = match codec {
            // Its encoding may have been chosen for what it holds: it goes raw.
            Codec::ConstantSize(_) => {
                let rounded = codec::decode(came, &Pool::new(0)).unwrap();
                parts(&[("t".to_owned(), rounded)], Codec::Raw).remove(0).tensor
            }
            _ => came,
        };
        let native = through(&nodes[0], "bits", &digest, codec, generation);
        // In the order of their names: "t", passed on as it came, then "y".
        assert_eq!((native.heads()[0].codec, native.heads()[0].checksum), (passed.codec, passed.checksum), "{codec}");
        for node in &nodes[1..] {
            let (other, name) = (through(node, "bits", &digest, codec, generation), &node.name);
            assert_eq!(native.heads(), other.heads(), "{codec} on {name}");
            let (got, want) = (other.body.len(), native.body.len());
            assert!(native.body == other.body, "{codec} on {name}: {got} bytes differ from {want}");
            assert_eq!(other.body[..passed.data.len()], passed.data, "{codec} on {name}");
            if !codec.is_lossy() {
                assert!(other.tensors()[1].1.data == negated, "{codec} on {name}");
            }
        }
    }
}
