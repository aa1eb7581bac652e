//! The relay port of a node that serves, abused in every way that a socket allows.

use crate::support::chain::{Chain, Node};
use crate::support::hand::{self, ByHand};
use crate::support::networks::{Staged, assert_same, ladder, random_inputs, stage, tour};
use crate::support::raw::{Hello, Raw, data, parts};
use defer_host::relay::codec::Codec;
use defer_host::relay::frame::{FIXED, FailureKind, Kind, PipelineId, Tag, data_head, write_head};
use serde_json::json;
use std::net::TcpStream;

fn still_answers(chain: &Chain, staged: &Staged, after: &str) {
    let inputs = staged.inputs(4, 2);
    let got = chain.infer(&inputs).unwrap_or_else(|refusal| panic!("after {after}: {refusal:?}"));
    assert_same(&got, &staged.whole(&inputs), after);
}

/// A hello frame with one field of its fixed part replaced.
fn altered(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = write_head(Kind::Hello, &Tag::default(), b"{}", 0);
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

#[test]
fn strangers_are_cut_off_with_the_reason() {
    let staged = stage("strangers", &ladder(4), 3, &[]);
    let chain = Chain::start("strangers", &staged);
    let hello = |json: &str| write_head(Kind::Hello, &Tag::default(), json.as_bytes(), 0);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("random bytes", (0..400u32).map(|i| ((i * i) >> 3) as u8 | 1).collect(), "no relay frame"),
        ("HTTP", b"GET /v1/node HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "begins with [47, 45, 54, 20]"),
        ("TLS", [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3].to_vec(), "no relay frame"),
        ("one wrong byte", b"x".to_vec(), "no relay frame"),
        ("another magic", altered(0, b"DFRX"), "no relay frame"),
        ("another version", altered(4, &9u16.to_le_bytes()), "speaks relay protocol version 9, this node version 1"),
        ("another kind", altered(6, &[77]), "unknown frame kind 77"),
        ("a head of 4 GiB", altered(44, &u32::MAX.to_le_bytes()), "a frame's head of 4294967295 is over the limit"),
        ("a body of 2^60", altered(72, &(1u64 << 60).to_le_bytes()), "checksum of the frame's head"),
        (
            "a hello with a body of 2^60",
            write_head(Kind::Hello, &Tag::default(), b"{}", 1 << 60),
            "only data frames have a body",
        ),
        ("a wrong checksum", altered(80, &[1; 8]), "checksum of the frame's head"),
    ];
    for (index, (what, bytes, because)) in cases.into_iter().enumerate() {
        // Any node, first, middle or last.
        let mut raw = Raw::connect(chain.nodes[index % 3].relay());
        raw.send(&bytes);
        let said = raw.until_closed();
        assert!(said.contains(because), "{what}: {said}");
        still_answers(&chain, &staged, what);
    }
    // Well-formed frames that are no hello; and hellos that are none. No word is promised to these, only the end.
    let tag = Hello::new("feed", staged.name(), chain.tag(), 0).tag(1);
    let inputs = parts(&staged.inputs(1, 2), Codec::Raw);
    for (what, bytes) in [
        ("data before hello", data(&tag, &inputs)),
        ("credit before hello", write_head(Kind::Credit, &tag, &9u32.to_le_bytes(), 0)),
        ("a ping before hello", write_head(Kind::Ping, &tag, b"", 0)),
        ("a failure before hello", write_head(Kind::Error, &tag, b"{}", 0)),
        ("a hello that is no JSON", hello("hello")),
        ("a hello without fields", hello("{}")),
        ("a hello of another type", hello("[1,2,3]")),
    ] {
        let mut raw = Raw::connect(chain.nodes[0].relay());
        raw.send(&bytes);
        raw.until_closed();
        still_answers(&chain, &staged, what);
    }
    // Cut off in the middle of a frame, at every kind of place.
    let whole = data(&tag, &inputs);
    for length in [1, 3, 4, 40, FIXED - 1, FIXED, FIXED + 5, whole.len() - 1] {
        let mut raw = Raw::connect(chain.nodes[0].relay());
        raw.send(&whole[..length]);
        raw.finish();
        raw.until_closed();
    }
    still_answers(&chain, &staged, "frames cut short");
}

#[test]
fn a_hello_for_what_is_not_there_is_refused() {
    let staged = stage("hellos", &ladder(4), 2, &[]);
    let chain = Chain::start("hellos", &staged);
    let (generation, incarnation) = chain.tag();
    let name = staged.name();
    for (hello, because) in [
        (
            Hello::new("feed", name, (generation + 1, incarnation), 0),
            "no generation 2 of pipeline \"hellos\" is on this node",
        ),
        (Hello::new("feed", "other", (generation, incarnation), 0), "no generation 1 of pipeline \"other\""),
        (Hello::new("feed", name, (generation, incarnation ^ 1), 0), "belongs to another dispatcher incarnation"),
        (Hello::new("feed", name, (generation, incarnation), 1), "stage 1 of pipeline \"hellos\" is not on this node"),
        (Hello::new("feed", name, (generation, incarnation), usize::MAX >> 1), "is not on this node"),
        (Hello::new("collect", name, (generation, incarnation), 0), "only the last is collected"),
    ] {
        let mut raw = Raw::connect(chain.nodes[0].relay());
        let word = raw.handshake(&hello).expect("a refusal");
        let cause = word.failure().cause.join(": ");
        assert!(cause.contains(because), "{hello:?}: {cause}");
        assert!(raw.receive().is_none(), "the connection ends after a refusal");
        still_answers(&chain, &staged, because);
    }
    // A role that there is not: the hello cannot be read.
    let mut raw = Raw::connect(chain.nodes[0].relay());
    let said = json!({
        "protocol": 1, "name": "x", "role": "rule", "pipeline": name, "generation": generation,
        "incarnation": incarnation, "stage": 0, "nonce": "",
    });
    raw.send(&write_head(Kind::Hello, &Tag::default(), said.to_string().as_bytes(), 0));
    raw.until_closed();
    still_answers(&chain, &staged, "an unknown role");
}

#[test]
fn a_feeder_that_breaks_the_rules_is_cut_off() {
    let staged = stage("feeders", &ladder(4), 2, &[]);
    let chain = Chain::start("feeders", &staged);
    let hello = Hello::new("feed", staged.name(), chain.tag(), 0);
    // A number of request that the dispatcher never gives.
    let tag = hello.tag(1 << 40);
    let inputs = staged.inputs(1, 2);
    let good = parts(&inputs, Codec::Raw);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "another pipeline",
            data(&Tag { pipeline: PipelineId::of("other"), ..tag }, &good),
            "a frame of another pipeline",
        ),
        ("another generation", data(&Tag { generation: 99, ..tag }, &good), "a frame of generation 99"),
        ("another incarnation", data(&Tag { incarnation: 5, ..tag }, &good), "a frame of dispatcher incarnation 5"),
        (
            "a body of 2^60",
            write_head(Kind::Data, &tag, &data_head(&good), 1 << 60),
            "its body has 1152921504606846976",
        ),
        ("a second hello", write_head(Kind::Hello, &tag, b"{}", 0), "a handshake frame where data was due"),
        (
            "credit from a feeder",
            write_head(Kind::Credit, &tag, &1u32.to_le_bytes(), 0),
            "a handshake frame where data was due",
        ),
        ("an error that is no JSON", write_head(Kind::Error, &tag, b"oh", 0), "malformed Error frame"),
        ("noise after a hello", vec![0xee; 300], "no relay frame"),
    ];
    for (what, bytes, because) in cases {
        let (mut raw, _) = Raw::open(chain.nodes[0].relay(), &hello);
        raw.send(&bytes);
        let said = raw.until_closed();
        assert!(said.contains(because), "{what}: {said}");
        still_answers(&chain, &staged, what);
    }
    // More frames at once than credit was given. They are not read in time for any of them to be taken up.
    let (mut raw, credit) = Raw::open(chain.nodes[0].relay(), &hello);
    let frame = data(&tag, &parts(&random_inputs(&staged.pipeline.inputs, 1, 2000), Codec::Raw));
    for _ in 0..credit + 60 {
        raw.send(&frame);
    }
    let said = raw.until_closed();
    assert!(said.contains("more were sent than credit was given"), "{said}");
    still_answers(&chain, &staged, "more than credit");
}

