//! One connection of a client, at the level of bytes: what a library would swallow counts here.

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
