//! The last of a slot's three threads: what leaves the stage is encoded for the hop.

use super::chooser::{Chooser, Cost};
use super::slot::{Job, Shared, Tensors};
use crate::buffer::Pool;
use crate::engine::Named;
use crate::relay::codec::{self, Choice, Codec, Encoded};
use crate::relay::frame::{Failure, FailureKind, MAX_RANK, Part};
use crate::relay::traffic::{Outgoing, Parts};
use defer_partition::Tensor;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

impl Shared {
    /// Encodes whatever `jobs` brings, until it ends.
    pub fn encode_all(&self, jobs: &Receiver<Job<Vec<Named>>>, out: &mpsc::Sender<Outgoing>) {
        let mut chooser = Chooser::new(self.cores, &self.lossy);
        for Job { tag, deadline, content, work, .. } in jobs {
            let started = Instant::now();
            let content = content.and_then(|tensors| self.encode(tensors, work, &mut chooser)).map(Parts::Owned);
            self.counters.encode.record(started.elapsed());
            if out.blocking_send(Outgoing { tag, deadline, content }).is_err() {
                return;
            }
        }
    }

    fn encode(
        &self,
        Tensors { own, forwards }: Tensors<Vec<Named>>,
        work: Duration,
        chooser: &mut Chooser,
    ) -> Result<Vec<Part>, Failure> {
        let mut leaving = Vec::with_capacity(own.len());
        for (name, tensor) in own {
            self.check(&name, &tensor)?;
            // Outputs that no later stage needs were checked and end here.
            match self.leaving.iter().position(|leaving| *leaving == name).and_then(|at| u16::try_from(at).ok()) {
                Some(number) => leaving.push((number, tensor)),
                None => self.pool.give(tensor.data),
            }
        }
        let mut parts = forwards;
        match self.codec {
            Choice::Fixed(codec) => {
                parts.extend(leaving.into_iter().map(|(name, tensor)| self.part(name, tensor, codec)));
            }
            Choice::Auto => self.encode_best(leaving, work, chooser, &mut parts),
        }
        parts.sort_by_key(|part| part.name);
        Ok(parts)
    }

    fn part(&self, name: u16, tensor: Tensor, codec: Codec) -> Part {
        Part { name, tensor: codec::encode(tensor, codec, &self.pool) }
    }

    /// Encodes with the codec that the chooser thinks best, and tells it what that, and a trial now and then, cost.
    fn encode_best(&self, leaving: Vec<(u16, Tensor)>, work: Duration, chooser: &mut Chooser, parts: &mut Vec<Part>) {
        let raw_bytes = leaving.iter().map(|(_, tensor)| tensor.data.len()).sum();
        let link = self.counters.link.seconds_per_byte();
        let codec = chooser.begin(raw_bytes, work, link);
        if self.counters.codec_in_use.replace(codec) != Some(codec) {
            let mbit = self.counters.link.mbit();
            tracing::info!(pipeline = self.identity.pipeline, stage = self.identity.stage, %codec, mbit, "codec chosen");
        }
        if let Some(trial) = chooser.trial(link) {
            chooser.learn(trial, raw_bytes, attempt(&leaving, trial, &self.pool));
        }
        let started = Instant::now();
        let before = parts.len();
        parts.extend(leaving.into_iter().map(|(name, tensor)| self.part(name, tensor, codec)));
        let encoded_bytes = parts[before..].iter().map(|part| part.tensor.data.len()).sum();
        // Checksums are made of raw tensors too, and are no cost of a codec.
        let encode = if codec == Codec::Raw { Duration::ZERO } else { started.elapsed() };
        chooser.learn(codec, raw_bytes, Cost { encoded_bytes, encode, decode: None });
    }

    /// Whether a frame, and the limits of this node, can carry what the stage has computed.
    fn check(&self, name: &str, tensor: &Tensor) -> Result<(), Failure> {
        let (rank, bytes) = (tensor.shape.len(), tensor.data.len());
        if rank > MAX_RANK {
            let cause = format!("its output \"{name}\" has {rank} dimensions; a frame carries at most {MAX_RANK}");
            return Err(self.failure(FailureKind::Stage, cause));
        }
        if bytes > self.max_tensor {
            let limit = self.max_tensor;
            let cause =
                format!("its output \"{name}\" has {bytes} bytes, {limit} is the limit (serve --max-tensor-mb)");
            return Err(self.failure(FailureKind::Stage, cause));
        }
        Ok(())
    }
}

/// Encodes copies of `tensors` and decodes them again.
fn attempt(tensors: &[(u16, Tensor)], codec: Codec, pool: &Pool) -> Cost {
    let copy = |tensor: &Tensor| {
        let mut data = pool.take(tensor.data.len());
        data.extend_from_slice(&tensor.data);
        Tensor { data, ..Tensor { dtype: tensor.dtype, shape: tensor.shape.clone(), data: Vec::new() } }
    };
    let copies: Vec<Tensor> = tensors.iter().map(|(_, tensor)| copy(tensor)).collect();
    let started = Instant::now();
    let encoded: Vec<Encoded> = copies.into_iter().map(|tensor| codec::encode(tensor, codec, pool)).collect();
    let encode = started.elapsed();
    let encoded_bytes = encoded.iter().map(|tensor| tensor.data.len()).sum();
    let started = Instant::now();
    for tensor in encoded {
        if let Ok(tensor) = codec::decode(tensor, pool) {
            pool.give(tensor.data);
        }
    }
    Cost { encoded_bytes, encode, decode: Some(started.elapsed()) }
}