#[test]
fn a_frame_that_cannot_be_taken_fails_its_request_and_not_the_connection() {
    let staged = stage("unfit", &ladder(4), 2, &[]);
    let mut chain = ByHand::start("unfit", &staged, &[]);
    let inputs = staged.inputs(1, 2);
    let want = staged.whole(&inputs);
    let good = parts(&inputs, Codec::Raw);
    let tag = chain.hello().tag(1000);
    let head = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut head = data_head(&good);
        change(&mut head);
        let body: u64 = good.iter().map(|part| part.tensor.data.len() as u64).sum();
        let mut bytes = write_head(Kind::Data, &tag, &head, body);
        good.iter().for_each(|part| bytes.extend(&part.tensor.data));
        bytes
    };
    let put = |at: usize, value: u64| move |head: &mut Vec<u8>| head[at..at + 8].copy_from_slice(&value.to_le_bytes());
    let twice: Vec<_> = good.iter().chain(&good).cloned().collect();
    let too_large = head(&|head| {
        head[10..18].copy_from_slice(&(2_000_000u64 * 256).to_le_bytes());
        head[26..34].copy_from_slice(&2_000_000u64.to_le_bytes());
    });
    let parameters = head(&|head| {
        head[8] = 4;
        head.extend([0; 4]);
    });
    // Offsets in the head: count 0, name 2, dtype 4, rank 5, codec 6, parameters 8, length 10, checksum 18, dims 26.
    for (what, bytes, because) in [
        ("a tensor of 2^60 bytes", head(&put(10, 1 << 60)), "of 1152921504606846976 is over the limit"),
        ("a dimension of 2^60", head(&put(26, 1 << 60)), "a tensor's bytes of 18446744073709551615 is over the limit"),
        ("a dimension of 2^40", head(&put(26, 1 << 40)), "(serve --max-tensor-mb)"),
        ("a rank of 200", head(&|head| head[5] = 200), "a tensor of rank 200"),
        ("an unknown type", head(&|head| head[4] = 8), "unknown element type 8"),
        ("an unknown codec", head(&|head| head[6] = 99), "unknown codec 99"),
        ("parameters that are not there", head(&|head| head[8] = 4), "its head ends early"),
        ("parameters", parameters, "codec raw takes no parameters"),
        ("more tensors than enter", data(&tag, &twice), "a frame's number of tensors of 2 is over the limit of 1"),
        ("a count of 65535", head(&|head| head[..2].fill(0xff)), "its head ends early"),
        ("a head that goes on", head(&|head| head.push(0)), "bytes follow its last tensor"),
        ("a tensor of 512 MB", too_large, "(serve --max-tensor-mb)"),
    ] {
        chain.feed.send(&bytes);
        let result = chain.collect.result();
        assert_eq!((result.kind, result.tag.seq), (Kind::Error, tag.seq), "{what}");
        let failure = result.failure();
        let cause = failure.cause.join(": ");
        assert_eq!(
            (failure.kind, failure.stage, failure.node.as_str()),
            (FailureKind::Invalid, 0, "n0"),
            "{what}: {cause}"
        );
        assert!(cause.contains(because), "{what}: {cause}");
        let result = chain.ask(&inputs);
        assert_same(&chain.outputs(&result), &want, what);
    }
}

