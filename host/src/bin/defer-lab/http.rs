//! One connection of a client, at the level of bytes: what a library would swallow counts here.

use defer_host::engine::Named;
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longer than any answer may take.
const PATIENCE: Duration = Duration::from_secs(45);

/// Why there is no reply.
#[derive(Debug)]
pub enum Broken {
    /// Nobody listens: the request was not made.
    Unreachable,
    /// The connection ended after the request was begun.
    Ended(io::Error),
    /// Neither a reply nor an end.
    Silent,
    /// Bytes that nobody asked for.
    Unasked(Vec<u8>),
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Length of the JSON before binary tensors.
    pub json: Option<usize>,
    pub body: Vec<u8>,
}

/// Where requests go.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub door: SocketAddr,
    pub model: &'a str,
    pub key: Option<&'a str>,
}

impl Target<'_> {
    /// The bytes of a request whose JSON is `json`, with the tensors that it announces where they are `binary`.
    pub fn post(self, json: &str, binary: Option<&[u8]>) -> Vec<u8> {
        let Self { door, model, key } = self;
        let length = json.len() + binary.map_or(0, <[u8]>::len);
        let mut head =
            format!("POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {door}\r\nContent-Length: {length}\r\n");
        if binary.is_some() {
            head += &format!("Inference-Header-Content-Length: {}\r\n", json.len());
        }
        if let Some(key) = key {
            head += &format!("Idempotency-Key: {key}\r\n");
        }
        [head.as_bytes(), b"\r\n", json.as_bytes(), binary.unwrap_or_default()].concat()
    }

    /// The bytes of a request with `inputs` in binary, to be answered in binary within `timeout_us`.
    pub fn binary(self, id: &str, inputs: &[Named], timeout_us: u64) -> Vec<u8> {
        let declare = |(name, tensor): &Named| {
            let size = json!({"binary_data_size": tensor.data.len()});
            json!({"name": name, "datatype": tensor.dtype, "shape": tensor.shape, "parameters": size})
        };
        let declared: Vec<Value> = inputs.iter().map(declare).collect();
        let parameters = json!({"binary_data_output": true, "timeout": timeout_us});
        let json = json!({"id": id, "inputs": declared, "parameters": parameters}).to_string();
        let tensors: Vec<u8> = inputs.iter().flat_map(|(_, tensor)| tensor.data.iter().copied()).collect();
        self.post(&json, Some(&tensors))
    }
}

/// A client's connection, which is kept as long as it can be.
#[derive(Default)]
pub struct Connection(Option<TcpStream>);

impl Connection {
    pub async fn ask(&mut self, address: SocketAddr, request: &[u8]) -> Result<Reply, Broken> {
        if let Some(stream) = &self.0 {
            let mut more = vec![0; 512];
            match stream.try_read(&mut more) {
                Ok(0) => self.0 = None,
                Ok(read) => {
                    self.0 = None;
                    more.truncate(read);
                    return Err(Broken::Unasked(more));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.0 = None,
            }
        }
        let mut stream = match self.0.take() {
            Some(stream) => stream,
            None => TcpStream::connect(address).await.map_err(|_| Broken::Unreachable)?,
        };
        let reply = tokio::time::timeout(PATIENCE, exchange(&mut stream, request)).await;
        let reply = reply.map_err(|_| Broken::Silent)?.map_err(Broken::Ended)?;
        self.0 = Some(stream);
        Ok(reply)
    }

    /// Sends a request and goes away.
    pub async fn leave(address: SocketAddr, request: &[u8]) {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            let _ = stream.write_all(request).await;
        }
    }
}

async fn exchange(stream: &mut TcpStream, request: &[u8]) -> io::Result<Reply> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    // A refusal may come before all is sent.
    let sent = stream.write_all(request).await;
    let mut got = Vec::new();
    let head = loop {
        if let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut got).await? == 0 {
            sent?;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let text = String::from_utf8_lossy(&got[..head]).to_ascii_lowercase();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse::<usize>().ok())
    };
    let status = text.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| wrong("no status"))?;
    let length = field("content-length").ok_or_else(|| wrong("no content-length"))?;
    let json = field("inference-header-content-length");
    let mut body = got.split_off(head);
    while body.len() < length {
        if stream.read_buf(&mut body).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if body.len() > length {
        return Err(wrong("more than one answer"));
    }
    Ok(Reply { status, json, body })
}
