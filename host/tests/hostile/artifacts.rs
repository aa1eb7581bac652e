//! Artifacts that no builder of ours wrote, uploaded to a real node and given to it as stages.

use crate::support::chain::Node;
use crate::support::hand::assignment;
use crate::support::hostile::{
    Parts, branch_from, constant_from, default_from, digest, empty_model, external_tensor, function_from, moody,
    section, sections,
};
use crate::support::networks::random_inputs;
use crate::support::raw::{Hello, Raw, data, parts};
use crate::support::{folder, hand};
use defer_host::artifact::{GRAPH, MANIFEST, WEIGHTS};
use defer_host::build::GUEST;
use defer_host::relay::codec::Codec;
use defer_host::relay::frame::{Kind, write_head};
use defer_partition::onnx::proto::SparseTensorProto;
use defer_partition::testing::Random;
use prost::Message as _;
use reqwest::StatusCode;
use serde_json::json;

const PIPELINE: &str = "hostile";

struct Victim {
    node: Node,
    good: (String, Vec<u8>),
    generation: u64,
}

impl Victim {
    fn start(name: &str) -> Self {
        let artifact = Parts::good(PIPELINE).artifact();
        Self {
            node: Node::start(&folder(&format!("victim-{name}")), "victim", &[]),
            good: (digest(&artifact), artifact),
            generation: 0,
        }
    }

    /// Uploads `artifact` and gives it to the node as its stage; the error that must come of it.
    fn refusal(&mut self, what: &str, artifact: Vec<u8>) -> String {
        let digest = digest(&artifact);
        let reply = self.node.upload(&digest, artifact);
        assert_eq!(reply.status, StatusCode::OK, "{what}: the store takes any bytes");
        self.generation += 1;
        let reply = self.node.prepare(PIPELINE, self.generation, &assignment(0, &digest, &json!([])));
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{what}: {}", String::from_utf8_lossy(&reply.body));
        reply.error()
    }

    /// The node still loads, warms up and computes a good stage.
    fn still_serves(&mut self, after: &str) {
        let (digest, artifact) = self.good.clone();
        if !self.node.has_artifact(&digest) {
            assert_eq!(self.node.upload(&digest, artifact).status, StatusCode::OK);
        }
        self.generation += 1;
        let reply = self.node.prepare(PIPELINE, self.generation, &assignment(0, &digest, &json!([])));
        assert_eq!(reply.status, StatusCode::OK, "after {after}: {}", String::from_utf8_lossy(&reply.body));

        let tag = (self.generation, hand::INCARNATION);
        let (mut collect, _) = Raw::open(self.node.relay(), &Hello::new("collect", PIPELINE, tag, 0));
        let hello = Hello::new("feed", PIPELINE, tag, 0);
        collect.send(&write_head(Kind::Credit, &hello.tag(0), &1u32.to_le_bytes(), 0));
        let (mut feed, _) = Raw::open(self.node.relay(), &hello);
        let inputs = random_inputs(&Parts::good(PIPELINE).manifest.inputs, self.generation, 2);
        feed.send(&data(&hello.tag(1), &parts(&inputs, Codec::Raw)));
        let result = collect.result();
        assert_eq!(result.kind, Kind::Data, "after {after}: {}", String::from_utf8_lossy(&result.head));
        assert_eq!(result.tensors()[0].1.shape, [2, 64]);

        assert_eq!(self.node.remove(PIPELINE, self.generation).status, StatusCode::NO_CONTENT);
    }

    fn refuses(&mut self, what: &str, artifact: Vec<u8>, because: &str) {
        let error = self.refusal(what, artifact);
        assert!(error.contains(because), "{what}: {error}");
        self.still_serves(what);
    }
}

