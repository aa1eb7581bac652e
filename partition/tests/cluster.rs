//! Cluster and profile files: what is read, and how what is wrong with them is named.

use defer_partition::cluster::Cluster;
use defer_partition::profile::Profile;
use std::path::Path;

const TWO: &str = r#"
[[node]]
name = "a"
speed = 1
memory_bytes = 1000
[[node]]
name = "b"
url = "http://192.0.2.1:7700"
speed = 0.5
memory_bytes = 2000
[link]
bandwidth_bps = 100
latency_ms = 0.5
"#;

fn parse(text: &str) -> Result<Cluster, String> {
    Cluster::parse(text, Path::new("net.toml")).map_err(|error| error.to_string())
}

#[test]
fn a_pair_goes_both_ways_unless_its_reverse_is_listed() {
    let one =
        format!("{TWO}[[link.pair]]\na = \"a\"\nb = \"b\"\nbandwidth_bps = 30\n[dispatcher]\nbandwidth_bps = 7\n");
    let cluster = parse(&one).unwrap();
    let links = cluster.links().unwrap();
    assert_eq!((links[0][1].bandwidth_bps, links[1][0].bandwidth_bps), (30.0, 30.0));
    assert_eq!(links[0][1].latency_ms, 0.5);
    assert_eq!(cluster.dispatcher_link().bandwidth_bps, 7.0);
    assert_eq!(cluster.dispatcher_link().latency_ms, 0.0);
    let both = format!("{one}[[link.pair]]\na = \"b\"\nb = \"a\"\nbandwidth_bps = 40\nlatency_ms = 3\n");
    let links = parse(&both).unwrap().links().unwrap();
    assert_eq!((links[0][1].bandwidth_bps, links[1][0].bandwidth_bps), (30.0, 40.0));
    assert_eq!((links[0][1].latency_ms, links[1][0].latency_ms), (0.5, 3.0));
    let absent = parse(TWO).unwrap().dispatcher_link();
    assert_eq!(absent.ms(1 << 40), 0.0);
}

#[test]
fn a_cluster_comes_back_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.toml");
    let cluster = parse(&format!("{TWO}[[link.pair]]\na = \"b\"\nb = \"a\"\nbandwidth_bps = 40\n")).unwrap();
    cluster.write(&path).unwrap();
    assert_eq!(Cluster::read(&path).unwrap(), cluster);
}

#[test]
fn what_is_wrong_with_a_cluster_is_named() {
    let with = |from: &str, to: &str| TWO.replace(from, to);
    let pair = |rest: &str| format!("{TWO}[[link.pair]]\n{rest}\n");
    let cases = [
        (String::new(), "no [[node]]"),
        (with("\"b\"", "\"a\""), "called \"a\""),
        (with("\"b\"", "\"\""), "empty name"),
        (with("speed = 0.5", "speed = 0"), "speed of node \"b\" is 0"),
        (with("speed = 0.5", "speed = 1e-300"), "speed of node \"b\" is 0.000"),
        (with("speed = 0.5", "speed = -1"), "speed of node \"b\" is -1"),
        (with("speed = 0.5", "speed = inf"), "speed of node \"b\" is inf"),
        (with("speed = 0.5", "speed = nan"), "speed of node \"b\" is NaN"),
        (with("speed = 0.5", ""), "missing field `speed`"),
        (with("memory_bytes = 2000", "memory_bytes = 0"), "memory_bytes of node \"b\""),
        (with("memory_bytes = 2000", "memory_bytes = -5"), "line 10"),
        (with("memory_bytes = 2000", ""), "missing field `memory_bytes`"),
        (with("bandwidth_bps = 100", "bandwidth_bps = 0"), "bandwidth_bps of [link]"),
        (with("bandwidth_bps = 100", ""), "no bandwidth_bps from \"a\" to \"b\""),
        (with("latency_ms = 0.5", "latency_ms = -0.5"), "latency_ms of [link] is -0.5"),
        (with("latency_ms = 0.5", "latency_ms = 1e308"), "latency_ms of [link] is 1000"),
        (with("latency_ms = 0.5", ""), "no latency_ms from \"a\" to \"b\""),
        (with("latency_ms = 0.5", "latency = 0.5"), "unknown field `latency`"),
        (pair("a = \"a\"\nb = \"c\""), "names node \"c\""),
        (pair("a = \"a\"\nb = \"a\""), "joins a node to itself"),
        (pair("a = \"a\"\nb = \"b\"\nbandwidth_bps = -3"), "bandwidth_bps of the pair \"a\", \"b\" is -3"),
        (pair("a = \"a\"\nb = \"b\"\nlatency_ms = -1"), "latency_ms of the pair"),
        (pair("a = \"a\"\nb = \"b\"\n[[link.pair]]\na = \"a\"\nb = \"b\""), "listed twice"),
        (format!("{TWO}[dispatcher]\nbandwidth_bps = 0\n"), "bandwidth_bps of [dispatcher]"),
        (format!("{TWO}[dispatcher]\nbandwidth_bps = 5\nlatency_ms = -1\n"), "latency_ms of [dispatcher]"),
        ("[[node]\n".to_owned(), "line 1"),
    ];
    for (text, want) in cases {
        let error = parse(&text).unwrap_err();
        assert!(error.contains(want) && error.contains("net.toml"), "{error}\n  lacks {want}");
    }
    let error = Cluster::read(Path::new("/nowhere/net.toml")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/net.toml"), "{error}");
}

const PROFILE: &str = r#"{"format":1,"model":"net","atoms":[
 {"name":"x","compute_ms":1.5,"weights_bytes":10,"activation_peak_bytes":5},
 {"name":"y","compute_ms":2,"weights_bytes":20,"activation_peak_bytes":6}],
 "cuts":[{"after":0,"tensors":["t",{"name":"u","dtype":"FP32"}],"codecs":[{"name":"raw","bytes":8,"encode_ms":0.1,"decode_ms":0.2}]}],
 "input_bytes":3,"output_bytes":4,"engine":"any"}"#;

