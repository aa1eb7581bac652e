//! Flags, output and exit codes.

use crate::support::chain::Chain;
use crate::support::networks::{assert_same, ladder, stage, tour};
use crate::support::{BINARY, folder, run, stderr};
use defer_host::engine::Named;
use defer_partition::{DType, Tensor};
use prost::Message as _;
use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("ended by a signal: {}", stderr(output)))
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("stdout is UTF-8")
}

const COMMANDS: [&str; 7] = ["build-stages", "profile", "cluster", "serve", "dispatch", "infer", "inspect"];

#[test]
fn every_command_explains_itself_with_an_example() {
    let all = run(&["--help"]);
    assert_eq!(code(&all), 0);
    for command in COMMANDS {
        assert!(stdout(&all).contains(command), "{command} is not listed");
        let help = run(&[command, "--help"]);
        assert_eq!(code(&help), 0, "{command}");
        let text = stdout(&help);
        assert!(text.contains("Example") && text.contains(&format!("defer-host {command}")), "{command}: {text}");
    }
    assert_eq!(code(&run(&["--version"])), 0);
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_wrong() {
    for command in COMMANDS {
        let output = run(&[command, "--no-such-flag"]);
        assert_eq!(code(&output), 2, "{command}");
        assert!(stderr(&output).contains("--no-such-flag"), "{command}: {}", stderr(&output));
    }
    let nowhere = folder("nowhere").join("absent");
    let nowhere = nowhere.to_str().unwrap();
    let onnx = folder("no-network").join("broken.onnx");
    std::fs::write(&onnx, b"no protobuf").unwrap();
    let broken = onnx.to_str().unwrap();
    let free = ["serve", "--listen", "127.0.0.1:0", "--relay", "127.0.0.1:0"];
    for (args, because) in [
        (&[][..], "Usage"),
        (&["fly"], "fly"),
        (&["serve", "--listen", "here"], "--listen"),
        (&["serve", "--engine", "abacus"], "unknown engine \"abacus\""),
        (&["serve", "--listen", "0.0.0.0:0"], "--listen 0.0.0.0:0 can be reached from other machines and has no token"),
        (
            &["serve", "--listen", "127.0.0.1:0", "--relay", "[::]:0"],
            "--relay [::]:0 can be reached from other machines",
        ),
        (&["serve", "--token-file", nowhere], "cannot read the token"),
        (&["serve", "--advertise", "pi-1"], "give the host and the port"),
        (&[&free[..], &["--ort-lib", nowhere]].concat(), nowhere),
        (&[&free[..], &["--ort-lib", broken]].concat(), broken),
        (&[&free[..], &["--state-dir", broken]].concat(), "cannot use the state directory"),
        (&["inspect", nowhere], "cannot read"),
        (&["dispatch", "--pipeline", nowhere, "--node", "http://127.0.0.1:1"], "pipeline.json"),
        (&["dispatch", "--pipeline", nowhere, "--node", "https://127.0.0.1:1"], "--node takes URLs such as"),
        (&["dispatch", "--pipeline", nowhere, "--node", "127.0.0.1:1"], "--node"),
        (&["dispatch", "--pipeline", nowhere, "--node", "http://a:1", "--codec", "zip"], "unknown codec \"zip\""),
        (&["dispatch", "--pipeline", nowhere, "--node", "http://a:1", "--queue", "0"], "--queue"),
        (
            &["dispatch", "--pipeline", nowhere, "--node", "http://a:1", "--codec", "f16", "--lossless"],
            "--codec f16 is lossy, and --lossless forbids it",
        ),
        (&["build-stages", "--model", "m", "--stages", "2", "--allow-lossy", "0.01"], "max-relative-error=X"),
        (&["build-stages", "--model", "m", "--stages", "2", "--allow-lossy", "top1-agreement=99.9"], "at most 1"),
        (&["build-stages", "--model", nowhere, "--stages", "2"], "no model"),
        (&["build-stages", "--model", "resnet50"], "--stages N"),
    ] {
        let output = run(args);
        assert_eq!(code(&output), 2, "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(because), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{args:?} wrote to stdout");
    }
    let output = run(&["build-stages", "--model", broken, "--stages", "2"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("broken.onnx"), "{}", stderr(&output));
}

#[test]
fn a_network_that_cannot_be_cut_so_is_named_with_the_reason() {
    let folder = folder("cuts");
    let file = folder.join("cuts.onnx");
    std::fs::write(&file, ladder(3).encode_to_vec()).unwrap();
    let (file, out) = (file.to_str().unwrap(), folder.join("out"));
    let build = |flags: &[&str]| {
        let out = out.to_str().unwrap();
        run(&[&["build-stages", "--model", file, "--out", out], flags].concat())
    };
    for (flags, because) in [
        (&["--stages", "99"][..], "99"),
        (&["--stages", "0"], "stage"),
        (&["--stages", "2", "--dim", "height=3"], "height"),
        (&["--stages", "2", "--dim", "n"], "--dim"),
        (&["--cut", "t9"], "no tensor \"t9\" in the network"),
        (&["--cut", "t2,t1"], "list cuts in the order of the network"),
        (&["--cut", "x"], "it is an input of the network"),
        (&["--cut", "y"], "nothing would come after the cut"),
        (&["--cut", "w1"], "it is a constant"),
        (&["--cut", "t1", "--stages", "3"], "--stages"),
    ] {
        let output = build(flags);
        assert_eq!(code(&output), 2, "{flags:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(because), "{flags:?}: {}", stderr(&output));
        assert!(!out.join("pipeline.json").exists(), "{flags:?}");
    }
    let output = build(&["--stages", "2", "--dim", "n=5", "--json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    let written: Value = serde_json::from_slice(&std::fs::read(out.join("pipeline.json")).unwrap()).unwrap();
    assert_eq!((&document["name"], &document["stages"]), (&written["name"], &written["stages"]));
    assert_eq!(written["stages"].as_array().unwrap().len(), 2);
    // A table for a person, with the same digests.
    let output = build(&["--stages", "3"]);
    let table = stdout(&output);
    for index in 0..3 {
        assert!(table.contains(&format!("stage-{index}.wasm")), "{table}");
    }
    // Cut into fewer stages, nothing is left of the third.
    assert_eq!(code(&build(&["--stages", "2"])), 0);
    assert!(!out.join("stage-2.wasm").exists() && out.join("stage-1.wasm").exists());
}

#[test]
fn inspect_shows_what_an_artifact_holds() {
    let staged = stage("inspected", &tour(), 3, &[]);
    for stage in &staged.pipeline.stages {
        let path = staged.folder.join(&stage.file);
        let path = path.to_str().unwrap();
        let output = run(&["inspect", path, "--json"]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        assert_eq!(document["digest"], stage.digest.to_string());
        assert_eq!(document["bytes"], std::fs::metadata(path).unwrap().len());
        assert_eq!(document["manifest"]["index"], stage.index);
        assert_eq!(document["graph_bytes"], document["manifest"]["graph_bytes"]);
        let imports: Vec<&str> = document["imports"].as_array().unwrap().iter().map(|i| i.as_str().unwrap()).collect();
        assert!(!imports.is_empty() && imports.iter().all(|import| import.starts_with("wasi:nn/")), "{imports:?}");
        let text = stdout(&run(&["inspect", path]));
        assert!(text.contains(&stage.digest.to_string()) && text.contains("wasi:nn/inference"), "{text}");
    }
    let output = run(&["inspect", staged.file.to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("not a WASI component"), "{}", stderr(&output));
    let output = run(&["inspect", "/no/such/file"]);
    assert_eq!(code(&output), 2);
    assert_eq!(stderr(&output).matches("No such file").count(), 1, "{}", stderr(&output));
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let staged = stage("enough", &ladder(3), 2, &[]);
    let artifact = staged.folder.join(&staged.pipeline.stages[0].file);
    let (artifact, file) = (artifact.to_str().unwrap(), staged.file.to_str().unwrap());
    let out = folder("enough-again");
    for args in [
        &["inspect", artifact][..],
        &["inspect", artifact, "--json"],
        &["build-stages", "--model", file, "--stages", "2", "--out", out.to_str().unwrap()],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = std::process::Command::new(BINARY).args(args).stdout(writer).output().unwrap();
        assert_eq!(code(&output), 0, "{args:?}: {}", stderr(&output));
    }
}

/// Writes version 1.0 of NumPy's format.
fn write_npy(path: &Path, tensor: &Tensor) {
    let descr = match tensor.dtype {
        DType::Fp32 => "<f4",
        DType::Int64 => "<i8",
        DType::Bool => "|b1",
        other => panic!("no test writes {other}"),
    };
    let shape: String = tensor.shape.iter().map(|dim| format!("{dim},")).collect();
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}\n");
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    std::fs::write(path, [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &tensor.data].concat()).unwrap();
}

/// Reads what `infer --output` wrote, with a reader that is not the program's own.
fn read_npy(path: &Path, want: &Tensor) -> Tensor {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let header = npyz::NpyHeader::from_reader(&bytes[..]).expect("a NumPy file");
    let shape = header.shape().iter().map(|&dim| dim as usize).collect();
    let start = bytes.len() - want.data.len().min(bytes.len());
    Tensor { dtype: want.dtype, shape, data: bytes[start..].to_vec() }
}

#[test]
fn infer_writes_what_the_whole_network_computes() {
    let staged = stage("written", &tour(), 3, &[]);
    let chain = Chain::start("written", &staged);
    let folder = folder("written-files");
    let mut args = vec!["infer".to_owned(), "--url".into(), chain.url().into(), "--model".into(), "written".into()];
    let requests: Vec<Vec<Named>> = (0..2).map(|seed| staged.inputs(seed, 0)).collect();
    for (number, inputs) in requests.iter().enumerate() {
        for (name, tensor) in inputs {
            let path = folder.join(format!("r{number}-{name}.npy"));
            write_npy(&path, tensor);
            args.extend(["--input".to_owned(), format!("{name}={}", path.display())]);
        }
    }
    let out = folder.join("out");
    args.extend(
        ["--repeat", "5", "--concurrency", "4", "--json", "--output", out.to_str().unwrap()].map(str::to_owned),
    );
    let output = std::process::Command::new(BINARY).args(&args).output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!((&report["requests"], &report["succeeded"], &report["failed"]), (&10.into(), &10.into(), &0.into()));
    assert_eq!(report["answers"].as_array().unwrap().len(), 2);
    let latency = &report["latency_ms"];
    assert!(latency["p50"].as_f64().unwrap() <= latency["max"].as_f64().unwrap());
    for (number, inputs) in requests.iter().enumerate() {
        let want = staged.whole(inputs);
        let first = &inputs[0].0;
        let read = |(name, tensor): &Named| {
            (name.clone(), read_npy(&out.join(format!("r{number}-{first}.{name}.npy")), tensor))
        };
        let got: Vec<Named> = want.iter().map(read).collect();
        assert_same(&got, &want, &format!("request {number}"));
    }
    // Text for a person instead.
    let text = std::process::Command::new(BINARY).args(args.iter().filter(|arg| *arg != "--json")).output().unwrap();
    assert!(stdout(&text).contains("requests    10 answered, 0 failed"), "{}", stdout(&text));
    // Mistakes of the user end with 2, before anything is sent; a server's refusal or absence with 1.
    let input = format!("a={}", folder.join("r0-n.npy").display());
    for (flags, want, because) in [
        (&["--model", "written", "--input", &input][..], 2, "\"a\""),
        (&["--model", "written"], 2, "--input"),
        (&["--model", "written", "--input", "/no/such.npy"], 2, "/no/such.npy"),
        (&["--model", "unheard-of"], 1, "unknown model \"unheard-of\""),
        (&["--model", "written", "--url", "http://127.0.0.1:1"], 1, "127.0.0.1:1"),
    ] {
        let url = ["infer", "--url", chain.url()];
        let args = if flags.contains(&"--url") { [&["infer"], flags].concat() } else { [&url[..], flags].concat() };
        let output = run(&args);
        assert_eq!(code(&output), want, "{flags:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(because), "{flags:?}: {}", stderr(&output));
    }
}
