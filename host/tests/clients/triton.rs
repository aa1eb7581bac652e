//! `tritonclient.http` as it comes from PyPI, with its defaults.

use super::client;
use crate::support::chain::Chain;
use crate::support::folder;
use crate::support::networks::{Staged, assert_same, stage, tour};
use defer_host::engine::Named;
use defer_partition::{DType, Tensor};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/triton_http.py")
}

/// Tensors as the script reads them: a file of raw bytes each, described by a line `name dtype shape`.
fn write(folder: &Path, tensors: &[Named]) {
    let mut index = String::new();
    for (name, tensor) in tensors {
        let shape: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
        index.push_str(&format!("{name} {} {}\n", tensor.dtype, shape.join(",")));
        fs::write(folder.join(format!("{name}.raw")), &tensor.data).expect("a file");
    }
    fs::write(folder.join("index"), index).expect("a file");
}

fn read(folder: &Path) -> Vec<Named> {
    let index = fs::read_to_string(folder.join("index")).expect("the script's answers");
    let tensor = |line: &str| {
        let mut words = line.split(' ');
        let mut word = || words.next().expect("three words").to_owned();
        let (name, dtype, shape) = (word(), word(), word());
        let dtype = DType::ALL.into_iter().find(|known| known.name() == dtype).expect("an element type");
        let shape = shape.split(',').filter(|dim| !dim.is_empty()).map(|dim| dim.parse().expect("a size")).collect();
        let data = fs::read(folder.join(format!("{name}.raw"))).expect("the script's answer");
        (name, Tensor::new(dtype, shape, data).expect("as many bytes as the shape needs"))
    };
    index.lines().map(tensor).collect()
}

fn ask(chain: &Chain, staged: &Staged, mode: &str) {
    let folder = folder(&format!("triton-{mode}"));
    let (given, answered) = (folder.join("inputs"), folder.join("outputs"));
    for folder in [&given, &answered] {
        fs::create_dir_all(folder).expect("a folder");
    }
    let inputs = staged.inputs(11, 2);
    write(&given, &inputs);
    let url = chain.url().trim_start_matches("http://");
    let output = Command::new(client("python"))
        .arg(script())
        .args([mode, url, staged.name()])
        .args([&given, &answered])
        .output()
        .expect("the interpreter starts");
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{mode}: {said}");
    assert_same(&read(&answered), &staged.whole(&inputs), mode);
}

#[test]
fn tritonclient_with_its_defaults_gets_the_whole_networks_answers() {
    let staged = stage("triton", &tour(), 3, &[]);
    let chain = Chain::start("triton", &staged);
    for mode in ["defaults", "json", "chosen", "threads", "asyncio"] {
        ask(&chain, &staged, mode);
    }
}
