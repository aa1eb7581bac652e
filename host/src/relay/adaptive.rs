//! Encodes a hop's tensors with the codec that the [`Chooser`] thinks best, and tells it what that, and a trial now and then,
//! cost.

use super::chooser::{Chooser, Conditions, Cores, Cost};
use super::codec::{self, Codec, Encoded};
use super::frame::Part;
use crate::buffer::Pool;
use defer_partition::Tensor;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One hop's sender, where its codec is `auto`. Several threads may encode at once.
#[derive(Debug)]
pub struct Adaptive(Mutex<Chooser>);

impl Adaptive {
    /// Among the lossless codecs and `lossy`.
    pub fn new(cores: Cores, lossy: &[Codec]) -> Self {
        Self(Mutex::new(Chooser::new(cores, lossy)))
    }

    /// Whether the next frame travels raw and nothing is tried on it.
    pub fn is_raw(&self, seconds_per_byte: Option<f64>) -> bool {
        self.lock().is_raw(seconds_per_byte)
    }

    /// Encodes `tensors`, each under its number, all with the codec that is returned too.
    pub fn encode(&self, tensors: Vec<(u16, Tensor)>, conditions: Conditions, pool: &Pool) -> (Codec, Vec<Part>) {
        let raw_bytes = tensors.iter().map(|(_, tensor)| tensor.data.len()).sum();
        let (codec, trial) = {
            let mut chooser = self.lock();
            (chooser.begin(raw_bytes, conditions), chooser.trial(conditions.seconds_per_byte))
        };
        let tried = trial.map(|trial| (trial, attempt(&tensors, trial, pool)));
        let started = Instant::now();
        let part = |(name, tensor)| Part { name, tensor: codec::encode(tensor, codec, pool) };
        let parts: Vec<Part> = tensors.into_iter().map(part).collect();
        let encoded_bytes = parts.iter().map(|part| part.tensor.data.len()).sum();
        // Checksums are made of raw tensors too, and are no cost of a codec.
        let encode = if codec == Codec::Raw { Duration::ZERO } else { started.elapsed() };
        let mut chooser = self.lock();
        if let Some((trial, cost)) = tried {
            chooser.learn(trial, raw_bytes, cost);
        }
        chooser.learn(codec, raw_bytes, Cost { encoded_bytes, encode, decode: None });
        (codec, parts)
    }

    fn lock(&self) -> MutexGuard<'_, Chooser> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
