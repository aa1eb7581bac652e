//! A stage that may misbehave, on a node that serves others.

use super::chain::Node;
use super::hand::{self, assignment};
use super::hostile::{Parts, digest};
use super::raw::{Hello, Raw, Received, data, parts};
use defer_host::engine::Named;
use defer_host::relay::codec::Codec;
use defer_host::relay::frame::{Kind, write_head};
use reqwest::StatusCode;
use serde_json::json;

/// A stage that is fed and collected by hand.
pub struct OnTrial {
    hello: Hello,
    feed: Raw,
    collect: Raw,
    seq: u64,
}

impl OnTrial {
    /// Uploads and prepares it; the node's refusal where it does not take it.
    pub fn start(node: &Node, name: &str, stage: &Parts) -> Result<Self, String> {
        let artifact = stage.artifact();
        let digest = digest(&artifact);
        assert_eq!(node.upload(&digest, artifact).status, StatusCode::OK);
        let reply = node.prepare(name, hand::GENERATION, &assignment(0, &digest, &json!([])));
        if reply.status != StatusCode::OK {
            assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{name}: {reply:?}");
            return Err(reply.error());
        }
        let tag = (hand::GENERATION, hand::INCARNATION);
        let (mut collect, _) = Raw::open(node.relay(), &Hello::new("collect", name, tag, 0));
        let hello = Hello::new("feed", name, tag, 0);
        collect.send(&write_head(Kind::Credit, &hello.tag(0), &100u32.to_le_bytes(), 0));
        let (feed, _) = Raw::open(node.relay(), &hello);
        Ok(Self { hello, feed, collect, seq: 0 })
    }

    /// One request.
    pub fn ask(&mut self, inputs: &[Named]) -> Received {
        self.seq += 1;
        self.feed.send(&data(&self.hello.tag(self.seq), &parts(inputs, Codec::Raw)));
        let result = self.collect.result();
        assert_eq!(result.tag.seq, self.seq);
        result
    }
}