#[test]
fn a_damaged_tensor_fails_its_request_and_not_the_connection() {
    let staged = stage("damaged", &tour(), 0, &["t2", "chosen"]);
    let mut chain = ByHand::start("damaged", &staged, &[]);
    let inputs = staged.inputs(1, 2);
    let want = staged.whole(&inputs);
    let check = |chain: &mut ByHand, after: &str| {
        let result = chain.ask(&inputs);
        assert_same(&chain.outputs(&result), &want, after);
    };
    check(&mut chain, "nothing");
    let entering: Vec<String> = {
        let stage = &staged.pipeline.stages[0];
        let mut names: Vec<String> = stage.inputs.iter().chain(&stage.forwards).map(|info| info.name.clone()).collect();
        names.sort();
        names.dedup();
        names
    };
    for (number, name) in entering.iter().enumerate() {
        let mut damaged = parts(&inputs, Codec::Raw);
        damaged[number].tensor.checksum ^= 1;
        let tag = chain.hello().tag(1000 + number as u64);
        chain.feed.send(&data(&tag, &damaged));
        // On to the end, through the stages after the one that noticed.
        let result = chain.collect.result();
        assert_eq!((result.kind, result.tag.seq), (Kind::Error, tag.seq));
        let failure = result.failure();
        assert_eq!(failure.kind, FailureKind::Damaged, "{failure:?}");
        // A tensor that the first stage only passes on is not unpacked there.
        let noticed =
            staged.pipeline.stages.iter().position(|stage| stage.inputs.iter().any(|info| info.name == *name));
        assert_eq!((Some(failure.stage), failure.node), (noticed, format!("n{}", noticed.unwrap())));
        let cause = failure.cause.join(": ");
        assert!(cause.contains(&format!("tensor \"{name}\": checksum of the encoded bytes")), "{cause}");
        check(&mut chain, "a damaged tensor");
    }
    // Bytes of the body damaged on the way; a frame that lost a tensor, has one of another type, twice, or LZ4 that is
    // none.
    let tag = chain.hello().tag(2000);
    let mut flipped = data(&tag, &parts(&inputs, Codec::Raw));
    *flipped.last_mut().unwrap() ^= 0x40;
    let mut short = parts(&inputs, Codec::Raw);
    short.remove(0);
    let mut retyped = parts(&inputs, Codec::Raw);
    retyped[0].tensor.dtype = defer_partition::DType::Int32;
    let mut garbled = parts(&inputs, Codec::Raw);
    garbled[0].tensor.codec = Codec::Lz4;
    let mut doubled = parts(&inputs, Codec::Raw);
    doubled[1].name = 0;
    for (what, frame, kind, because) in [
        ("a flipped bit", flipped, FailureKind::Damaged, "checksum of the encoded bytes"),
        ("a tensor too few", data(&tag, &short), FailureKind::Invalid, "no tensor \"a\" FP32[2, 3]"),
        ("another type", data(&tag, &retyped), FailureKind::Invalid, "INT32[2, 3]"),
        ("no LZ4", data(&tag, &garbled), FailureKind::Damaged, "lz4"),
        ("a tensor twice", data(&tag, &doubled), FailureKind::Invalid, "twice"),
    ] {
        chain.feed.send(&frame);
        let failure = chain.collect.result().failure();
        let cause = failure.cause.join(": ");
        assert!(cause.contains(because), "{what}: {cause}");
        assert_eq!((failure.kind, failure.stage), (kind, 0), "{what}: {cause}");
        check(&mut chain, what);
    }
}

