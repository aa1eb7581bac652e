//! Random numbers that are the same everywhere.

/// 2⁶⁴ divided by the golden ratio: what the state grows by.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64 (Steele, Lea, Flood, 2014): one multiply-xor-shift chain per number, good enough for weights.
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// As after `count` numbers.
    pub(super) fn skip(&mut self, count: usize) {
        self.state = self.state.wrapping_add(STEP.wrapping_mul(count as u64));
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in \[0, 1).
    pub(super) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Nearly normal with mean 0 and variance 1, within ±3.5: the sum of four uniform 16-bit numbers, for which no
    /// logarithm or cosine is needed, whose last bits differ between platforms.
    pub(super) fn normal(&mut self) -> f64 {
        let bits = self.next();
        let sum: u64 = (0..4).map(|i| (bits >> (16 * i)) & 0xffff).sum();
        // Each has mean 65535/2 and variance (65536² - 1)/12.
        (sum as f64 - 2.0 * 65535.0) / ((65536.0 * 65536.0 - 1.0_f64) / 3.0).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_that_of_splitmix64() {
        let mut random = Random::new(0);
        assert_eq!([random.next(), random.next()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }

    #[test]
    fn skipping_is_drawing() {
        let (mut drawn, mut skipped) = (Random::new(3), Random::new(3));
        (0..1000).for_each(|_| _ = drawn.next());
        skipped.skip(1000);
        assert_eq!(drawn.next(), skipped.next());
    }

    #[test]
    fn normal_has_mean_zero_and_variance_one() {
        let mut random = Random::new(1);
        let values: Vec<f64> = (0..100_000).map(|_| random.normal()).collect();
        let mean = values.iter().sum::<f64>() / 1e5;
        let variance = values.iter().map(|v| v * v).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
