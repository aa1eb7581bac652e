//! A peer of the relay port that can break every rule: raw bytes over a socket.

use defer_host::buffer::Pool;
use defer_host::relay::codec::{self, Codec};
use defer_host::relay::frame::{self, FIXED, Failure, Kind, Part, PipelineId, Tag};
use defer_partition::Tensor;
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// Longer than the handshake's own deadline.
const PATIENCE: Duration = Duration::from_secs(40);

/// A frame as it came.
#[derive(Debug)]
pub struct Received {
    pub kind: Kind,
    pub tag: Tag,
    pub head: Vec<u8>,
    pub body: Vec<u8>,
}

impl Received {
    pub fn failure(&self) -> Failure {
        assert_eq!(self.kind, Kind::Error);
        serde_json::from_slice(&self.head).expect("an error frame's head is JSON")
    }

    /// What a data frame says of each of its tensors.
    pub fn heads(&self) -> Vec<frame::PartHead> {
        frame::read_data_head(&self.head, self.body.len() as u64, usize::MAX).expect("a node's own frame")
    }

    /// The tensors of a data frame, by their number.
    pub fn tensors(&self) -> Vec<(u16, Tensor)> {
        assert_eq!(self.kind, Kind::Data);
        let heads = self.heads();
        let mut rest = &self.body[..];
        let decode = |head: frame::PartHead| {
            let (data, after) = rest.split_at(head.encoded_len);
            rest = after;
            let frame::PartHead { name, dtype, shape, codec, checksum, .. } = head;
            let encoded = codec::Encoded { dtype, shape, codec, data: data.to_vec(), checksum };
            (name, codec::decode(encoded, &Pool::new(0)).expect("a node's own encoding"))
        };
        heads.into_iter().map(decode).collect()
    }
}

/// What the peer says first.
#[derive(Clone, Debug)]
pub struct Hello {
    pub role: &'static str,
    pub pipeline: String,
    pub generation: u64,
    pub incarnation: u64,
    pub stage: usize,
    pub token: Vec<u8>,
}

impl Hello {
    /// Of a feeder or collector without a token.
    pub fn new(role: &'static str, pipeline: &str, (generation, incarnation): (u64, u64), stage: usize) -> Self {
        Self { role, pipeline: pipeline.to_owned(), generation, incarnation, stage, token: Vec::new() }
    }

    /// A frame's tag on such a connection.
    pub fn tag(&self, seq: u64) -> Tag {
        let (pipeline, generation) = (PipelineId::of(&self.pipeline), self.generation);
        Tag { pipeline, incarnation: self.incarnation, generation, seq, ..Tag::default() }
    }
}

/// A socket to a relay port.
pub struct Raw {
    stream: TcpStream,
}

impl Raw {
    pub fn connect(relay: &str) -> Self {
        let stream = TcpStream::connect(relay).expect("the relay port is open");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("no delay can be set");
        Self { stream }
    }