#[test]
fn a_component_gets_wasi_nn_and_nothing_else() {
    let mut victim = Victim::start("imports");
    for import in [
        "wasi:clocks/monotonic-clock@0.2.0",
        "wasi:filesystem/preopens@0.2.0",
        "wasi:sockets/tcp@0.2.0",
        "wasi:cli/environment@0.2.0",
        "wasi:nn-too/tensor@0.2.0-rc-2024-10-28",
        "nn",
    ] {
        let component = format!("(component (import \"{import}\" (instance)))");
        let because = format!("the component imports {import}; a stage gets wasi:nn and nothing else");
        victim.refuses(import, Parts::good(PIPELINE).component(&component).artifact(), &because);
    }
    for (what, component, because) in [
        ("a function", "(component (import \"reboot\" (func)))", "imports reboot"),
        (
            "a wasi:nn that there is not",
            "(component (import \"wasi:nn/secrets@0.2.0\" (instance (export \"tell\" (func)))))",
            "wasi:nn/secrets",
        ),
        ("nothing exported", "(component)", "the component is no stage"),
        (
            "another interface exported",
            "(component (instance $i) (export \"defer:stage/runner@0.1.0\" (instance $i)))",
            "the component is no stage",
        ),
    ] {
        victim.refuses(what, Parts::good(PIPELINE).component(component).artifact(), because);
    }
}

#[test]
fn what_is_no_whole_artifact_is_refused() {
    let mut victim = Victim::start("bytes");
    let good = victim.good.1.clone();
    let mut random = Random::new(3);
    let noise: Vec<u8> = (0..5000).map(|_| random.bits() as u8).collect();
    let core = wat::parse_str("(module (memory 1))").unwrap();
    let json = b"{\"format\":1}".to_vec();
    let twice = [&good[..], &section(MANIFEST, b"{}")].concat();
    let custom = sections(GUEST, b"{}", b"", b"");
    let without = |missing: &str| {
        let all = [(MANIFEST, &b"{}"[..]), (GRAPH, b""), (WEIGHTS, b"")];
        let kept = all.into_iter().filter(|(name, _)| *name != missing);
        kept.fold(GUEST.to_vec(), |bytes, (name, payload)| [bytes, section(name, payload)].concat())
    };
    // The guest with that much of something else inside, and sections of that many bytes.
    let oversized = |inside: usize, manifest: usize, graph: usize| {
        let guest = [GUEST, &section("filler", &vec![0; inside])].concat();
        sections(&guest, &vec![b' '; manifest], &vec![0; graph], b"")
    };
    for (what, artifact, because) in [
        ("random bytes", noise, "it is not WebAssembly"),
        ("a text", json, "it is not WebAssembly"),
        ("a core module", core, "it is a core module"),
        ("the guest alone", GUEST.to_vec(), "no defer:manifest section"),
        ("two manifests", twice, "two defer:manifest sections"),
        ("an empty manifest", custom, "malformed defer:manifest section"),
        ("no manifest", without(MANIFEST), "no defer:manifest section"),
        ("no graph", without(GRAPH), "no defer:graph section"),
        ("no weights", without(WEIGHTS), "no defer:weights section"),
        ("a component of 5 MiB", oversized(5 << 20, 2, 0), "its component of"),
        (
            "a manifest of 2 MiB",
            oversized(0, 2 << 20, 0),
            "its defer:manifest of 2097152 bytes is over the limit of 1048576",
        ),
        ("a graph of 9 MiB", oversized(0, 2, 9 << 20), "its defer:graph of 9437184 bytes is over the limit of 8388608"),
    ] {
        victim.refuses(what, artifact, because);
    }
    // Cut short: in the header, the guest, between the sections, in each of them, and by one byte.
    let inside =
        |name: &str| good.windows(name.len()).rposition(|bytes| bytes == name.as_bytes()).unwrap() + name.len() + 5;
    let lengths =
        [1, 4, 8, 100, GUEST.len() / 2, GUEST.len(), inside(MANIFEST), inside(GRAPH), inside(WEIGHTS), good.len() - 1];
    for length in lengths {
        let what = format!("{length} of {} bytes", good.len());
        let error = victim.refusal(&what, good[..length].to_vec());
        assert!(error.contains("not a WASI component") || error.contains("section"), "{what}: {error}");
    }
    victim.still_serves("truncated artifacts");
    // Flipped in the component: whatever that breaks, the node is still there.
    for at in [9, 50, 1000, GUEST.len() / 2, GUEST.len() - 20] {
        let mut bytes = good.clone();
        bytes[at] ^= 0x55;
        let digest = digest(&bytes);
        assert_eq!(victim.node.upload(&digest, bytes).status, StatusCode::OK);
        victim.generation += 1;
        let reply = victim.node.prepare(PIPELINE, victim.generation, &assignment(0, &digest, &json!([])));
        assert!(reply.status.is_success() || reply.status == StatusCode::UNPROCESSABLE_ENTITY, "byte {at}: {reply:?}");
        victim.node.remove(PIPELINE, victim.generation);
    }
    victim.still_serves("flipped bytes");
}

