//! One relay connection: frames read from and written to a socket.

use super::codec::Encoded;
use super::frame::{self, FIXED, Failure, Fixed, FrameError, Kind, MAX_HEAD, Part, Tag};
use super::wake::Source;
use crate::buffer::Pool;
use crate::port::Steady;
use rustix::net::sockopt;
use std::io::{self, IoSlice};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// Reads smaller than this go through a buffer; tensors larger than it go straight into theirs.
const READ_AHEAD: usize = 16 * 1024;
/// Of a tensor, so much is waited for before it is read: the rest of it, but no more than a socket has room for …
const SWOOP: usize = 1 << 20;
/// … and for so long: bytes that trickle are read as they come, which also shows that the peer does not stand still.
const SWOOP_TIME: Duration = Duration::from_millis(250);

/// What a connection may ask of this process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one tensor.
    pub max_tensor: usize,
    /// Tensors in one frame.
    pub max_parts: usize,
    /// Where receive buffers come from.
    pub pool: Pool,
    /// How long the peer may stand still in the middle of a frame.
    pub stall: Duration,
}

/// A frame as its receiver sees it.
#[derive(Debug)]
pub enum Frame {
    /// JSON of a handshake.
    Hello(Vec<u8>),
    Data(Tag, Vec<Part>),
    /// A data frame that was read past, since its tensors cannot be taken here, and why.
    Unfit(Tag, FrameError),
    Error(Tag, Failure),
    /// So many more frames may be sent.
    Credit(u32),
    Ping,
}

#[derive(Debug, Error)]
pub enum LinkError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("connection lost: {0}")]
    Io(io::Error),
    #[error("the connection ended inside a frame")]
    Truncated,
    #[error("the peer closed the connection")]
    Closed,
    #[error("{peer} refused the connection: {cause}")]
    Refused { peer: String, cause: String },
    #[error("{peer} does not know the token; give both ends the same --token-file")]
    Token { peer: String },
    #[error("no answer to the hello within {0} s")]
    Timeout(u64),
    #[error("a {0} frame where {1} was due")]
    Order(&'static str, &'static str),
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Connection {
    pub reader: FrameReader,
    pub writer: FrameWriter,
    /// The name that the other end gave.
    pub peer: String,
}

/// Frames from a socket, or from anything else that gives bytes.
#[derive(Debug)]
pub struct FrameReader<R = OwnedReadHalf> {
    inner: BufReader<Steady<R>>,
    limits: Limits,
}

#[derive(Debug)]
pub struct FrameWriter {
    inner: OwnedWriteHalf,
}

/// Both directions of a socket, without a handshake yet.
pub fn split(stream: TcpStream, limits: Limits) -> io::Result<(FrameReader, FrameWriter)> {
    stream.set_nodelay(true)?;
    notice_death(&stream)?;
    let (read, write) = stream.into_split();
    Ok((FrameReader::new(read, limits), FrameWriter { inner: write }))
}

/// Has the kernel end the connection when the peer's machine is gone without a word: after about 20 s.
fn notice_death(stream: &TcpStream) -> io::Result<()> {
    const IDLE: Duration = Duration::from_secs(10);
    const BETWEEN: Duration = Duration::from_secs(5);
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, IDLE)?;
    sockopt::set_tcp_keepintvl(stream, BETWEEN)?;
    sockopt::set_tcp_keepcnt(stream, 2)?;
    // The same for what was sent and never acknowledged, in ms.
    Ok(sockopt::set_tcp_user_timeout(stream, 20_000)?)
}

impl<R: Source> FrameReader<R> {
    pub fn new(inner: R, limits: Limits) -> Self {
        let inner = Steady::new(inner, limits.stall);
        Self { inner: BufReader::with_capacity(READ_AHEAD, inner), limits }
    }

    /// Replaces what the peer may ask for, once it is known who it is.
    pub fn set_limits(&mut self, limits: Limits) {
        self.inner.get_mut().set_window(limits.stall);
        self.limits = limits;
    }

