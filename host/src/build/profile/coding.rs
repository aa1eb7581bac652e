//! What tensors cost the relay, codec by codec: the network's own activations, encoded and decoded by the real codecs.

use super::runs::typical;
use crate::buffer::Pool;
use crate::build::{Phase, Progress};
use crate::relay::Toll;
use crate::relay::codec::{self, Codec};
use cpu_time::ThreadTime;
use defer_partition::Tensor;
use defer_partition::profile::CodecCost;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// What a plan may choose from without changing results; each was the best of some network's cuts in `bench codec`.
pub(in crate::build) const LOSSLESS: [Codec; 5] =
    [Codec::Raw, Codec::Sparse, Codec::SparseShuffleLz4, Codec::ShuffleZstd, Codec::SparseShuffleZstd];
/// Rounds over all tensors and codecs: so many at least, and further ones within this time.
const ROUNDS: (usize, usize) = (2, 9);
const TIME: Duration = Duration::from_secs(10);
/// Spare buffers, in bytes.
const POOL: usize = 256 << 20;

/// Costs of tensors, by name.
pub(super) struct Codings {
    codecs: Vec<Codec>,
    toll: Toll,
    of: HashMap<String, Vec<CodecCost>>,
}

/// One tensor with one codec.
struct Trial<'a> {
    tensor: &'a Tensor,
    codec: Codec,
    bytes: u64,
    encode: Vec<Duration>,
    decode: Vec<Duration>,
}

impl Codings {
    /// Measures each of the tensors `names` with each of `codecs`.
    pub fn measure(
        tensors: &HashMap<String, Tensor>,
        names: &BTreeSet<&str>,
        codecs: &[Codec],
        toll: Toll,
        progress: &dyn Progress,
    ) -> Self {
        let known: Vec<(&str, &Tensor)> = names.iter().filter_map(|&name| Some((name, tensors.get(name)?))).collect();
        let trial = |tensor, codec| Trial { tensor, codec, bytes: 0, encode: Vec::new(), decode: Vec::new() };
        let mut trials: Vec<Trial<'_>> =
            known.iter().flat_map(|(_, tensor)| codecs.iter().map(move |&codec| trial(*tensor, codec))).collect();
        // Checksums of raw tensors take no time to speak of.
        if codecs.len() > 1 {
            progress.phase(Phase::Coding, ROUNDS.1);
        }
        let pool = Pool::new(POOL);
        let started = Instant::now();
        for round in 0..ROUNDS.1 {
            if round >= ROUNDS.0 && started.elapsed() > TIME {
                break;
            }
            trials.iter_mut().for_each(|trial| trial.run(&pool));
            if codecs.len() > 1 {
                progress.step();
            }
        }
        let mut costs = trials.into_iter().map(|trial| trial.cost(&toll));
        let of = known.iter().map(|(name, _)| ((*name).to_owned(), costs.by_ref().take(codecs.len()).collect()));
        let of = of.collect();
        drop(costs);
        Self { codecs: codecs.to_vec(), toll, of }
    }

    pub fn codecs(&self) -> &[Codec] {
        &self.codecs
    }

    /// Of one tensor, codec by codec; nothing of one that no run has shown.
    pub fn of(&self, name: &str) -> Vec<CodecCost> {
        self.of.get(name).cloned().unwrap_or_default()
    }

    /// Of several tensors in one frame, codec by codec.
    pub fn together<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Vec<CodecCost> {
        let none = |codec: &Codec| CodecCost { name: codec.to_string(), ..CodecCost::default() };
        let mut sums: Vec<CodecCost> = self.codecs.iter().map(none).collect();
        for costs in names.into_iter().filter_map(|name| self.of.get(name)) {
            for (sum, cost) in sums.iter_mut().zip(costs) {
                sum.bytes += cost.bytes;
                sum.encode_ms += cost.encode_ms;
                sum.decode_ms += cost.decode_ms;
            }
        }
        sums
    }

    /// What taking in a frame, and sending one, cost a stage whatever is in it.
    pub fn frame(&self) -> (f64, f64) {
        (self.toll.receive.frame_ms, self.toll.send.frame_ms)
    }
}

impl Trial<'_> {
    fn run(&mut self, pool: &Pool) {
        let mut data = pool.take(self.tensor.data.len());
        data.extend_from_slice(&self.tensor.data);
        let copy = Tensor { dtype: self.tensor.dtype, shape: self.tensor.shape.clone(), data };
        let started = ThreadTime::now();
        let encoded = codec::encode(copy, self.codec, pool);
        self.encode.push(started.elapsed());
        self.bytes = encoded.data.len() as u64;
        let started = ThreadTime::now();
        let decoded = codec::decode(encoded, pool);
        self.decode.push(started.elapsed());
        if let Ok(tensor) = decoded {
            pool.give(tensor.data);
        }
    }

    /// With what moving its bytes takes on either side.
    fn cost(self, toll: &Toll) -> CodecCost {
        CodecCost {
            name: self.codec.to_string(),
            bytes: self.bytes,
            encode_ms: typical(self.encode) + toll.send.byte_ms * self.bytes as f64,
            decode_ms: typical(self.decode) + toll.receive.byte_ms * self.bytes as f64,
        }
    }
}