#[test]
fn an_upload_is_what_its_digest_says_or_is_not_kept() {
    let mut victim = Victim::start("digest");
    let (digest, good) = victim.good.clone();
    for at in [0, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        let reply = victim.node.upload(&digest, bytes);
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert!(reply.error().contains("the upload's SHA-256 is"), "{}", reply.error());
        assert!(!victim.node.has_artifact(&digest));
    }
    for name in ["..%2f..%2fetc%2fpasswd", "0123", &"g".repeat(64)] {
        let reply = victim.node.upload(name, good.clone());
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{name}");
        assert!(reply.error().contains("is no SHA-256"), "{}", reply.error());
    }
    let kept = std::fs::read_dir(victim.node.state_dir.join("artifacts")).unwrap().count();
    assert_eq!(kept, 0, "refused uploads leave nothing behind");
    victim.still_serves("damaged uploads");
}

#[test]
fn a_manifest_that_contradicts_its_file_is_refused() {
    let mut victim = Victim::start("manifest");
    type Change = fn(&mut Parts);
    let cases: [(&str, Change, &str); 9] = [
        ("another format", |p| p.manifest.format = 2, "artifact format 2, this version reads 1"),
        ("stage 3 of 2", |p| (p.manifest.index, p.manifest.count) = (3, 2), "it is stage 3 of 2"),
        ("another index", |p| (p.manifest.index, p.manifest.count) = (1, 2), "is stage 1 of pipeline \"hostile\""),
        ("another pipeline", |p| p.manifest.pipeline = "other".into(), "is stage 0 of pipeline \"other\""),
        ("another input", |p| p.manifest.inputs[0].name = "z".into(), "the slice's inputs are {\"x\"}"),
        ("another output", |p| p.manifest.outputs[0].name = "z".into(), "the slice's outputs are {\"y\"}"),
        ("a warm-up too few", |p| p.manifest.warm_up.clear(), "0 warm-up shapes for 1 inputs"),
        ("a warm-up of another rank", |p| p.manifest.warm_up[0] = vec![64], "does not fit input"),
        ("an endless warm-up", |p| p.manifest.warm_up[0] = vec![usize::MAX, 64], "does not fit input"),
    ];
    for (what, change, because) in cases {
        let mut parts = Parts::good(PIPELINE);
        change(&mut parts);
        victim.refuses(what, parts.artifact(), because);
    }
    // The sizes are written by the artifact's own writer: they are falsified in the finished file.
    let good = Parts::good(PIPELINE).artifact();
    for (what, because) in
        [("graph_bytes", "it declares a graph of"), ("weights_bytes", "bytes of weights, the file has")]
    {
        let key = format!("\"{what}\":");
        let at = good.windows(key.len()).position(|bytes| bytes == key.as_bytes()).unwrap() + key.len();
        let mut wrong = good.clone();
        wrong[at] = if wrong[at] == b'9' { b'8' } else { wrong[at] + 1 };
        victim.refuses(what, wrong, because);
    }
    // A warm-up that would need all memory there is: an error, not the end of the process.
    let mut huge = Parts::good(PIPELINE);
    huge.manifest.warm_up[0] = vec![1 << 50, 64];
    victim.refuses("a warm-up of 2^58 bytes", huge.artifact(), "is the limit (serve --max-tensor-mb)");
}