    /// The next frame; `None` when the peer closed the connection between two frames.
    ///
    /// # Errors
    /// After any error the connection is spent: where the next frame begins is not known.
    pub async fn next(&mut self) -> Result<Option<Frame>, LinkError> {
        let mut bytes = [0; FIXED];
        let first = self.inner.read(&mut bytes).await?;
        if first == 0 {
            return Ok(None);
        }
        self.inner.get_mut().begin();
        let frame = self.rest(bytes, first).await?;
        self.inner.get_mut().rest();
        Ok(Some(frame))
    }

    /// The frame whose first bytes are `bytes[..first]`.
    async fn rest(&mut self, mut bytes: [u8; FIXED], first: usize) -> Result<Frame, LinkError> {
        // A peer that speaks something else may never send a whole fixed part: judge what is there.
        if !frame::MAGIC.starts_with(&bytes[..first.min(4)]) {
            let [a, b, c, d, ..] = bytes;
            return Err(FrameError::Magic([a, b, c, d]).into());
        }
        self.inner.read_exact(&mut bytes[first..]).await.map_err(truncated)?;
        let fixed = frame::read_fixed(&bytes)?;
        let mut head = Vec::with_capacity(fixed.head_len);
        self.fill(&mut head, fixed.head_len).await?;
        fixed.check(&bytes, &head)?;
        if fixed.kind == Kind::Data {
            return match self.judge(&fixed, &head) {
                Ok(heads) => Ok(Frame::Data(fixed.tag, self.read_parts(heads).await?)),
                // The head's checksum is right, so where the next frame begins is known: only this request is lost.
                Err(error) if fixed.body_len <= self.most_to_skip() => {
                    self.skip(fixed.body_len).await?;
                    Ok(Frame::Unfit(fixed.tag, error))
                }
                Err(error) => Err(error.into()),
            };
        }
        if fixed.body_len != 0 {
            return Err(malformed(fixed.kind, "only data frames have a body").into());
        }
        Ok(match fixed.kind {
            Kind::Hello => Frame::Hello(head),
            Kind::Credit => Frame::Credit(read_credit(&head)?),
            Kind::Ping => Frame::Ping,
            Kind::Error | Kind::Data => {
                let failure =
                    serde_json::from_slice(&head).map_err(|error| malformed(Kind::Error, &error.to_string()))?;
                Frame::Error(fixed.tag, failure)
            }
        })
    }

    /// What a data frame holds, if all of it may come in.
    fn judge(&self, fixed: &Fixed, head: &[u8]) -> Result<Vec<frame::PartHead>, FrameError> {
        let heads = frame::read_data_head(head, fixed.body_len, self.limits.max_tensor)?;
        if heads.len() > self.limits.max_parts {
            let (got, limit) = (heads.len() as u64, self.limits.max_parts as u64);
            return Err(FrameError::TooLarge { what: "a frame's number of tensors", got, limit, cure: "" });
        }
        Ok(heads)
    }

    /// Bodies up to this size are read past; a peer that announces more is not worth its connection.
    fn most_to_skip(&self) -> u64 {
        (self.limits.max_tensor as u64).saturating_mul(16)
    }

    async fn skip(&mut self, len: u64) -> Result<(), LinkError> {
        let skipped = tokio::io::copy(&mut (&mut self.inner).take(len), &mut tokio::io::sink()).await?;
        if skipped == len { Ok(()) } else { Err(LinkError::Truncated) }
    }

    async fn read_parts(&mut self, heads: Vec<frame::PartHead>) -> Result<Vec<Part>, LinkError> {
        let mut parts = Vec::with_capacity(heads.len());
        for head in heads {
            let mut data = self.limits.pool.take(head.encoded_len);
            self.fill(&mut data, head.encoded_len).await?;
            let frame::PartHead { name, dtype, shape, codec, checksum, .. } = head;
            parts.push(Part { name, tensor: Encoded { dtype, shape, codec, data, checksum } });
        }
        Ok(parts)
    }