fn profile(text: &str) -> Result<Profile, String> {
    Profile::parse(text.as_bytes(), Path::new("p.json")).map_err(|error| error.to_string())
}

#[test]
fn a_profile_is_read_with_tensors_in_either_form_and_comes_back_as_written() {
    let read = profile(PROFILE).unwrap();
    assert_eq!(read.cuts[0].tensors, ["t", "u"]);
    assert_eq!((read.cuts[0].boundary_ms, read.runs.len(), read.tensors.len()), (0.0, 0, 0));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.json");
    read.write(&path).unwrap();
    assert_eq!(Profile::read(&path).unwrap(), read);
}

#[test]
fn what_is_wrong_with_a_profile_is_named() {
    let with = |from: &str, to: &str| PROFILE.replace(from, to);
    let more = |rest: &str| PROFILE.replace("\"engine\":\"any\"", rest);
    let cases = [
        ("{".to_owned(), "line 1"),
        (with("\"format\":1", "\"format\":2"), "format 2"),
        (with("\"format\":1,", ""), "no \"format\""),
        (with("\"compute_ms\":2", "\"compute_ms\":-2"), "compute_ms of atom 1 \"y\" is -2"),
        (
            with("\"weights_bytes\":20", "\"weights_bytes\":18446744073709551606"),
            "weights_bytes of its atoms sum to more",
        ),
        (with("1.5", "1e308").replace(":2,", ":1e308,"), "times sum to inf"),
        (with("\"encode_ms\":0.1,\"decode_ms\":0.2", "\"encode_ms\":6e14,\"decode_ms\":6e14"), "times sum to 1.2"),
        (with("\"after\":0", "\"after\":1"), "no cut after atom 1"),
        (with("\"encode_ms\":0.1", "\"encode_ms\":-1"), "encode_ms of raw at the cut after atom 0"),
        (with("\"bytes\":8", "\"bytes\":-8"), "line 4"),
        (more("\"runs\":[{\"atoms\":[1,2],\"compute_ms\":1}]"), "atoms 1 to 2"),
        (
            more(
                "\"tensors\":[{\"name\":\"t\",\"made\":0,\"used\":[1],\"codecs\":[{\"name\":\"raw\",\"bytes\":8,\"encode_ms\":0,\"decode_ms\":0}]}]",
            ),
            "tensor \"u\"",
        ),
    ];
    for (text, want) in cases {
        let error = profile(&text).unwrap_err();
        assert!(error.contains(want) && error.contains("p.json"), "{error}\n  lacks {want}");
    }
}
