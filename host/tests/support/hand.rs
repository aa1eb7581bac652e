//! A dispatcher by hand: the test itself gives nodes their stages, feeds the first and collects from the last.

use super::chain::Node;
use super::folder;
use super::networks::Staged;
use super::raw::{Hello, Raw, Received, data, parts};
use defer_host::engine::Named;
use defer_host::relay::codec::Codec;
use defer_host::relay::frame::{Kind, write_head};
use serde_json::{Value, json};

pub const INCARNATION: u64 = 0x5eed;
pub const GENERATION: u64 = 7;

/// The body that gives a node one stage.
pub fn assignment(index: usize, digest: &str, next: &Value) -> Value {
    json!({
        "dispatcher": {"name": "by hand", "incarnation": INCARNATION},
        "lease_ms": 600_000,
        "stages": [{"index": index, "artifact": digest, "next": next, "codec": "raw"}],
    })
}

/// Nodes that run a pipeline, and the connections of whoever plays the dispatcher.
pub struct ByHand {
    pub nodes: Vec<Node>,
    pub feed: Raw,
    pub collect: Raw,
    staged: Staged,
    seq: u64,
}

impl ByHand {
    pub fn start(name: &str, staged: &Staged, serve: &[&str]) -> Self {
        Self::start_with(name, staged, serve, |_| "raw")
    }

    /// The same with a codec for each stage's outgoing hop.
    pub fn start_with(name: &str, staged: &Staged, serve: &[&str], codec: impl Fn(usize) -> &'static str) -> Self {
        let folder = folder(&format!("by-hand-{name}"));
        let count = staged.pipeline.stages.len();
        let nodes: Vec<Node> = (0..count).map(|index| Node::start(&folder, &format!("n{index}"), serve)).collect();
        for (index, stage) in staged.pipeline.stages.iter().enumerate() {
            let digest = stage.digest.to_string();
            let reply = nodes[index].upload(&digest, staged.artifact(index));
            assert!(reply.status.is_success(), "{}", reply.error());
            let next = match nodes.get(index + 1) {
                Some(node) => json!([{"relay": node.relay(), "stage": index + 1}]),
                None => json!([]),
            };
            let mut body = assignment(index, &digest, &next);
            body["stages"][0]["codec"] = json!(codec(index));
            let reply = nodes[index].prepare(staged.name(), GENERATION, &body);
            assert!(reply.status.is_success(), "{}", reply.error());
        }
        let feed = feeder(staged, &nodes);
        let collect = collector(staged, &nodes);
        Self { nodes, feed, collect, staged: staged.clone(), seq: 0 }
    }

    pub fn hello(&self) -> Hello {
        hello(&self.staged)
    }

    /// The frame of another request.
    pub fn frame(&mut self, inputs: &[Named]) -> (u64, Vec<u8>) {
        self.seq += 1;
        (self.seq, data(&self.hello().tag(self.seq), &parts(inputs, Codec::Raw)))
    }

    /// Sends a request and waits for what comes out at the end.
    pub fn ask(&mut self, inputs: &[Named]) -> Received {
        let (seq, frame) = self.frame(inputs);
        self.feed.send(&frame);
        let result = self.collect.result();
        assert_eq!(result.tag.seq, seq);
        result
    }

    /// The outputs that a result holds, by name.
    pub fn outputs(&self, result: &Received) -> Vec<Named> {
        let last = self.staged.pipeline.stages.last().expect("a pipeline has stages");
        let mut names: Vec<&String> = last.outputs.iter().chain(&last.forwards).map(|info| &info.name).collect();
        names.sort();
        names.dedup();
        let tensors = result.tensors().into_iter();
        tensors.map(|(number, tensor)| (names[usize::from(number)].clone(), tensor)).collect()
    }

    /// A new connection to the last stage, in the place of the one that was spent.
    pub fn collect_again(&mut self) {
        self.collect = collector(&self.staged, &self.nodes);
    }

    /// A new connection to the first stage, in the place of the one that was spent.
    pub fn feed_again(&mut self) {
        self.feed = feeder(&self.staged, &self.nodes);
    }
}

fn collector(staged: &Staged, nodes: &[Node]) -> Raw {
    let last = Hello::new("collect", staged.name(), (GENERATION, INCARNATION), nodes.len() - 1);
    let (mut collect, _) = Raw::open(nodes[nodes.len() - 1].relay(), &last);
    // Room for more results than any test asks for.
    collect.send(&write_head(Kind::Credit, &last.tag(0), &1000u32.to_le_bytes(), 0));
    collect
}

fn hello(staged: &Staged) -> Hello {
    Hello::new("feed", staged.name(), (GENERATION, INCARNATION), 0)
}

fn feeder(staged: &Staged, nodes: &[Node]) -> Raw {
    let (feed, credit) = Raw::open(nodes[0].relay(), &hello(staged));
    assert!(credit > 0);
    feed
}
