//! The ONNX reader and everything that cuts a network: any file gives slices that are networks themselves, and between
//! them compute what the whole does from what they hand on, or an error.

use super::Verdict;
use bytes::Bytes;
use defer_partition::cut::{Partition, crossings};
use defer_partition::{Atoms, DType, Network, TensorInfo, fold, onnx, slice};
use prost::Message as _;
use std::convert::Infallible;

/// Longer files are cut off here: they would only be slow.
const LONGEST: usize = 64 << 10;
/// Cuts that are tried one by one.
const CUTS: usize = 6;

/// Two bytes of a file can be a node or an attribute of some hundred bytes in memory, and the graph is held some times:
/// as read, prepared, and in slices.
pub fn memory(input: usize) -> usize {
    (1 << 20) + 2048 * input.min(LONGEST)
}

pub fn run(input: &[u8]) -> Verdict {
    let bytes = Bytes::copy_from_slice(&input[..input.len().min(LONGEST)]);
    let Ok(model) = onnx::decode(bytes) else { return Verdict::Refused };
    let Ok(mut network) = Network::new(model) else { return Verdict::Refused };
    cut(&network);
    fold::fold(&mut network);
    // There is no engine here: constant expressions are found, and stay.
    let Ok(_) = fold::fold_constants(&mut network, &mut |_| Ok::<_, Infallible>(Vec::new()));
    cut(&network);
    Verdict::Taken
}

/// Cuts `network` everywhere at once, and at some places alone.
fn cut(network: &Network) {
    if network.nodes().is_empty() {
        return;
    }
    let atoms = Atoms::new(network);
    let mut nodes: Vec<usize> = atoms.atoms.iter().flat_map(|atom| atom.nodes.iter().copied()).collect();
    nodes.sort_unstable();
    assert!(nodes.iter().copied().eq(0..network.nodes().len()), "every node is in one group");
    let crossing = crossings(network, &atoms);
    let step = crossing.len().div_ceil(CUTS).max(1);
    for boundary in (0..crossing.len()).step_by(step) {
        let partition = Partition::new(network, &atoms, &[boundary]).expect("a boundary of the network's own");
        assert_eq!(partition.crossing(0), crossing[boundary]);
        check(network, &partition);
        if let Some(name) = crossing[boundary].first() {
            // Refused for an input, a constant; else a cut.
            let _ = Partition::at_tensors(network, &atoms, &[(*name).to_owned()]);
        }
    }
    let all: Vec<usize> = (0..crossing.len()).collect();
    check(network, &Partition::new(network, &atoms, &all).expect("all boundaries"));
    check(network, &Partition::new(network, &atoms, &[]).expect("no boundary"));
}

/// What leaves a stage is what enters the next, and each slice is a model that can be read.
fn check(network: &Network, partition: &Partition) {
    for pair in partition.stages.windows(2) {
        assert_eq!(pair[0].leaving(), pair[1].entering());
    }
    let describe = |name: &str| Some(TensorInfo { name: name.to_owned(), dtype: DType::Fp32, shape: vec![-1] });
    for stage in &partition.stages {
        let slice = slice::slice(network, stage, &describe).expect("everything is described");
        let section = slice.weights_section();
        assert_eq!(section.len() as u64, slice.weights_len);
        for weight in &slice.weights {
            assert_eq!(weight.offset % slice::WEIGHTS_ALIGNMENT, 0);
            let end = weight.offset as usize + weight.data.len();
            assert_eq!(section[weight.offset as usize..end], weight.data);
        }
        let bytes = slice.embedded().encode_to_vec();
        let model = onnx::decode(bytes.into()).expect("a slice is a model");
        let again = Network::new(model).expect("a slice is a network");
        assert_eq!(again.outputs(), stage.outputs);
    }
}
