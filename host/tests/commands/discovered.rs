//! Nodes that make themselves known, on two machines of a network of their own: namespaces joined by a virtual cable.

use crate::support::cluster::Process;
use crate::support::{BINARY, PATIENCE, folder, poll, run, stderr};
use defer_partition::cluster::Cluster;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// 198.18.0.0/15 is set aside for benchmarks of networks (RFC 2544).
const ADDRESSES: [&str; 2] = ["198.18.7.1", "198.18.7.2"];

/// Two machines. Dropping it removes them.
struct Cable {
    machines: [String; 2],
}

impl Cable {
    /// `None` where this process may not make namespaces.
    fn new(name: &str) -> Option<Self> {
        let machines = ["a", "b"].map(|end| format!("defer-{name}-{}-{end}", std::process::id()));
        let cable = Self { machines };
        let [a, b] = &cable.machines;
        if !ip(&["netns", "add", a]) {
            eprintln!("SKIPPED: no network namespaces (they need root and the package iproute2)");
            return None;
        }
        assert!(ip(&["netns", "add", b]));
        assert!(ip(&["link", "add", "cable", "netns", a, "type", "veth", "peer", "name", "cable", "netns", b]));
        for (machine, address) in cable.machines.iter().zip(ADDRESSES) {
            assert!(ip(&["-n", machine, "addr", "add", &format!("{address}/24"), "dev", "cable"]));
            for device in ["lo", "cable"] {
                assert!(ip(&["-n", machine, "link", "set", device, "up"]));
            }
        }
        Some(cable)
    }

