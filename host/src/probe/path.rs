//! How fast frames get from here to another relay: dialed, proved and sent as any frames are, then forgotten.

use crate::buffer::Pool;
use crate::port;
use crate::relay::codec::{self, Codec};
use crate::relay::hello::{connect, refuse};
use crate::relay::traffic::{Incoming, Origin, receive};
use crate::relay::{Connection, Frame, Hello, Limits, LinkError, Part, Role, Tag, Token};
use defer_partition::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::time::{timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// Empty frames that are answered one by one.
const ECHOES: usize = 15;
/// Bytes of the tensor in each frame of the flood, and frames that may be under way.
const PIECE: usize = 64 << 10;
const WINDOW: u32 = 64;
/// The flood ends after this time, or so many frames …
const TIME: Duration = Duration::from_millis(1000);
const FRAMES: u64 = 2048;
/// … but on a slow link goes on until so many have arrived, or this time is over.
const LEAST: u64 = 4;
const LONGEST: Duration = Duration::from_secs(10);
/// What arrives before that is not counted: shapers let a burst through first.
const BURST: Duration = Duration::from_millis(150);
/// A receiver's patience, and what it takes of one prober.
const SITTING: Duration = Duration::from_secs(30);
const MOST: u64 = 2 * FRAMES * PIECE as u64;
/// Probers that a node listens to at once.
static SEATS: Semaphore = Semaphore::const_new(4);

/// What one direction of a link can do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Path {
    /// Bits per second.
    pub bandwidth_bps: f64,
    /// Half of the time until a frame is answered.
    pub latency_ms: f64,
}

/// Of an end that only probes: it is sent no tensors.
pub fn limits() -> Limits {
    Limits { max_tensor: 0, max_parts: 0, pool: Pool::new(0), stall: port::STALL }
}

/// Sends frames to the relay at `relay` as `name`, for about a second.
pub async fn measure(relay: &str, name: &str, token: &Token, limits: Limits) -> Result<Path, LinkError> {
    let hello = Hello::new(name, Role::Probe, "", 0, 0, 0);
    let (mut connection, credit) = connect(relay, &hello, token, limits.clone()).await?;
    let mut echoes = Vec::with_capacity(ECHOES);
    for _ in 0..ECHOES {
        let started = Instant::now();
        connection.writer.data(&Tag::default(), &[]).await?;
        timeout(LONGEST, answered(&mut connection)).await.map_err(|_| LinkError::Timeout(LONGEST.as_secs()))??;
        echoes.push(started.elapsed());
    }
    echoes.sort_unstable();
    let latency_ms = echoes[ECHOES / 2].as_secs_f64() * 1e3 / 2.0;
    let bandwidth_bps = flood(connection, credit, &limits).await?;
    Ok(Path { bandwidth_bps, latency_ms })
}

/// Finds out whether the relay at `relay` knows `token`, without telling it; gives the name by which it answers.
pub async fn recognise(relay: &str, name: &str, token: &Token) -> Result<String, LinkError> {
    let hello = Hello::new(name, Role::Probe, "", 0, 0, 0);
    let (connection, _) = connect(relay, &hello, token, limits()).await?;
    Ok(connection.peer)
}

/// Fills the link; gives its rate in bits per second.
async fn flood(mut connection: Connection, credit: u32, limits: &Limits) -> Result<f64, LinkError> {
    let tensor = Tensor { dtype: DType::Uint8, shape: vec![PIECE], data: vec![0x5a; PIECE] };
    let parts = [Part { name: 0, tensor: codec::encode(tensor, Codec::Raw, &limits.pool) }];
    let started = tokio::time::Instant::now();
    let (mut sent, mut arrived) = (0, 0);
    let (mut credit, mut from, mut last) = (u64::from(credit), None, (0, Duration::ZERO));
    while arrived < FRAMES && (started.elapsed() < TIME || arrived < LEAST) {
        let end = if arrived < LEAST { started + LONGEST } else { started + TIME };
        let step = async {
            while credit > 0 && sent < FRAMES {
                connection.writer.data(&Tag { seq: sent, ..Tag::default() }, &parts).await?;
                (credit, sent) = (credit - 1, sent + 1);
            }
            answered(&mut connection).await
        };
        match timeout_at(end, step).await {
            Ok(frames) => {
                let frames = u64::from(frames?);
                (credit, arrived) = (credit + frames, arrived + frames);
                last = (arrived, started.elapsed());
                if from.is_none_or(|(_, at)| at < BURST && last.1 >= BURST && arrived < FRAMES / 2) {
                    from = Some(last);
                }
            }
            Err(_) if arrived < LEAST => return Err(LinkError::Timeout(LONGEST.as_secs())),
            // What is under way, perhaps half a frame, is given up with the connection.
            Err(_) => break,
        }
    }
    let (before, since) = from.unwrap_or_default();
    let seconds = last.1.saturating_sub(since).as_secs_f64();
    Ok(match last.0 - before {
        // All was answered at once.
        0 => (last.0 * PIECE as u64 * 8) as f64 / last.1.as_secs_f64().max(1e-9),
        frames => (frames * PIECE as u64 * 8) as f64 / seconds.max(1e-9),
    })
}

/// Waits for credit.
async fn answered(connection: &mut Connection) -> Result<u32, LinkError> {
    match connection.reader.next().await? {
        Some(Frame::Credit(frames)) => Ok(frames),
        Some(Frame::Error(_, failure)) => {
            Err(LinkError::Refused { peer: failure.node, cause: failure.cause.join(": ") })
        }
        Some(_) => Err(LinkError::Order("different", "credit")),
        None => Err(LinkError::Closed),
    }
}

/// Takes what a prober that has proved itself sends, counts it, and forgets it.
pub async fn absorb(
    mut connection: Connection,
    node: &str,
    limits: Limits,
    closing: &CancellationToken,
) -> Result<(), LinkError> {
    let Ok(_seat) = SEATS.try_acquire() else {
        refuse(&mut connection.writer, node, "others are probing this node; try again in a while").await;
        return Ok(());
    };
    let pool = limits.pool.clone();
    connection.reader.set_limits(Limits { max_tensor: PIECE, max_parts: 1, ..limits });
    let origin = Origin { node: node.to_owned(), stage: 0 };
    let mut bytes = 0;
    let mut deliver = |incoming: Incoming| {
        for part in incoming.content.into_iter().flatten() {
            bytes += part.tensor.data.len() as u64;
            pool.give(part.tensor.data);
        }
        if bytes > MOST { Err("a probe needs no more than this".to_owned()) } else { Ok(()) }
    };
    timeout(SITTING, receive(connection, &origin, WINDOW, closing, &mut deliver)).await.unwrap_or(Ok(()))
}