#[test]
fn a_collector_that_breaks_the_rules_is_told_and_the_next_one_gets_what_is_there() {
    let staged = stage("collectors", &ladder(4), 2, &[]);
    let mut chain = ByHand::start("collectors", &staged, &[]);
    let inputs = staged.inputs(1, 2);
    let want = staged.whole(&inputs);
    let tag = chain.hello().tag(0);
    let credit = |frames: u32| write_head(Kind::Credit, &tag, &frames.to_le_bytes(), 0);
    for (what, bytes, because) in [
        ("boundless credit", credit(u32::MAX), "boundless credit"),
        ("credit that adds up", credit(60_000).repeat(2), "boundless credit"),
        ("credit of five bytes", write_head(Kind::Credit, &tag, &[0; 5], 0), "its head is not 4 bytes long"),
        ("data", data(&tag, &parts(&inputs, Codec::Raw)), "a data frame where credit was due"),
        ("a second hello", write_head(Kind::Hello, &tag, b"{}", 0), "a data frame where credit was due"),
        ("noise", vec![0xee; 300], "no relay frame"),
    ] {
        // Something waits for whoever collects.
        let (seq, frame) = chain.frame(&inputs);
        chain.feed.send(&frame);
        let result = chain.collect.result();
        assert_eq!(result.tag.seq, seq, "{what}");
        chain.collect.send(&bytes);
        let said = chain.collect.until_closed();
        assert!(said.contains(because), "{what}: {said}");
        chain.collect_again();
        let result = chain.ask(&inputs);
        assert_same(&chain.outputs(&result), &want, what);
    }
}

