//! What is measured for plans, and what comes of plans.

use crate::support::chain::{Door, Node};
use crate::support::cluster::Process;
use crate::support::networks::{Staged, assert_same, ladder};
use crate::support::{BINARY, folder, run, stderr};
use defer_host::pipeline::Pipeline;
use defer_host::relay::CodecChoice;
use defer_partition::profile::Profile;
use prost::Message as _;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

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

/// Nodes with a name, a URL, a speed and bytes of memory, joined by links of 1 Gbit/s.
fn cluster(nodes: &[(&str, Option<&str>, f64, u64)]) -> String {
    let mut text = String::new();
    for (name, url, speed, memory) in nodes {
        let _ = write!(text, "[[node]]\nname = \"{name}\"\nspeed = {speed}\nmemory_bytes = {memory}\n");
        let _ = url.map(|url| writeln!(text, "url = \"{url}\""));
    }
    text + "[link]\nbandwidth_bps = 1e9\nlatency_ms = 0.1\n"
}

/// Cuts `model` for the cluster `file` into `out`, profiled with two rows.
fn built(model: &str, file: &str, out: &Path, more: &[&str]) -> Pipeline {
    let flags = ["build-stages", "--model", model, "--cluster", file, "--dim", "n=2", "--out", out.to_str().unwrap()];
    let output = run(&[&flags[..], more].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    Pipeline::read(out).unwrap()
}

/// The command that places the pipeline in `out` by the cluster `file`.
fn dispatch<'a>(out: &'a Path, file: &'a str) -> Vec<&'a str> {
    let ports = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    [&["dispatch", "--pipeline", out.to_str().unwrap(), "--cluster", file], &ports[..]].concat()
}

/// Starts a dispatcher and waits until it serves.
fn dispatched(arguments: &[&str]) -> Process {
    let mut dispatcher = Process::spawn(Path::new(BINARY), arguments, &[]).unwrap();
    dispatcher.wait_listening(&["inference", "admin"], Duration::from_secs(60)).unwrap();
    dispatcher
}

fn assert_answers(dispatcher: &Process, staged: &Staged, what: &str) {
    let door = Door { url: dispatcher.address("inference").to_owned(), model: staged.name().to_owned() };
    let inputs = staged.inputs(1, 2);
    assert_same(&door.infer(&inputs).unwrap(), &staged.whole(&inputs), what);
}

#[test]
fn a_plan_uses_lossy_codecs_only_where_all_of_them_together_keep_to_the_budget() {
    let folder = folder("planned-lossy");
    let (model, file) = (written(&folder, 9), folder.join("cluster.toml"));
    // Links so slow that every byte counts, and nodes none of which holds all products.
    let nodes = ["a", "b", "c"].map(|name| (name, None, 1.0, FIVE + 4 * 32 * 64 * 4));
    std::fs::write(&file, cluster(&nodes).replace("1e9", "1e6")).unwrap();
    for (budget, rounds) in [("max-relative-error=0.02", true), ("max-relative-error=1e-9", false)] {
        let out = folder.join(budget);
        let flags = ["build-stages", "--model", &model, "--cluster", file.to_str().unwrap(), "--dim", "n=32"];
        let more = ["--allow-lossy", budget, "--out", out.to_str().unwrap()];
        let built = run(&[&flags[..], &more].concat());
        assert!(built.status.success(), "{}", stderr(&built));
        let pipeline = Pipeline::read(&out).unwrap();
        let accuracy = pipeline.accuracy.expect("it was asked for");
        let mut lossy = 0;
        for stage in &pipeline.stages {
            if let Some(CodecChoice::Fixed(codec)) = stage.codec
                && codec.is_lossy()
            {
                lossy += 1;
                assert!(!stage.lossy.is_empty(), "{codec} where none is allowed");
            }
        }
        assert_eq!(lossy > 0, rounds, "{budget}: {pipeline:?}");
        if rounds {
            assert!(accuracy.margin * accuracy.measured.unwrap() <= 0.02, "{accuracy:?}");
        }
    }
}

#[test]
fn a_network_that_fits_every_node_runs_as_whole_copies_unless_it_is_to_be_cut() {
    let folder = folder("planned-copies");
    let model = written(&folder, 4);
    let nodes: Vec<Node> = ["one", "two", "three"].map(|name| Node::start(&folder, name, &[])).into();
    let lines: Vec<_> = nodes.iter().map(|node| (node.name.as_str(), Some(node.url()), 1.0, 1 << 30)).collect();
    let file = folder.join("cluster.toml");
    std::fs::write(&file, cluster(&lines)).unwrap();
    let (file, out) = (file.to_str().unwrap(), folder.join("stages"));
    let chain = built(&model, file, &out, &["--replicas", "off"]);
    assert!(chain.stages.iter().all(|stage| stage.nodes.as_ref().unwrap().len() == 1));
    let pipeline = built(&model, file, &out, &[]);
    assert_eq!(pipeline.stages.len(), 1, "{pipeline:?}");
    assert_eq!(pipeline.stages[0].nodes.as_ref().unwrap().len(), 3, "{pipeline:?}");
    let dispatcher = dispatched(&dispatch(&out, file));
    let staged = Staged { file: model.into(), folder: out, pipeline };
    for _ in 0..6 {
        assert_answers(&dispatcher, &staged, "whole copies");
    }
    for node in &nodes {
        let slot = node.stages()[0].clone();
        assert!(slot["counters"]["frames_received"].as_u64().unwrap() > 0, "{} has its share: {slot}", node.name);
    }
}

/// Room for five of a ladder's products, and activations.
const FIVE: u64 = 5 * 64 * 64 * 4 + 8192;

#[test]
fn a_pipeline_that_was_cut_for_a_cluster_runs_where_its_plan_says() {
    let folder = folder("planned");
    let model = written(&folder, 12);
    let nodes: Vec<Node> = ["first", "second", "third"].map(|name| Node::start(&folder, name, &[])).into();
    // Twelve products need three nodes, and the plan may take them in any order.
    let lines: Vec<_> = nodes
        .iter()
        .zip([0.5, 1.0, 0.25])
        .map(|(node, speed)| (node.name.as_str(), Some(node.url()), speed, FIVE))
        .collect();
    let file = folder.join("cluster.toml");
    std::fs::write(&file, cluster(&lines)).unwrap();
    let (file, out) = (file.to_str().unwrap(), folder.join("stages"));
    let pipeline = built(&model, file, &out, &[]);
    let placed: Vec<&str> = pipeline.stages.iter().map(|stage| stage.nodes.as_ref().unwrap()[0].as_str()).collect();
    assert_eq!(placed.iter().collect::<BTreeSet<_>>().len(), 3, "{placed:?}");
    for (index, stage) in pipeline.stages.iter().enumerate() {
        assert!(stage.weights_bytes <= FIVE, "{} bytes", stage.weights_bytes);
        assert_eq!(stage.codec.is_some(), index < 2, "every hop but the last has its codec");
        assert!(stage.decode_ms.is_some_and(|ms| ms > 0.0) && stage.encode_ms.is_some_and(|ms| ms > 0.0));
    }
    let plan = pipeline.plan;
    assert!(plan.lower_bound_ms <= plan.bottleneck_ms && plan.latency_ms.unwrap() >= plan.bottleneck_ms);
    assert!((plan.throughput_rps.unwrap() * plan.bottleneck_ms - 1e3).abs() < 1e-6);

    let dispatcher = dispatched(&dispatch(&out, file));
    for (index, name) in placed.iter().enumerate() {
        let node = nodes.iter().find(|node| node.name == *name).unwrap();
        assert_eq!(node.stages()[0]["index"], index, "{name}");
    }
    assert_answers(&dispatcher, &Staged { file: model.into(), folder: out, pipeline }, "the placed chain");
}

#[test]
fn nodes_given_beside_a_cluster_are_matched_to_it_by_their_urls() {
    let folder = folder("planned-given");
    let model = written(&folder, 6);
    let nodes: Vec<Node> = ["first", "second", "third", "stranger"].map(|name| Node::start(&folder, name, &[])).into();
    // Six products need two nodes, and the third is too slow to be of use.
    let lines = nodes.iter().zip([1.0, 1.0, 0.001]);
    let lines: Vec<_> = lines.map(|(node, speed)| (node.name.as_str(), Some(node.url()), speed, FIVE)).collect();
    let file = folder.join("cluster.toml");
    std::fs::write(&file, cluster(&lines)).unwrap();
    let (file, out) = (file.to_str().unwrap(), folder.join("stages"));
    let pipeline = built(&model, file, &out, &["--replicas", "off"]);
    let named = |name: &str| nodes.iter().find(|node| node.name == name).unwrap();
    let placed: Vec<&Node> = pipeline.stages.iter().map(|stage| named(&stage.nodes.as_ref().unwrap()[0])).collect();
    let idle = nodes[..3].iter().find(|node| placed.iter().all(|placed| placed.name != node.name)).unwrap();
    let stranger = &nodes[3];
    assert_eq!(placed.len(), 2);

    let flags = dispatch(&out, file);
    let both = [placed[0].url(), placed[1].url()];
    for (given, said) in [
        (vec!["--node", both[0], both[1], stranger.url()], ["none of the nodes", stranger.url()]),
        (vec!["--node", both[0], idle.url()], ["stage 1", "not among --node"]),
    ] {
        let output = run(&[&flags[..], &given].concat());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        said.iter().for_each(|said| assert!(text.contains(said), "{said:?} is not in {text}"));
    }

    // The other way round, a node that the plan leaves alone, and a spare that the file does not know.
    let given = ["--node", both[1], idle.url(), both[0], stranger.url(), "--spare", stranger.url()];
    let dispatcher = dispatched(&[&flags[..], &given].concat());
    for (index, node) in placed.iter().enumerate() {
        assert_eq!(node.stages()[0]["index"], index, "{}", node.name);
    }
    assert_answers(&dispatcher, &Staged { file: model.into(), folder: out, pipeline }, "the placed chain");
}

#[test]
fn a_layer_that_no_node_can_hold_runs_on_several() {
    let folder = folder("split-layer");
    // One product of 16 KiB, for nodes that have room for little more than half of it.
    let (model, room) = (written(&folder, 1), 10_000);
    let nodes: Vec<Node> = ["one", "two"].map(|name| Node::start(&folder, name, &[])).into();
    let lines: Vec<_> = nodes.iter().map(|node| (node.name.as_str(), Some(node.url()), 1.0, room)).collect();
    let file = folder.join("cluster.toml");
    std::fs::write(&file, cluster(&lines)).unwrap();
    let (file, out) = (file.to_str().unwrap(), folder.join("stages"));
    let flags = ["build-stages", "--model", &model, "--cluster", file, "--dim", "n=2", "--out", out.to_str().unwrap()];
    let built = run(&flags);
    assert!(built.status.success(), "{}", stderr(&built));
    assert!(stderr(&built).contains("is split into 2 parts"), "{}", stderr(&built));
    let pipeline = Pipeline::read(&out).unwrap();
    let weights: Vec<u64> = pipeline.stages.iter().map(|stage| stage.weights_bytes).collect();
    assert_eq!(weights, [8192, 8192], "half of the columns each");

    let dispatcher = dispatched(&dispatch(&out, file));
    assert_answers(&dispatcher, &Staged { file: model.into(), folder: out, pipeline }, "the layer in two parts");
}

#[test]
fn placing_that_cannot_be_is_refused_with_the_name_of_what_is_missing() {
    let folder = folder("misplaced");
    let model = written(&folder, 6);
    let write = |name: &str, text: String| {
        let file = folder.join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let small = 3 * 64 * 64 * 4 + 8192;
    let nowhere = Some("http://127.0.0.1:9");
    let good = write("good.toml", cluster(&[("a", nowhere, 1.0, small), ("b", nowhere, 1.0, small)]));
    let no_url = write("no-url.toml", cluster(&[("a", None, 1.0, small), ("b", nowhere, 1.0, small)]));
    let other = write("other.toml", cluster(&[("a", nowhere, 1.0, small), ("c", nowhere, 1.0, small)]));
    let crowded = write("crowded.toml", cluster(&[("a", nowhere, 1.0, small)]));
    let twice = write("twice.toml", cluster(&[("a", nowhere, 1.0, small), ("a", nowhere, 1.0, small)]));
    let (placed, plain) = (folder.join("placed"), folder.join("plain"));
    let (placed, plain) = (placed.to_str().unwrap(), plain.to_str().unwrap());
    let build = |flags: &[&str]| run(&[&["build-stages", "--model", &model, "--dim", "n=2"], flags].concat());
    assert!(build(&["--cluster", &good, "--out", placed]).status.success());
    assert!(build(&["--stages", "2", "--out", plain]).status.success());
    let dispatch =
        |flags: &[&str]| run(&[&["dispatch", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], flags].concat());
    for (output, code, said) in [
        (build(&["--cluster", &crowded, "--out", placed]), 1, &["no plan", "MB"][..]),
        (build(&["--cluster", &twice, "--out", placed]), 2, &["twice.toml", "two nodes are called \"a\""]),
        (build(&["--cluster", "nowhere.toml", "--out", placed]), 2, &["nowhere.toml"]),
        (build(&["--cluster", &good, "--cut", "t3", "--out", placed]), 2, &["--cut"]),
        (dispatch(&["--pipeline", plain, "--cluster", &good]), 2, &["stage 0", "on no node", "--cluster"]),
        (dispatch(&["--pipeline", placed, "--cluster", &other]), 2, &["node \"b\"", "other.toml", "does not list"]),
        (dispatch(&["--pipeline", placed, "--cluster", &no_url]), 2, &["node \"a\"", "no url", "no-url.toml"]),
        (dispatch(&["--pipeline", placed]), 2, &["--node"]),
    ] {
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{said:?}: {text}");
        said.iter().for_each(|said| assert!(text.contains(said), "{said:?} is not in {text}"));
    }
}