#[test]
fn a_graph_reads_no_file_but_its_own_weights() {
    let mut victim = Victim::start("graph");
    let good = || Parts::good(PIPELINE);
    let passwd = "/etc/passwd";
    for (what, parts, because) in [
        ("an absolute path", good().external("location", passwd), "lies in \"/etc/passwd\""),
        ("the folder above", good().external("location", "../x"), "lies in \"../x\""),
        ("a file beside it", good().external("location", "other.wasm"), "lies in \"other.wasm\""),
        ("no place", good().external("location", ""), "lies in \"\""),
        ("beyond the section", good().external("offset", "64"), "of a section of"),
        ("far beyond", good().external("offset", "18446744073709551615"), "of a section of"),
        ("a negative offset", good().external("offset", "-64"), "at offset \"-64\""),
        ("a shorter length", good().external("length", "16380"), "which is not what its type and shape need"),
        ("a length of 2^60", good().external("length", "1152921504606846976"), "of a section of"),
        ("an unknown entry", good().external("basepath", "/etc"), "behind an unknown entry \"basepath\""),
    ] {
        victim.refuses(what, parts.artifact(), because);
    }
    type Change = fn(&mut Parts);
    let nested = "outside the graph's own initializers";
    let cases: [(&str, Change, &str); 9] = [
        ("in a function", |p| p.slice.model.functions.push(function_from("/etc/passwd")), nested),
        ("as a default in a function", |p| p.slice.model.functions.push(default_from("weights")), nested),
        ("in a Constant", |p| p.graph().node.push(constant_from("/etc/passwd")), nested),
        ("in a branch", |p| p.graph().node.push(branch_from("/etc/passwd")), nested),
        ("in a branch, its own section", |p| p.graph().node.push(branch_from("weights")), nested),
        (
            "in a branch of a branch",
            |p| {
                let mut outer = branch_from("weights");
                let graph = outer.attribute[0].g.as_mut().unwrap();
                graph.initializer.clear();
                graph.node.push(branch_from("../x"));
                outer.attribute.pop();
                p.graph().node.push(outer);
            },
            nested,
        ),
        (
            "in a sparse tensor",
            |p| {
                let values = Some(external_tensor("/etc/passwd"));
                p.graph().sparse_initializer.push(SparseTensorProto { values, ..Default::default() });
            },
            nested,
        ),
        ("no model at all", |p| p.slice.model = empty_model(), "stage 0"),
        ("no entries", |p| p.weight().external_data.clear(), "lies in \"\""),
    ];
    for (what, change, because) in cases {
        let mut parts = good();
        change(&mut parts);
        victim.refuses(what, parts.artifact(), because);
    }
    let text = String::from_utf8(serde_json::to_vec(&good().manifest).unwrap()).unwrap();
    for (what, graph) in [
        ("not protobuf", vec![0xff; 40]),
        ("no graph", Vec::new()),
        ("a broken one", {
            let mut bytes = good().slice.model.encode_to_vec();
            bytes.truncate(bytes.len() / 2);
            bytes
        }),
    ] {
        let manifest = text.replace("\"graph_bytes\":0", &format!("\"graph_bytes\":{}", graph.len()));
        victim.refuses(what, sections(GUEST, manifest.as_bytes(), &graph, b""), "malformed defer:graph section");
    }
}