    /// The program on machine `at`, with `args`.
    fn on<'a>(&'a self, at: usize, args: &[&'a str]) -> Vec<&'a str> {
        [&["netns", "exec", &self.machines[at], BINARY], args].concat()
    }

    fn run(&self, at: usize, args: &[&str]) -> Output {
        Command::new("ip").args(self.on(at, args)).env("PATH", path()).output().expect("ip was there before")
    }

    fn node(&self, at: usize, name: &str, ports: [&str; 2], folder: &Path, extra: &[&str]) -> Process {
        let state = folder.join(name);
        let [rest, relay] = ports.map(|port| format!("0.0.0.0:{port}"));
        let args = ["serve", "--name", name, "--listen", &rest, "--relay", &relay, "--threads", "1"];
        let args = [&args[..], &["--state-dir", state.to_str().unwrap(), "--announce"], extra].concat();
        let mut node = Process::spawn(Path::new("ip"), &self.on(at, &args), &[("PATH", &path())]).unwrap();
        node.wait_listening(&["rest", "relay"], PATIENCE).unwrap();
        node
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for machine in &self.machines {
            ip(&["netns", "del", machine]);
        }
    }
}

/// With the folders that not everybody has in the path.
fn path() -> String {
    std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin"
}

fn ip(args: &[&str]) -> bool {
    Command::new("ip").args(args).env("PATH", path()).status().is_ok_and(|status| status.success())
}

/// Discovers on machine `at` until `enough` of what is found; gives that, and how the last search ended.
fn search(cable: &Cable, at: usize, flags: &[&str], enough: impl Fn(&[Value]) -> bool) -> (Vec<Value>, Output) {
    let flags = [&["cluster", "discover", "--json", "--seconds", "2"], flags].concat();
    poll("the nodes that are to be found", || {
        let output = cable.run(at, &flags);
        let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document, whatever was found");
        let nodes = report["nodes"].as_array().unwrap().clone();
        enough(&nodes).then_some((nodes, output))
    })
}

/// The same of a search that succeeds.
fn discover(cable: &Cable, at: usize, flags: &[&str], enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let (nodes, output) = search(cable, at, flags, enough);
    assert!(output.status.success(), "{}", stderr(&output));
    nodes
}

fn names(nodes: &[Value]) -> Vec<&str> {
    nodes.iter().map(|node| node["name"].as_str().unwrap()).collect()
}

#[test]
fn nodes_that_announce_themselves_are_found_and_measured() {
    let Some(cable) = Cable::new("found") else { return };
    let folder = folder("discovered");
    let file = |name: &str, secret: &str| {
        let file = folder.join(name);
        std::fs::write(&file, secret).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (token, other) = (file("token", "a long random text"), file("other", "another long random text"));
    let right = cable.node(1, "right", ["7700", "7701"], &folder, &["--token-file", &token]);
    let stranger = cable.node(1, "stranger", ["7710", "7711"], &folder, &["--token-file", &other]);
    let open = cable.node(1, "open", ["7720", "7721"], &folder, &["--insecure"]);
    let mut left = cable.node(0, "left", ["7700", "7701"], &folder, &["--token-file", &token, "--memory-limit", "64"]);

    // Without the token: where they are, and no more.
    let found = discover(&cable, 0, &[], |nodes| nodes.len() == 4);
    assert_eq!(names(&found), ["left", "open", "right", "stranger"]);
    let urls = ["198.18.7.1:7700", "198.18.7.2:7720", "198.18.7.2:7700", "198.18.7.2:7710"];
    for (node, url) in found.iter().zip(urls) {
        assert_eq!(node["url"], format!("http://{url}"));
        assert_eq!(node["arch"], std::env::consts::ARCH);
        assert_eq!(node["token_needed"], node["name"] != "open");
        match node["problem"].as_str() {
            None => {
                assert_eq!((&node["name"], node["cores"].as_u64() > Some(0)), (&Value::from("open"), true), "{node}")
            }
            Some(problem) => assert!(problem.contains("--token-file") && node["memory_bytes"].is_null(), "{node}"),
        }
    }

    // With it, from the other machine: who knows it says more, and stands in the cluster file.
    let out = folder.join("cluster.toml");
    let out = out.to_str().unwrap();
    let flags = ["--token-file", &token, "--out", out];
    let (found, output) = search(&cable, 1, &flags, |nodes| nodes.len() == 4);
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    // The limit, less what the node takes itself.
    assert!(found[0]["memory_bytes"].as_u64().is_some_and(|left| (16 << 20..60 << 20).contains(&left)), "{found:?}");
    assert!(
        found.iter().take(3).all(|node| node["cores"].as_u64() > Some(0) && node["problem"].is_null()),
        "{found:?}"
    );
    assert!(found[3]["memory_bytes"].is_null() && !found[3]["problem"].is_null(), "{found:?}");
    assert!(said.contains("left out: \"open\" at http://198.18.7.2:7720: it needs no token"), "{said}");
    let text = std::fs::read_to_string(out).unwrap();
    assert!(text.starts_with("# Found by") && text.contains("assumed"), "{text}");
    let listed = |file: &str| -> Vec<(String, Option<String>)> {
        let cluster = Cluster::read(Path::new(file)).unwrap();
        cluster.nodes.into_iter().map(|node| (node.name, node.url)).collect()
    };
    let nodes = listed(out);
    let want = [("left", "http://198.18.7.1:7700"), ("right", "http://198.18.7.2:7700")];
    assert_eq!(nodes, want.map(|(name, url)| (name.to_owned(), Some(url.to_owned()))));

    // Without a token, it would be written, and those who need one not. A file that cannot be written costs no list.
    let without = folder.join("without.toml");
    let without = without.to_str().unwrap();
    discover(&cable, 0, &["--out", without], |nodes| nodes.len() == 4);
    assert_eq!(listed(without), [("open".to_owned(), Some("http://198.18.7.2:7720".to_owned()))]);
    let (_, output) = search(&cable, 0, &["--out", "/nowhere/cluster.toml"], |nodes| nodes.len() == 4);
    let said = stderr(&output);
    assert_eq!((output.status.code(), said.contains("cannot write /nowhere")), (Some(1), true), "{said}");

    // The same file says whom to measure.
    let output = cable.run(0, &["cluster", "probe", "--cluster", out, "--out", out, "--token-file", &token]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(listed(out), nodes);
    let measured = Cluster::read(Path::new(out)).unwrap();
    assert_eq!((measured.link.bandwidth_bps, measured.link.pairs.len()), (None, 2));

    // Who stops is no longer found.
    assert!(left.terminate().is_some_and(|status| status.success()), "{}", left.last_words());
    discover(&cable, 1, &[], |nodes| names(nodes) == ["open", "right", "stranger"]);
    drop((right, stranger, open));
}

#[test]
fn nobody_announces_what_others_cannot_reach() {
    let open = ["serve", "--announce", "--insecure"];
    for (flags, said) in [
        (&[][..], "cannot reach --listen 127.0.0.1:7700"),
        (&["--listen", "[::1]:0", "--relay", "0.0.0.0:0"], "cannot reach --listen [::1]:0"),
        (&["--listen", "0.0.0.0:0"], "cannot reach --relay 127.0.0.1:7701"),
    ] {
        let output = run(&[&open[..], flags].concat());
        let text = stderr(&output);
        assert_eq!((output.status.code(), text.contains(said)), (Some(2), true), "{flags:?}: {text}");
    }
}

#[test]
fn a_search_without_a_network_says_what_to_look_at() {
    let Some(cable) = Cable::new("alone") else { return };
    let output = cable.run(0, &["cluster", "discover", "--seconds", "0.2"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no node answered within 0.2 s") && text.contains("--announce"), "{text}");
    for flags in [&["--seconds", "0"][..], &["--seconds", "soon"], &["--token-file", "/nowhere"]] {
        assert_eq!(run(&[&["cluster", "discover"], flags].concat()).status.code(), Some(2), "{flags:?}");
    }
}
