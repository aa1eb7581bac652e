//! The handshake: both ends name themselves, say what the connection is for, and prove that they know the token.
//!
//! The dialer sends a [`Hello`] with a nonce; the acceptor answers with its name, a nonce of its own and its proof; the
//! dialer sends its proof; the acceptor answers with credit, or with an error frame that says why not. A proof is
//! HMAC-SHA-256, keyed by the token, over who proves, both nonces and the hello: the token itself never travels.

use super::frame::{Failure, FailureKind, FrameError, Tag, VERSION};
use super::link::{Connection, Frame, FrameReader, FrameWriter, Limits, LinkError, split};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A peer that has not finished its handshake by then is cut off, or earlier where it may stand still for less.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long a relay may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// What the dialer wants of the stage it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// To send it frames.
    Feed,
    /// To receive what it computes: the dispatcher, of the last stage.
    Collect,
    /// To find out what the link can do; no stage is meant.
    Probe,
}

/// What a dialer says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u16,
    /// Name of the dialing node or dispatcher.
    pub name: String,
    pub role: Role,
    pub pipeline: String,
    pub generation: u64,
    pub incarnation: u64,
    pub stage: usize,
    nonce: String,
}

impl Hello {
    pub fn new(name: &str, role: Role, pipeline: &str, generation: u64, incarnation: u64, stage: usize) -> Self {
        let (name, pipeline) = (name.to_owned(), pipeline.to_owned());
        Self { protocol: VERSION, name, role, pipeline, generation, incarnation, stage, nonce: nonce() }
    }

    /// The same for another connection: one nonce is good for one handshake.
    pub fn again(&self) -> Self {
        Self { nonce: nonce(), ..self.clone() }
    }
}

#[derive(Serialize, Deserialize)]
struct Challenge {
    protocol: u16,
    name: String,
    nonce: String,
    proof: String,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    proof: String,
}

/// The secret that all nodes and dispatchers of one user share; empty where none was given.
#[derive(Clone, Default)]
pub struct Token(Vec<u8>);

impl Token {
    pub fn new(secret: &[u8]) -> Self {
        Self(secret.trim_ascii().to_vec())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The token as text, for an `Authorization` header.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    /// Whether `presented` is the token, without telling by the time taken how much of it is right.
    pub fn is(&self, presented: &[u8]) -> bool {
        let mac = |bytes| self.mac(&[b"compare", bytes]);
        mac(presented).verify_slice(&mac(&self.0).finalize().into_bytes()).is_ok()
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256>>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_empty() { "Token(none)" } else { "Token(…)" })
    }
}

/// Connects to the relay at `relay` (`host:port`), and dials.
pub async fn connect(
    relay: &str,
    hello: &Hello,
    token: &Token,
    limits: Limits,
) -> Result<(Connection, u32), LinkError> {
    let connecting = timeout(CONNECT, TcpStream::connect(relay)).await;
    let stream = connecting.map_err(|_| LinkError::Timeout(CONNECT.as_secs()))??;
    dial(stream, hello, token, limits).await
}

/// Dials: opens `stream`'s handshake with `hello` and waits for the acceptor's word. The connection starts with the
/// credit that came with it.
pub async fn dial(
    stream: TcpStream,
    hello: &Hello,
    token: &Token,
    limits: Limits,
) -> Result<(Connection, u32), LinkError> {
    let (mut reader, mut writer) = split(stream, strangers(&limits))?;
    let deadline = DEADLINE.min(limits.stall);
    let exchange = async {
        let said = json(hello)?;
        writer.hello(&said).await?;
        let challenge: Challenge = parse(&next_hello(&mut reader).await?)?;
        same_version(challenge.protocol)?;
        let nonces = [hello.nonce.as_bytes(), challenge.nonce.as_bytes(), &said];
        if !verify(token, "acceptor", nonces, &challenge.proof) {
            return Err(LinkError::Token { peer: challenge.name });
        }
        writer.hello(&json(&Answer { proof: prove(token, "dialer", nonces) })?).await?;
        match reader.next().await? {
            Some(Frame::Credit(frames)) => Ok((challenge.name, frames)),
            Some(Frame::Error(_, failure)) => Err(refused(challenge.name, failure)),
            Some(_) => Err(LinkError::Order("different", "credit")),
            None => Err(LinkError::Closed),
        }
    };
    let (peer, credit) = timeout(deadline, exchange).await.map_err(|_| LinkError::Timeout(deadline.as_secs()))??;
    reader.set_limits(limits);
    Ok((Connection { reader, writer, peer }, credit))
}

