//! Encodes a hop's tensors: with the codec that was named for it, or, under `auto`, with the one that the [`Chooser`] thinks best,
//! which it tells what that, and a trial now and then, cost.

use super::chooser::{Chooser, Conditions, Cores, Cost};
use super::codec::{self, Choice, Codec, Encoded};
use super::frame::Part;
use crate::buffer::Pool;
use defer_partition::Tensor;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A frame of fewer raw bytes says nothing of what codecs cost a byte, and little can be saved on it.
const LEAST: usize = 4096;

/// One hop's sender. Several threads may encode at once.
#[derive(Debug)]
pub struct Adaptive {
    choice: Choice,
    chooser: Mutex<Chooser>,
}

impl Adaptive {
    /// Under `auto` among the lossless codecs and `lossy`.
    pub fn new(choice: Choice, cores: Cores, lossy: &[Codec]) -> Self {
        Self { choice, chooser: Mutex::new(Chooser::new(cores, lossy)) }
    }

    /// The codec in use.
    pub fn codec(&self) -> Codec {
        match self.choice {
            Choice::Fixed(codec) => codec,
            Choice::Auto => self.lock().current(),
        }
    }

    /// Whether the next frame travels raw and nothing is tried on it.
    pub fn is_raw(&self, seconds_per_byte: Option<f64>) -> bool {
        match self.choice {
            Choice::Fixed(codec) => codec == Codec::Raw,
            Choice::Auto => self.lock().is_raw(seconds_per_byte),
        }
    }

    /// Encodes `tensors`, each under its number, all with one codec.
    pub fn encode(&self, tensors: Vec<(u16, Tensor)>, conditions: Conditions, pool: &Pool) -> Vec<Part> {
        let raw_bytes = tensors.iter().map(|(_, tensor)| tensor.data.len()).sum();
        if self.choice != Choice::Auto || raw_bytes < LEAST {
            return parts(tensors, self.codec(), pool);
        }
        let (codec, trial) = {
            let mut chooser = self.lock();
            (chooser.begin(raw_bytes, conditions), chooser.trial(conditions.seconds_per_byte))
        };
        let tried = trial.map(|trial| (trial, attempt(&tensors, trial, pool)));
        let started = Instant::now();
        let parts = parts(tensors, codec, pool);
        let encoded_bytes = parts.iter().map(|part| part.tensor.data.len()).sum();
        // Checksums are made of raw tensors too, and are no cost of a codec.
        let encode = if codec == Codec::Raw { Duration::ZERO } else { started.elapsed() };
        let mut chooser = self.lock();
        if let Some((trial, cost)) = tried {
            chooser.learn(trial, raw_bytes, cost);
        }
        chooser.learn(codec, raw_bytes, Cost { encoded_bytes, encode, decode: None });
        parts
    }

    fn lock(&self) -> MutexGuard<'_, Chooser> {
        self.chooser.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parts(tensors: Vec<(u16, Tensor)>, codec: Codec, pool: &Pool) -> Vec<Part> {
    tensors.into_iter().map(|(name, tensor)| Part { name, tensor: codec::encode(tensor, codec, pool) }).collect()
}

/// Encodes copies of `tensors` and decodes them again.
fn attempt(tensors: &[(u16, Tensor)], codec: Codec, pool: &Pool) -> Cost {
    let copy = |tensor: &Tensor| {
        let mut data = pool.take(tensor.data.len());
        data.extend_from_slice(&tensor.data);
        Tensor { dtype: tensor.dtype, shape: tensor.shape.clone(), data }
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

#[cfg(test)]
mod tests {
    use super::*;
    use defer_partition::DType;

    #[test]
    fn small_frames_decide_nothing() {
        let (adaptive, pool) = (Adaptive::new(Choice::Auto, Cores::One, &[]), Pool::new(0));
        let slow = Conditions { work: Duration::ZERO, seconds_per_byte: Some(1e-3), passed_on: 0 };
        let send = |len: usize| {
            let tensor = Tensor { dtype: DType::Uint8, shape: vec![len], data: vec![7; len] };
            adaptive.encode(vec![(0, tensor)], slow, &pool);
        };
        (0..100).for_each(|_| send(LEAST - 1));
        assert_eq!(adaptive.codec(), Codec::Raw);
        (0..100).for_each(|_| send(LEAST));
        assert_ne!(adaptive.codec(), Codec::Raw);
    }
}
