//! HTTP by hand: requests that no client library would send, at the pace of whoever writes them.

use super::PATIENCE;
use serde_json::Value;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// A socket to an HTTP port.
pub struct Wire {
    pub stream: TcpStream,
}

/// What came back until the server closed.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The JSON's error with all its causes; empty where there is none.
    pub error: String,
}

impl Wire {
    /// Connects to the port of `url`.
    pub fn open(url: &str) -> Self {
        let stream = TcpStream::connect(url.trim_start_matches("http://")).expect("the port is open");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("no delay can be set");
        Self { stream }
    }

    /// Sends bytes; that the other end has hung up meanwhile is not this end's mistake.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Sends a request's head, with `headers` (each ended by `\r\n`) beside the host.
    pub fn head(&mut self, method: &str, path: &str, headers: &str) {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"));
    }

    /// Sends `bytes` again and again, until the other end has something to say or hangs up, at most `limit` times.
    pub fn drip(&mut self, bytes: &[u8], every: Duration, limit: usize) {
        self.stream.set_read_timeout(Some(every)).expect("a timeout can be set");
        for _ in 0..limit {
            self.send(bytes);
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

    /// The first answer; `None` where the server hung up without one. A server that does neither is a panic.
    pub fn answer(&mut self) -> Option<Answer> {
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        loop {
            if let Some(answer) = parse(&bytes) {
                return Some(answer);
            }
            match self.stream.read(&mut part) {
                Ok(0) => return None,
                Ok(read) => bytes.extend(&part[..read]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("neither an answer nor the end in {} s", PATIENCE.as_secs())
                }
                Err(_) => return None,
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if body.len() < length.unwrap_or(0) {
        return None;
    }
    let json: Value = serde_json::from_str(body).unwrap_or_default();
    let causes = json["cause"].as_array().cloned().unwrap_or_default();
    let texts = std::iter::once(&json["error"]).chain(&causes).filter_map(|text| text.as_str());
    Some(Answer { status, error: texts.collect::<Vec<_>>().join(": ") })
}
