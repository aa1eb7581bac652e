//! How requests are encoded for the first hop.
//!
//! Under `auto` by the same choice as any other hop. A node weighs its link against its own work; the dispatcher has none,
//! and takes the chain's pace for it: the time between two frames that was not spent on writing them. Where the chain is
//! held up elsewhere, that is long, and inputs travel raw; where the first link holds it up, it is next to nothing, if frames
//! are larger than what the kernel takes at once: small ones travel raw over slow links too.

use crate::buffer::Pool;
use crate::relay::LinkRate;
use crate::relay::adaptive::Adaptive;
use crate::relay::chooser::{Conditions, Cores};
use crate::relay::codec::{Choice, Codec};
use crate::relay::frame::Part;
use defer_partition::Tensor;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// After so long a pause nobody had asked, which says nothing of the chain.
const PAUSE: Duration = Duration::from_secs(1);

/// The sending end of a generation's first hop.
#[derive(Debug)]
pub struct Ingress {
    adaptive: Adaptive,
    link: LinkRate,
    pace: Mutex<Pace>,
}

#[derive(Debug, Default)]
struct Pace {
    latest: Option<Instant>,
    between: Duration,
}

impl Ingress {
    /// Inputs are never rounded unless `choice` names a codec that does.
    pub fn new(choice: Choice) -> Self {
        let adaptive = Adaptive::new(choice, Cores::here(), &[]);
        Self { adaptive, link: LinkRate::default(), pace: Mutex::default() }
    }

    /// Whether encoding is no more than a checksum.
    pub fn is_cheap(&self) -> bool {
        self.adaptive.is_raw(self.link.seconds_per_byte())
    }

    /// Encodes tensors, each under its number.
    pub fn encode(&self, tensors: Vec<(u16, Tensor)>, pool: &Pool) -> Vec<Part> {
        let work = self.pace.lock().unwrap_or_else(PoisonError::into_inner).between;
        let conditions = Conditions { work, seconds_per_byte: self.link.seconds_per_byte(), passed_on: 0 };
        self.adaptive.encode(tensors, conditions, pool)
    }

    /// A frame of `bytes` went onto the first link just now, which took `took`.
    pub fn sent(&self, bytes: u64, took: Duration) {
        self.link.record(bytes, took);
        self.sent_at(Instant::now(), took);
    }

    fn sent_at(&self, now: Instant, took: Duration) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(latest) = pace.latest.replace(now) {
            let between = now.saturating_duration_since(latest).saturating_sub(took);
            if between < PAUSE {
                pace.between = between;
            }
        }
    }

    /// The codec in use.
    pub fn codec(&self) -> Codec {
        self.adaptive.codec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::codec;
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
        let ingress = send(100.0, Duration::from_millis(900));
        assert_eq!((ingress.codec(), ingress.is_cheap()), (Codec::Raw, true));
    }

    #[test]
    fn neither_writing_nor_a_pause_of_clients_is_the_pace_of_the_chain() {
        let ingress = Ingress::new(Choice::Auto);
        let ms = Duration::from_millis;
        let mut now = Instant::now();
        for (after, took, want) in
            [(0, 0, 0), (70, 50, 20), (60_000, 0, 20), (1050, 1000, 50), (40, 45, 0), (999, 0, 999)]
        {
            now += ms(after);
            ingress.sent_at(now, ms(took));
            assert_eq!(ingress.pace.lock().unwrap().between, ms(want), "{after} ms after the one before");
        }
    }
}