/// Accepts: reads the dialer's hello from a fresh socket and checks its proof. It is then the caller's to grant credit,
/// or to [`refuse`].
pub async fn accept(
    stream: TcpStream,
    name: &str,
    token: &Token,
    limits: Limits,
) -> Result<(Connection, Hello), LinkError> {
    let (mut reader, mut writer) = split(stream, strangers(&limits))?;
    let deadline = DEADLINE.min(limits.stall);
    let exchange = async {
        let said = next_hello(&mut reader).await?;
        let hello: Hello = parse(&said)?;
        same_version(hello.protocol)?;
        let mine = nonce();
        let nonces = [hello.nonce.as_bytes(), mine.as_bytes(), &said];
        let proof = prove(token, "acceptor", nonces);
        let challenge = Challenge { protocol: VERSION, name: name.to_owned(), nonce: mine.clone(), proof };
        writer.hello(&json(&challenge)?).await?;
        let answer: Answer = parse(&next_hello(&mut reader).await?)?;
        if verify(token, "dialer", nonces, &answer.proof) {
            Ok(hello)
        } else {
            Err(LinkError::Token { peer: hello.name })
        }
    };
    let result = timeout(deadline, exchange).await.unwrap_or(Err(LinkError::Timeout(deadline.as_secs())));
    let hello = match result {
        Ok(hello) => hello,
        Err(error) => {
            let cause = match &error {
                LinkError::Token { .. } => "wrong token; give both ends the same --token-file".to_owned(),
                error => error.to_string(),
            };
            refuse(&mut writer, name, &cause).await;
            return Err(error);
        }
    };
    reader.set_limits(limits);
    let peer = hello.name.clone();
    Ok((Connection { reader, writer, peer }, hello))
}

fn same_version(theirs: u16) -> Result<(), LinkError> {
    if theirs == VERSION { Ok(()) } else { Err(FrameError::Version { theirs }.into()) }
}

/// A peer that has not proved itself may send no tensors. The handshake has a deadline as a whole.
fn strangers(limits: &Limits) -> Limits {
    Limits { max_tensor: 0, max_parts: 0, stall: DEADLINE * 2, ..limits.clone() }
}

/// Tells the peer why the connection ends, as far as it still listens.
pub async fn refuse(writer: &mut FrameWriter, node: &str, cause: &str) {
    let failure =
        Failure { node: node.to_owned(), stage: 0, kind: FailureKind::Invalid, cause: vec![cause.to_owned()] };
    let _ = timeout(Duration::from_secs(1), writer.error(&Tag::default(), &failure)).await;
}

/// Tells the peer of a fresh socket that there is no place for it.
pub async fn turn_away(stream: TcpStream, node: &str, limits: &Limits, cause: &str) {
    let Ok((mut reader, mut writer)) = split(stream, strangers(limits)) else { return };
    refuse(&mut writer, node, cause).await;
    // What it has sent must be read, or it sees a broken connection instead of the reason.
    let _ = timeout(Duration::from_secs(1), reader.next()).await;
}

async fn next_hello(reader: &mut FrameReader) -> Result<Vec<u8>, LinkError> {
    match reader.next().await? {
        Some(Frame::Hello(json)) => Ok(json),
        Some(Frame::Error(_, failure)) => Err(refused(failure.node.clone(), failure)),
        Some(_) => Err(LinkError::Order("different", "hello")),
        None => Err(LinkError::Closed),
    }
}

fn refused(peer: String, failure: Failure) -> LinkError {
    LinkError::Refused { peer, cause: failure.cause.join(": ") }
}

fn prove(token: &Token, who: &str, [dialer, acceptor, hello]: [&[u8]; 3]) -> String {
    hex(&token.mac(&[who.as_bytes(), dialer, acceptor, hello]).finalize().into_bytes())
}

fn verify(token: &Token, who: &str, nonces: [&[u8]; 3], proof: &str) -> bool {
    Token(b"proof".to_vec()).mac(&[prove(token, who, nonces).as_bytes()]).finalize().into_bytes()
        == Token(b"proof".to_vec()).mac(&[proof.as_bytes()]).finalize().into_bytes()
}

/// 128 random bits, in hexadecimal.
fn nonce() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has a source of randomness");
    hex(&bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, LinkError> {
    serde_json::to_vec(value).map_err(|error| LinkError::Io(error.into()))
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, LinkError> {
    serde_json::from_slice(json).map_err(|error| {
        LinkError::Frame(FrameError::Malformed { kind: super::frame::Kind::Hello, cause: error.to_string() })
    })
}