#[test]
fn a_time_budget_that_is_used_up_ends_a_request_on_its_way() {
    let staged = stage("budget", &ladder(4), 2, &[]);
    let mut chain = ByHand::start("budget", &staged, &[]);
    let inputs = staged.inputs(1, 2);
    let tag = Tag { budget_us: 1, ..chain.hello().tag(77) };
    chain.feed.send(&data(&tag, &parts(&inputs, Codec::Raw)));
    let result = chain.collect.result();
    assert_eq!((result.tag.seq, result.failure().kind), (77, FailureKind::Expired));
    assert_eq!(chain.ask(&inputs).kind, Kind::Data);
}

#[test]
fn every_field_of_a_tag_arrives_at_the_end() {
    let staged = stage("tags", &ladder(4), 3, &[]);
    let mut chain = ByHand::start("tags", &staged, &[]);
    let inputs = staged.inputs(1, 2);
    let tag = Tag { attempt: 3, trace: u128::MAX / 3, budget_us: 60_000_000, ..chain.hello().tag(u64::MAX) };
    chain.feed.send(&data(&tag, &parts(&inputs, Codec::Lz4)));
    let got = chain.collect.result().tag;
    assert!(got.budget_us > 0 && got.budget_us < tag.budget_us, "{} µs are left", got.budget_us);
    assert_eq!(Tag { budget_us: 0, ..got }, Tag { budget_us: 0, ..tag });
    // A connection that broke off in the middle of a frame: the next one goes on.
    let (_, frame) = chain.frame(&inputs);
    chain.feed.send(&frame[..frame.len() / 2]);
    chain.feed.finish();
    chain.feed.until_closed();
    chain.feed_again();
    let result = chain.ask(&inputs);
    assert_same(&chain.outputs(&result), &staged.whole(&inputs), "after a truncated frame");
}

#[test]
fn the_token_is_proved_and_never_sent() {
    let folder = crate::support::folder("relay-token");
    let file = folder.join("token");
    std::fs::write(&file, "a long secret\n").unwrap();
    let staged = stage("guarded", &ladder(4), 2, &[]);
    let file = file.to_str().unwrap();
    let chain = {
        let serve = ["--token-file", file];
        let nodes = (0..2).map(|index| Node::start(&folder, &format!("n{index}"), &serve)).collect();
        Chain::over(nodes, &staged, &["--token-file", file])
    };
    // The admin port is guarded too: the generation is the first, and the incarnation is not told to strangers.
    let guess = Hello::new("feed", staged.name(), (1, hand::INCARNATION), 0);
    for token in ["", "wrong"] {
        let mut raw = Raw::connect(chain.nodes[0].relay());
        let mut hello = guess.clone();
        // What the stranger proves with; the node's own proof cannot be checked with it.
        hello.token = token.as_bytes().to_vec();
        let word = raw.handshake_unchecked(&hello).expect("a refusal");
        assert!(word.failure().cause.join(": ").contains("wrong token"), "{word:?}");
        assert!(raw.receive().is_none());
        still_answers(&chain, &staged, "a wrong token");
    }
    let mut raw = Raw::connect(chain.nodes[0].relay());
    let right = Hello { token: b"a long secret".to_vec(), ..guess };
    let word = raw.handshake(&right).expect("a word");
    assert!(word.failure().cause.join(": ").contains("another dispatcher incarnation"), "{word:?}");
}

#[test]
fn idle_connections_cost_nobody_his_turn() {
    let staged = stage("idle", &ladder(4), 2, &[]);
    let chain = Chain::start("idle", &staged);
    let hello = Hello::new("feed", staged.name(), chain.tag(), 0);
    let silent: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(chain.nodes[0].relay()).unwrap()).collect();
    let introduced: Vec<(Raw, u32)> = (0..20).map(|_| Raw::open(chain.nodes[0].relay(), &hello)).collect();
    for _ in 0..5 {
        still_answers(&chain, &staged, "220 idle connections");
    }
    drop((silent, introduced));
    still_answers(&chain, &staged, "their end");
}