    /// Sends bytes; that the other end has hung up meanwhile is not this end's mistake.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends `bytes` one by one until all are gone or the other end has something to say.
    pub fn drip(&mut self, bytes: &[u8], every: Duration) {
        self.stream.set_read_timeout(Some(every)).expect("a timeout can be set");
        for byte in bytes {
            self.send(&[*byte]);
            match self.stream.peek(&mut [0]) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                _ => break,
            }
        }
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    }

    /// Ends this end's direction.
    pub fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next frame; `None` once the other end has closed.
    pub fn receive(&mut self) -> Option<Received> {
        let mut fixed_bytes = [0; FIXED];
        self.read(&mut fixed_bytes)?;
        let fixed = frame::read_fixed(&fixed_bytes).expect("a node sends frames");
        let mut head = vec![0; fixed.head_len];
        self.read(&mut head)?;
        fixed.check(&fixed_bytes, &head).expect("a node's checksums are right");
        let mut body = vec![0; usize::try_from(fixed.body_len).expect("a sane length")];
        self.read(&mut body)?;
        Some(Received { kind: fixed.kind, tag: fixed.tag, head, body })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(buffer) {
            Ok(()) => Some(()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the node said nothing for {} s", PATIENCE.as_secs())
            }
            Err(_) => None,
        }
    }

    /// Reads until the other end closes; the causes of all error frames on the way.
    pub fn until_closed(&mut self) -> String {
        let mut causes = Vec::new();
        while let Some(frame) = self.receive() {
            if frame.kind == Kind::Error {
                causes.extend(frame.failure().cause);
            }
        }
        causes.join("; ")
    }

    /// The whole handshake: the node's last word, credit or an error frame; `None` if it hung up.
    pub fn handshake(&mut self, hello: &Hello) -> Option<Received> {
        self.shake(hello, |proof, own| assert_eq!(proof, own, "the node's own proof"))
    }

    /// [`Raw::handshake`] with a node that has another token, so that its proof cannot be checked.
    pub fn handshake_unchecked(&mut self, hello: &Hello) -> Option<Received> {
        self.shake(hello, |proof, own| assert_ne!(proof, own, "the node has another token"))
    }

    fn shake(&mut self, hello: &Hello, check: impl FnOnce(&str, &str)) -> Option<Received> {
        let (said, answer) = self.introduce(hello)?;
        if answer.kind == Kind::Error {
            // Turned away at the door.
            return Some(answer);
        }
        let challenge: Value = serde_json::from_slice(&answer.head).expect("a challenge is JSON");
        let (mine, theirs) = (&said["nonce"], challenge["nonce"].as_str().expect("a nonce"));
        let nonces = [mine.as_str().expect("our nonce").as_bytes(), theirs.as_bytes(), said.to_string().as_bytes()]
            .map(<[u8]>::to_vec);
        check(challenge["proof"].as_str().expect("a proof"), &prove(&hello.token, "acceptor", &nonces));
        let proof = json!({"proof": prove(&hello.token, "dialer", &nonces)});
        self.send(&frame::write_head(Kind::Hello, &Tag::default(), proof.to_string().as_bytes(), 0));
        self.receive()
    }

    /// Says hello and gives the node's challenge, or its refusal.
    fn introduce(&mut self, hello: &Hello) -> Option<(Value, Received)> {
        let said = json!({
            "protocol": frame::VERSION,
            "name": "stranger",
            "role": hello.role,
            "pipeline": hello.pipeline,
            "generation": hello.generation,
            "incarnation": hello.incarnation,
            "stage": hello.stage,
            "nonce": "00112233445566778899aabbccddeeff",
        });
        self.send(&frame::write_head(Kind::Hello, &Tag::default(), said.to_string().as_bytes(), 0));
        let answer = self.receive()?;
        assert!(matches!(answer.kind, Kind::Hello | Kind::Error), "{answer:?}");
        Some((said, answer))
    }

    /// A connection that may feed or collect, and the credit that came with it.
    pub fn open(relay: &str, hello: &Hello) -> (Self, u32) {
        let mut raw = Self::connect(relay);
        let word = raw.handshake(hello).expect("the node answers");
        assert_eq!(word.kind, Kind::Credit, "{}", String::from_utf8_lossy(&word.head));
        let credit = u32::from_le_bytes(word.head[..].try_into().expect("credit has four bytes"));
        (raw, credit)
    }

    /// Waits for the next frame that is neither credit nor a ping.
    pub fn result(&mut self) -> Received {
        loop {
            let frame = self.receive().expect("the connection is still open");
            if !matches!(frame.kind, Kind::Credit | Kind::Ping) {
                return frame;
            }
        }
    }
}

/// As the handshake's description has it: HMAC-SHA-256, keyed by the token, over who proves, both nonces and the hello,
/// each after its length.
fn prove(token: &[u8], who: &str, nonces: &[Vec<u8>; 3]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(token).expect("HMAC takes keys of any length");
    for part in std::iter::once(who.as_bytes()).chain(nonces.iter().map(Vec::as_slice)) {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Tensors numbered in the order of their names, as a hop carries them.
pub fn parts(tensors: &[(String, Tensor)], codec: Codec) -> Vec<Part> {
    let mut tensors = tensors.to_vec();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let encode = |(number, (_, tensor)): (usize, (String, Tensor))| {
        let name = u16::try_from(number).expect("few tensors");
        Part { name, tensor: codec::encode(tensor, codec, &Pool::new(0)) }
    };
    tensors.into_iter().enumerate().map(encode).collect()
}

/// A whole data frame.
pub fn data(tag: &Tag, parts: &[Part]) -> Vec<u8> {
    let body: Vec<u8> = parts.iter().flat_map(|part| part.tensor.data.clone()).collect();
    let mut bytes = frame::write_head(Kind::Data, tag, &frame::data_head(parts), body.len() as u64);
    bytes.extend(body);
    bytes
}
