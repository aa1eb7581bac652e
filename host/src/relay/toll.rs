//! What moving a frame costs a CPU, on either side of a link: copies into and out of the kernel, TCP, system calls, credit.
//!
//! No codec takes part in that, and yet a stage that takes in and sends on some megabytes per frame has that much less time
//! to compute. So a plan counts it, as part of encoding and of decoding. It is measured on a connection of this machine to
//! itself, with the relay's own ends, each on one thread whose CPU time counts. (On such a connection the sender's thread
//! does part of the receiver's TCP; a stage does both, so the sum is what matters.)

use super::codec::{self, Codec};
use super::frame::{Part, Tag};
use super::link::{Connection, Limits, LinkError, split};
use super::spread::Queue;
use super::traffic::{Incoming, Origin, Outgoing, Parts, receive, send};
use crate::buffer::Pool;
use cpu_time::ThreadTime;
use defer_partition::{DType, Tensor};
use serde::Serialize;
use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Bytes of a small frame's tensor and of a large one's, and how many of each make a series.
const SMALL: (usize, usize) = (1 << 10, 200);
const LARGE: (usize, usize) = (1 << 20, 24);
/// Large frames have different buffers, more than caches hold, as activations do.
const BUFFERS: usize = 12;
/// Frames of a series that go before what is counted.
const WARM_UP: usize = 4;
/// Series of either kind, in turn; of which one in four is faster than the one that counts.
const ROUNDS: usize = 9;
const QUANTILE: f64 = 0.25;
/// Frames that may wait, as on a node.
const WINDOW: u32 = 3;
/// A machine whose connection to itself stands still for so long measures nothing.
const STALL: Duration = Duration::from_secs(10);

/// CPU time of one side of a link, in ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Fare {
    /// For each frame, whatever its size.
    pub frame_ms: f64,
    /// For each byte of it.
    pub byte_ms: f64,
}

impl Fare {
    /// Of a frame of `bytes` bytes.
    pub fn of(&self, bytes: u64) -> f64 {
        self.frame_ms + self.byte_ms * bytes as f64
    }

    /// From what frames of two sizes take, each in ms.
    fn through((small, small_ms): (usize, f64), (large, large_ms): (usize, f64)) -> Self {
        let byte_ms = ((large_ms - small_ms) / (large - small) as f64).max(0.0);
        Self { frame_ms: (small_ms - byte_ms * small as f64).max(0.0), byte_ms }
    }
}

/// CPU time of both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Toll {
    pub send: Fare,
    pub receive: Fare,
}

impl Toll {
    /// Measures it on this machine, in about half a second.
    pub fn measure() -> Result<Self, LinkError> {
        let mut times: [Vec<(f64, f64)>; 2] = Default::default();
        for _ in 0..ROUNDS {
            for ((bytes, frames), times) in [SMALL, LARGE].into_iter().zip(&mut times) {
                times.push(series(bytes, frames)?);
            }
        }
        let [small, large] = times;
        let fare = |side: fn(&(f64, f64)) -> f64| {
            let typical = |times: &[(f64, f64)]| typical(times.iter().map(side).collect());
            Fare::through((SMALL.0, typical(&small)), (LARGE.0, typical(&large)))
        };
        Ok(Self { send: fare(|times| times.0), receive: fare(|times| times.1) })
    }
}

fn typical(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * QUANTILE).round() as usize]
}

/// CPU time of one thread between two of its frames.
#[derive(Default)]
struct Span {
    seen: AtomicUsize,
    from_ns: AtomicU64,
    to_ns: AtomicU64,
}

impl Span {
    /// One more frame; to be called on the thread that is measured.
    fn frame(&self) {
        let now = u64::try_from(ThreadTime::now().as_duration().as_nanos()).unwrap_or(u64::MAX);
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        if seen == WARM_UP {
            self.from_ns.store(now, Ordering::Relaxed);
        }
        self.to_ns.store(now, Ordering::Relaxed);
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::Relaxed)
    }

    /// What each counted frame took.
    fn ms_per_frame(&self) -> f64 {
        let took = self.to_ns.load(Ordering::Relaxed).saturating_sub(self.from_ns.load(Ordering::Relaxed));
        took as f64 / 1e6 / self.seen().saturating_sub(WARM_UP).max(1) as f64
    }
}

