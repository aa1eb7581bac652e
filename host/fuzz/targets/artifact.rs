//! The artifact reader: any file is refused, or is a stage whose graph names nothing outside the file's own weights.
//!
//! An input is a byte of mode and a file; or, with [`ASSEMBLE`], the lengths of manifest and graph (`u32` each), manifest,
//! graph, and weights, which the target puts around an empty component with all lengths right.

use super::{Verdict, take};
use defer_host::artifact::{Artifact, GRAPH, MANIFEST, WEIGHTS};
use defer_partition::onnx::for_each_tensor;
use defer_partition::onnx::proto::{ModelProto, TensorProto};
use defer_partition::{DType, byte_len};
use prost::Message as _;
use serde_json::Value;
use std::convert::Infallible;
use std::fs;
use tempfile::TempDir;

pub const ASSEMBLE: u8 = 1;
/// The smallest component: its header.
const COMPONENT: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];
const FILE: &str = "stage.wasm";

/// The file is mapped; only its manifest and graph are decoded, some hundred bytes for two at the worst.
pub fn memory(input: usize) -> usize {
    (1 << 20) + 1024 * input
}

thread_local! {
    static FOLDER: TempDir = tempfile::tempdir().expect("a folder for the file that is mapped");
}

pub fn run(mut input: &[u8]) -> Verdict {
    let [mode] = take(&mut input);
    let file = if mode & ASSEMBLE != 0 { assemble(input) } else { input.to_vec() };
    FOLDER.with(|folder| {
        let path = folder.path().join(FILE);
        // Nobody maps the one before any more.
        fs::write(&path, &file).expect("the file can be written");
        let Ok(artifact) = Artifact::open(&path) else { return Verdict::Refused };
        assert_eq!(artifact.len(), file.len());
        assert!(file.starts_with(artifact.component()) && artifact.component().len() >= COMPONENT.len());
        assert!(artifact.manifest.index < artifact.manifest.count);
        let mut leaving = artifact.manifest.leaving();
        leaving.dedup_by(|a, b| a.name == b.name);
        assert_eq!(leaving.len(), artifact.manifest.leaving().len());
        let Ok(model) = artifact.model() else { return Verdict::Refused };
        let mut model = ModelProto::decode(&model[..]).expect("what was encoded here");
        let Ok(()) = for_each_tensor(&mut model, &mut |tensor| {
            inside(tensor, &file);
            Ok::<_, Infallible>(())
        });
        Verdict::Taken
    })
}

/// That a tensor lies in the graph, or in `file` where its weights are.
fn inside(tensor: &TensorProto, file: &[u8]) {
    if tensor.data_location.is_none_or(|location| location == 0) && tensor.external_data.is_empty() {
        return;
    }
    assert_eq!(tensor.data_location, Some(1));
    let entries: Vec<(&str, &str)> = tensor.external_data.iter().map(|entry| (entry.key(), entry.value())).collect();
    let [("location", FILE), ("offset", offset), ("length", length)] = entries[..] else {
        panic!("a tensor lies at {entries:?}");
    };
    let (offset, length): (usize, usize) = (offset.parse().expect("bytes"), length.parse().expect("bytes"));
    let end = offset.checked_add(length).expect("no file is so long");
    let name = file.windows(WEIGHTS.len()).position(|window| window == WEIGHTS.as_bytes()).expect("it has weights");
    assert!(offset >= name + WEIGHTS.len() && end <= file.len(), "bytes {offset}..{end} of {}", file.len());
    let dims: Vec<usize> = tensor.dims.iter().map(|&dim| usize::try_from(dim).expect("no negative size")).collect();
    let dtype = DType::from_onnx(tensor.data_type()).expect("a type of known size");
    assert_eq!(byte_len(dtype, &dims), Some(length));
}

/// An artifact of the parts of `input`. The manifest's lengths are put right where it is an object at all.
fn assemble(mut input: &[u8]) -> Vec<u8> {
    let [manifest, graph] = [(); 2].map(|()| u32::from_le_bytes(take(&mut input)) as usize);
    let (manifest, rest) = input.split_at(manifest.min(input.len()));
    let (graph, weights) = rest.split_at(graph.min(rest.len()));
    let mut json = serde_json::from_slice::<Value>(manifest).unwrap_or_default();
    let manifest = match json.as_object_mut() {
        Some(object) => {
            object.insert("graph_bytes".into(), graph.len().into());
            object.insert("weights_bytes".into(), weights.len().into());
            json.to_string().into_bytes()
        }
        None => manifest.to_vec(),
    };
    let mut file = COMPONENT.to_vec();
    section(&mut file, MANIFEST, &manifest, 0);
    section(&mut file, GRAPH, graph, 0);
    let start = file.len() + 1 + 5 + 1 + WEIGHTS.len();
    section(&mut file, WEIGHTS, weights, start.next_multiple_of(64) - start);
    file
}

/// A custom section with `padding` zeros before its payload, its size in five bytes of LEB128.
fn section(file: &mut Vec<u8>, name: &str, payload: &[u8], padding: usize) {
    let size = 1 + name.len() + padding + payload.len();
    file.push(0);
    file.extend((0..5).map(|at| ((size >> (7 * at)) as u8 & 0x7f) | if at < 4 { 0x80 } else { 0 }));
    file.push(name.len() as u8);
    file.extend(name.as_bytes());
    file.resize(file.len() + padding, 0);
    file.extend(payload);
}
