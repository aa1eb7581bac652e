//! The last of a slot's three threads: what leaves the stage is encoded for the hop.

use super::slot::{Job, Shared, Tensors};
use crate::engine::Named;
use crate::relay::adaptive::Adaptive;
use crate::relay::chooser::Conditions;
use crate::relay::codec::{self, Choice, Codec};
use crate::relay::frame::{Failure, FailureKind, MAX_RANK, Part};
use crate::relay::traffic::{Outgoing, Parts};
use defer_partition::Tensor;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

impl Shared {
    /// Encodes whatever `jobs` brings, until it ends.
    pub fn encode_all(&self, jobs: &Receiver<Job<Vec<Named>>>, out: &mpsc::Sender<Outgoing>) {
        let adaptive = Adaptive::new(self.codec, self.cores, &self.lossy);
        for Job { tag, deadline, content, work, .. } in jobs {
            let started = Instant::now();
            let content = content.and_then(|tensors| self.encode(tensors, work, &adaptive)).map(Parts::Owned);
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
        adaptive: &Adaptive,
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
        if matches!(self.codec, Choice::Fixed(Codec::ConstantSize(_))) {
            parts.iter_mut().try_for_each(|part| self.hide_length(part))?;
        }
        let passed_on = parts.iter().map(|part| part.tensor.data.len()).sum();
        let seconds_per_byte = self.counters.link.seconds_per_byte();
        parts.extend(adaptive.encode(leaving, Conditions { work, seconds_per_byte, passed_on }, &self.pool));
        if self.codec == Choice::Auto {
            self.note(adaptive.codec());
        }
        parts.sort_by_key(|part| part.name);
        Ok(parts)
    }

    /// On a hop of constant size, what is passed on must not tell by its length what it holds either. What it came with may have
    /// been chosen for what it holds, even where that encoding's own length tells nothing: so it goes raw.
    fn hide_length(&self, part: &mut Part) -> Result<(), Failure> {
        if part.tensor.codec == Codec::Raw {
            return Ok(());
        }
        let tensor = codec::decode(part.tensor.copy(&self.pool), &self.pool)
            .map_err(|error| self.failure(FailureKind::Damaged, format!("a tensor that is passed on: {error}")))?;
        let before = std::mem::replace(&mut part.tensor, codec::encode(tensor, Codec::Raw, &self.pool));
        self.pool.give(before.data);
        Ok(())
    }

    /// Shows which codec is in use where this node chooses.
    fn note(&self, codec: Codec) {
        if self.counters.codec_in_use.replace(codec) != Some(codec) {
            let mbit = self.counters.link.mbit();
            tracing::info!(pipeline = self.identity.pipeline, stage = self.identity.stage, %codec, mbit, "codec chosen");
        }
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