    /// Appends to `buffer`, without clearing it first, until it has exactly `len` bytes.
    async fn fill(&mut self, buffer: &mut Vec<u8>, len: usize) -> Result<(), LinkError> {
        let mut threshold = 1;
        let mut trickles = false;
        while buffer.len() < len {
            let left = len - buffer.len();
            let wanted = match !trickles && self.inner.buffer().is_empty() && left > READ_AHEAD {
                true => left.min(SWOOP),
                false => 1,
            };
            // A threshold is never left higher than what is still to come.
            if wanted != threshold {
                trickles |= !self.inner.get_ref().get_ref().wake_at(wanted);
                threshold = wanted;
            }
            let mut part = (&mut self.inner).take(left as u64);
            let read = match threshold > 1 && !trickles {
                false => part.read_buf(buffer).await?,
                true => match timeout(SWOOP_TIME, part.read_buf(buffer)).await {
                    Ok(read) => read?,
                    Err(_) => {
                        trickles = true;
                        continue;
                    }
                },
            };
            if read == 0 {
                return Err(LinkError::Truncated);
            }
        }
        if threshold > 1 {
            self.inner.get_ref().get_ref().wake_at(1);
        }
        Ok(())
    }
}

impl FrameWriter {
    /// Sends a handshake's JSON.
    pub async fn hello(&mut self, json: &[u8]) -> io::Result<()> {
        self.write(Kind::Hello, &Tag::default(), json).await
    }

    /// Sends a data frame.
    pub async fn data(&mut self, tag: &Tag, parts: &[Part]) -> io::Result<()> {
        let body = parts.iter().map(|part| part.tensor.data.len() as u64).sum();
        let head = frame::write_head(Kind::Data, tag, &frame::data_head(parts), body);
        let mut slices = Vec::with_capacity(1 + parts.len());
        slices.push(IoSlice::new(&head));
        slices.extend(parts.iter().map(|part| IoSlice::new(&part.tensor.data)));
        let mut slices = &mut slices[..];
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let written = self.inner.write_vectored(slices).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut slices, written);
        }
        Ok(())
    }

    /// Sends a failure.
    pub async fn error(&mut self, tag: &Tag, failure: &Failure) -> io::Result<()> {
        let mut head = serde_json::to_vec(failure).map_err(io::Error::other)?;
        if head.len() > MAX_HEAD {
            let brief = Failure { cause: vec!["its message was too long for a frame".to_owned()], ..failure.clone() };
            head = serde_json::to_vec(&brief).map_err(io::Error::other)?;
        }
        self.write(Kind::Error, tag, &head).await
    }

    /// Allows the peer `frames` more.
    pub async fn credit(&mut self, frames: u32) -> io::Result<()> {
        self.write(Kind::Credit, &Tag::default(), &frames.to_le_bytes()).await
    }

    pub async fn ping(&mut self) -> io::Result<()> {
        self.write(Kind::Ping, &Tag::default(), &[]).await
    }

    async fn write(&mut self, kind: Kind, tag: &Tag, head: &[u8]) -> io::Result<()> {
        self.inner.write_all(&frame::write_head(kind, tag, head, 0)).await
    }
}

fn read_credit(head: &[u8]) -> Result<u32, FrameError> {
    head.try_into().map(u32::from_le_bytes).map_err(|_| malformed(Kind::Credit, "its head is not 4 bytes long"))
}

fn malformed(kind: Kind, cause: &str) -> FrameError {
    FrameError::Malformed { kind, cause: cause.to_owned() }
}

fn truncated(error: io::Error) -> LinkError {
    if error.kind() == io::ErrorKind::UnexpectedEof { LinkError::Truncated } else { LinkError::Io(error) }
}
