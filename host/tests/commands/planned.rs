//! What is measured for plans, and what comes of plans.

use crate::support::networks::ladder;
use crate::support::{folder, run, stderr};
use defer_partition::profile::Profile;
use prost::Message as _;
use std::collections::BTreeSet;
use std::path::Path;

/// Writes a ladder of `layers` products under `folder`; gives its path.
fn written(folder: &Path, layers: usize) -> String {
    let file = folder.join("ladder.onnx");
    std::fs::write(&file, ladder(layers).encode_to_vec()).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_profile_knows_what_each_part_holds_and_what_crosses_each_cut() {
    let folder = folder("profiled");
    let (model, out) = (written(&folder, 6), folder.join("profile.json"));
    let flags = ["profile", "--model", &model, "--dim", "n=32", "--json", "--out", out.to_str().unwrap()];
    let output = run(&flags);
    assert!(output.status.success(), "{}", stderr(&output));
    let profile = Profile::read(&out).unwrap();
    assert_eq!(Profile::parse(&output.stdout, Path::new("stdout")).unwrap(), profile);
    // Six products and what follows each; rows of 64 numbers in, between, and out.
    let bytes = 32 * 64 * 4;
    assert_eq!((profile.atoms.len(), profile.cuts.len()), (6, 5));
    assert_eq!((profile.input_bytes, profile.output_bytes), (bytes, bytes));
    for atom in &profile.atoms {
        assert_eq!((atom.weights_bytes, atom.activation_peak_bytes), (64 * 64 * 4, 2 * bytes), "{atom:?}");
    }
    assert!(profile.atoms.iter().map(|atom| atom.compute_ms).sum::<f64>() > 0.0);
    for (index, cut) in profile.cuts.iter().enumerate() {
        assert_eq!((cut.after, cut.tensors.as_slice()), (index, [format!("t{}", index + 1)].as_slice()));
        let tensor = profile.tensors.iter().find(|tensor| tensor.name == cut.tensors[0]).unwrap();
        assert_eq!((tensor.made, tensor.used.as_slice()), (Some(index), [index + 1].as_slice()));
        assert_eq!(tensor.codecs, cut.codecs);
        let raw = &cut.codecs[0];
        assert_eq!((raw.name.as_str(), raw.bytes), ("raw", bytes));
        // Raw tensors are not free: they are sent, taken in, and summed on both sides.
        assert!(raw.encode_ms > 0.0 && raw.decode_ms > 0.0, "{raw:?}");
        let half = cut.codecs.iter().find(|codec| codec.name == "f16").unwrap();
        assert_eq!(half.bytes, bytes / 2);
        let names: BTreeSet<&str> = cut.codecs.iter().map(|codec| codec.name.as_str()).collect();
        for codec in ["sparse", "sparse+shuffle-lz4", "shuffle-zstd", "int8", "int8+zstd:relative=1e-2"] {
            assert!(names.contains(codec), "{codec} is not in {names:?}");
        }
    }
}
