//! How requests are encoded for the first hop.
//!
//! Under `auto` by the same choice as any other hop. A node weighs its link against its own work; the dispatcher has none,
//! and takes the chain's pace for it: the time between two frames that was not spent on writing them. Where the chain is
//! held up elsewhere, that is long, and inputs travel raw; where the first link holds it up, it is next to nothing.

use crate::buffer::Pool;
use crate::relay::LinkRate;
use crate::relay::adaptive::Adaptive;
use crate::relay::chooser::{Conditions, Cores};
use crate::relay::codec::{self, Choice, Codec};
use crate::relay::frame::Part;
use defer_partition::Tensor;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longer than this nobody asked, which says nothing of the chain.
const LONGEST: Duration = Duration::from_secs(1);

/// The sending end of a generation's first hop.
#[derive(Debug)]
pub struct Ingress {
    choice: Choice,
    adaptive: Adaptive,
    link: LinkRate,
    pace: Mutex<Pace>,
    codec: Mutex<Codec>,
}

#[derive(Debug, Default)]
struct Pace {
    latest: Option<Instant>,
    between: Duration,
}

impl Ingress {
    /// Inputs are never rounded unless `choice` names a codec that does.
    pub fn new(choice: Choice) -> Self {
        let codec = match choice {
            Choice::Fixed(codec) => codec,
            Choice::Auto => Codec::Raw,
        };
        Self {
            choice,
            adaptive: Adaptive::new(Cores::here(), &[]),
            link: LinkRate::default(),
            pace: Mutex::default(),
            codec: Mutex::new(codec),
        }
    }

    /// Whether encoding is no more than a checksum.
    pub fn is_cheap(&self) -> bool {
        match self.choice {
            Choice::Fixed(codec) => codec == Codec::Raw,
            Choice::Auto => self.adaptive.is_raw(self.link.seconds_per_byte()),
        }
    }

    /// Encodes tensors, each under its number.
    pub fn encode(&self, tensors: Vec<(u16, Tensor)>, pool: &Pool) -> Vec<Part> {
        match self.choice {
            Choice::Fixed(codec) => {
                let part = |(name, tensor)| Part { name, tensor: codec::encode(tensor, codec, pool) };
                tensors.into_iter().map(part).collect()
            }
            Choice::Auto => {
                let work = self.pace.lock().unwrap_or_else(PoisonError::into_inner).between;
                let conditions = Conditions { work, seconds_per_byte: self.link.seconds_per_byte(), passed_on: 0 };
                let (codec, parts) = self.adaptive.encode(tensors, conditions, pool);
                let before = std::mem::replace(&mut *self.in_use(), codec);
                if before != codec {
                    tracing::info!(%codec, mbit = self.link.mbit(), "codec chosen for the first hop");
                }
                parts
            }
        }
    }

    /// A frame of `bytes` went onto the first link just now, which took `took`.
    pub fn sent(&self, bytes: u64, took: Duration) {
        self.link.record(bytes, took);
        let now = Instant::now();
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(latest) = pace.latest.replace(now) {
            pace.between = now.saturating_duration_since(latest).saturating_sub(took).min(LONGEST);
        }
    }

    /// The codec of the latest request.
    pub fn codec(&self) -> Codec {
        *self.in_use()
    }

    fn in_use(&self) -> std::sync::MutexGuard<'_, Codec> {
        self.codec.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use defer_partition::DType;

    fn picture() -> Tensor {
        // 256 different values, as a normalised picture has.
        let value = |i: usize| ((i * 7919 / 64 % 256) as f32 / 255.0 - 0.5).to_le_bytes();
        Tensor { dtype: DType::Fp32, shape: vec![1, 3, 224, 224], data: (0..3 * 224 * 224).flat_map(value).collect() }
    }

    /// Sends requests over a link of `mbit`, with `between` spent on anything else per frame.
    fn send(mbit: f64, between: Duration) -> Ingress {
        let (ingress, pool) = (Ingress::new(Choice::Auto), Pool::new(1 << 24));
        for _ in 0..60 {
            let parts = ingress.encode(vec![(0, picture())], &pool);
            assert_eq!(codec::decode(parts[0].tensor.copy(&pool), &pool).unwrap(), picture());
            let bytes = parts[0].tensor.data.len() as u64;
            let took = Duration::from_secs_f64(bytes as f64 * 8e-6 / mbit);
            ingress.link.record(bytes, took);
            ingress.pace.lock().unwrap().between = between;
        }
        ingress
    }

    #[test]
    fn inputs_are_compressed_where_the_first_link_holds_the_chain_up() {
        assert_ne!(send(10.0, Duration::from_micros(100)).codec(), Codec::Raw);
    }

    #[test]
    fn inputs_travel_raw_where_the_chain_is_slower_than_its_first_link() {
        let ingress = send(10.0, Duration::from_secs(1));
        assert_eq!((ingress.codec(), ingress.is_cheap()), (Codec::Raw, true));
    }

    #[test]
    fn the_time_of_writing_is_no_pace_of_the_chain() {
        let ingress = Ingress::new(Choice::Auto);
        ingress.sent(1000, Duration::ZERO);
        ingress.sent(1000, Duration::from_secs(10));
        assert_eq!(ingress.pace.lock().unwrap().between, Duration::ZERO);
    }
}