#[test]
fn a_stage_is_prepared_only_as_what_it_is() {
    let mut victim = Victim::start("assignment");
    let (digest, artifact) = victim.good.clone();
    let error = victim.node.prepare(PIPELINE, 1, &assignment(0, &digest, &json!([])));
    assert_eq!(error.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(error.error().contains(&format!("artifact {digest} is not on this node")), "{}", error.error());

    assert_eq!(victim.node.upload(&digest, artifact).status, StatusCode::OK);
    let hop = json!([{"relay": "127.0.0.1:1", "stage": 1}]);
    let two = json!([{"relay": "127.0.0.1:1", "stage": 1}, {"relay": "127.0.0.1:2", "stage": 2}]);
    let many = json!(vec![hop[0].clone(); 257]);
    for (pipeline, body, because) in [
        (PIPELINE, assignment(0, &digest, &two), "it is to send to stage 2, the next one is 1"),
        (PIPELINE, assignment(0, &digest, &many), "257 next nodes are given, 256 are possible"),
        (PIPELINE, assignment(1, &digest, &json!([])), "is stage 0 of pipeline \"hostile\""),
        ("other", assignment(0, &digest, &json!([])), "is stage 0 of pipeline \"hostile\""),
        (PIPELINE, assignment(0, &digest, &hop), "only the last has no next node"),
    ] {
        let reply = victim.node.prepare(pipeline, 2, &body);
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{because}");
        assert!(reply.error().contains(because), "{}", reply.error());
    }
    for body in [json!({}), json!([1]), json!({"dispatcher": 3}), assignment(0, "12", &json!([]))] {
        let reply = victim.node.prepare(PIPELINE, 2, &body);
        assert!(reply.status.is_client_error(), "{body}");
        assert!(!reply.error().is_empty());
    }
    assert_eq!(victim.node.stages(), [] as [serde_json::Value; 0]);

    // One dispatcher has it; another one may not take it, nor may the first change what a generation is.
    let mine = assignment(0, &digest, &json!([]));
    assert_eq!(victim.node.prepare(PIPELINE, 3, &mine).status, StatusCode::OK);
    assert_eq!(victim.node.prepare(PIPELINE, 3, &mine).status, StatusCode::OK, "the same again renews the lease");
    let mut theirs = mine.clone();
    theirs["dispatcher"] = json!({"name": "usurper", "incarnation": 1});
    for generation in [3, 4] {
        let reply = victim.node.prepare(PIPELINE, generation, &theirs);
        assert_eq!(reply.status, StatusCode::CONFLICT);
        assert!(reply.error().contains("belongs to dispatcher \"by hand\""), "{}", reply.error());
    }
    let mut changed = mine.clone();
    changed["stages"][0]["codec"] = json!("lz4");
    let reply = victim.node.prepare(PIPELINE, 3, &changed);
    assert_eq!(reply.status, StatusCode::CONFLICT);
    assert!(reply.error().contains("exists with other stages"), "{}", reply.error());
    assert_eq!(victim.node.remove(PIPELINE, 9).status, StatusCode::NOT_FOUND);
    assert_eq!(victim.node.remove(PIPELINE, 3).status, StatusCode::NO_CONTENT);
    victim.still_serves("quarrels over it");
}

#[test]
fn a_component_that_fails_its_warm_up_is_refused() {
    let mut victim = Victim::start("warm-up");
    // In the first run instead of the second.
    let at_once = |mood: &str| moody(mood).replace("(i32.const 2)) (then", "(i32.const 1)) (then");
    for (what, mood, because) in [
        ("a trap", "unreachable", "the stage failed its warm-up: the component trapped"),
        ("a loop", "(loop $for_ever (br $for_ever))", "ms itself, 1000 ms are allowed"),
        ("hunger", "(drop (memory.grow (i32.const 1000)))", "the component trapped"),
        ("nothing returned", "(return (i32.const 512))", "the component returned no tensor"),
    ] {
        victim.refuses(what, Parts::good(PIPELINE).component(&at_once(mood)).artifact(), because);
    }
    // In `init` already.
    let endless = moody("").replace("(call $load (i32.const 16)", "(loop $l (br $l)) (call $load (i32.const 16)");
    victim.refuses(
        "a loop in init",
        Parts::good(PIPELINE).component(&endless).artifact(),
        "the component did not start",
    );
    let huge = moody("").replace("(memory (export \"memory\") 2)", "(memory (export \"memory\") 1000)");
    victim.refuses("too much memory", Parts::good(PIPELINE).component(&huge).artifact(), "the component did not start");
    let wrong_name = moody("").replace("\"slice\"", "\"other\"");
    victim.refuses("another graph", Parts::good(PIPELINE).component(&wrong_name).artifact(), "stage 0");
}