/// Sends `frames` frames with a tensor of `bytes` bytes each. Gives the ms that one took its sender, and its receiver.
fn series(bytes: usize, frames: usize) -> Result<(f64, f64), LinkError> {
    let listener = StdListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let limits = move || Limits { max_tensor: bytes, max_parts: 1, pool: Pool::new(LARGE.0 * BUFFERS), stall: STALL };
    let pool = Pool::new(0);
    let part = |n: usize| {
        let tensor = Tensor { dtype: DType::Uint8, shape: vec![bytes], data: vec![n as u8; bytes] };
        Arc::from([Part { name: 0, tensor: codec::encode(tensor, Codec::Raw, &pool) }])
    };
    let parts: Vec<Arc<[Part]>> = (0..BUFFERS.min(frames)).map(part).collect();
    let (queue, waiting) = mpsc::channel(frames);
    for frame in 0..frames {
        let content = Ok(Parts::Kept(Arc::clone(&parts[frame % parts.len()])));
        // There is room for all of them.
        let _ = queue.try_send(Outgoing { tag: Tag { seq: frame as u64, ..Tag::default() }, deadline: None, content });
    }
    let receiver = thread::spawn(move || -> Result<f64, LinkError> {
        let (span, limits) = (Span::default(), limits());
        let pool = limits.pool.clone();
        // The sender ends its connection when nobody can ask it for more. Credit that it has not read by then would have
        // the kernel throw frames away, so that comes after the last one.
        let mut queue = Some(queue);
        let result = runtime()?.block_on(async {
            let (stream, _) = TcpListener::from_std(listener)?.accept().await?;
            let mut deliver = |incoming: Incoming| {
                incoming.content.into_iter().flatten().for_each(|part| pool.give(part.tensor.data));
                span.frame();
                if span.seen() == frames {
                    drop(queue.take());
                }
                Ok(())
            };
            receive(connection(stream, limits)?, &origin(), WINDOW, &CancellationToken::new(), &mut deliver).await
        });
        if span.seen() == frames { Ok(span.ms_per_frame()) } else { result.map(|()| span.ms_per_frame()) }
    });
    let sender = thread::spawn(move || -> Result<f64, LinkError> {
        let span = Span::default();
        let result = runtime()?.block_on(async {
            let connection = connection(TcpStream::connect(address).await?, limits())?;
            let sent = |_: &Outgoing, _| span.frame();
            send(connection, 0, &origin(), &mut Queue::new(waiting), &pool, &sent).await
        });
        if span.seen() == frames { Ok(span.ms_per_frame()) } else { result.map(|()| span.ms_per_frame()) }
    });
    let ended = || LinkError::Io(io::Error::other("a measuring thread ended early"));
    let sent = sender.join().map_err(|_| ended())?;
    let received = receiver.join().map_err(|_| ended())?;
    Ok((sent?, received?))
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn connection(stream: TcpStream, limits: Limits) -> io::Result<Connection> {
    let (reader, writer) = split(stream, limits)?;
    Ok(Connection { reader, writer, peer: "itself".to_owned() })
}

fn origin() -> Origin {
    Origin { node: "toll".to_owned(), stage: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_frames_cost_something_and_no_more_than_a_slow_machine_could() {
        let Toll { send, receive } = Toll::measure().expect("this machine can connect to itself");
        for (side, fare) in [("send", send), ("receive", receive)] {
            let per_mb = fare.of(1 << 20);
            assert!((0.01..200.0).contains(&per_mb), "{side}: {fare:?}");
            assert!((0.0..20.0).contains(&fare.frame_ms), "{side}: {fare:?}");
        }
    }

    #[test]
    fn two_sizes_tell_frames_from_bytes() {
        let fare = Fare::through((1_000, 0.03), (1_001_000, 1.03));
        assert!((fare.byte_ms - 1e-6).abs() < 1e-12 && (fare.frame_ms - 0.029).abs() < 1e-9, "{fare:?}");
        assert!((fare.of(2_000_000) - 2.029).abs() < 1e-9);
        // Noise does not make a cost negative.
        assert_eq!(Fare::through((1_000, 0.03), (1_001_000, 0.02)).byte_ms, 0.0);
    }
}
