//! What may round the tensors of one hop: the lossy codecs that are left, and which of them are worth their places.

use crate::relay::codec::Codec;

/// Codecs to try, from coarse to fine; those in a row round alike, and differ in size and speed only. From `bench codec`: eight
/// bits or less under Zstandard are the smallest at every cut of every network there, ZFP comes next for maps without zeros, and
/// the plain ones cost next to no time.
const LADDER: [&[&str]; 9] = [
    &["int8+zstd:relative=5e-2"],
    &["int8+zstd:relative=2e-2"],
    &["int8+zstd:relative=1e-2"],
    &["int8+zstd:relative=5e-3"],
    &["int8", "sparse+int8", "int8+zstd"],
    &["zfp:relative=1e-2"],
    &["zfp:relative=3e-3"],
    &["zfp:relative=1e-3"],
    &["f16", "sparse+f16"],
];
/// A lossy codec must be smaller than every lossless one by this share, or there is no use in it.
const WORTH: f64 = 0.9;

/// The ladder, the codecs of a rung together.
pub fn ladder() -> Vec<Vec<Codec>> {
    let rung = |names: &&[&str]| names.iter().map(|name| name.parse().expect("the ladder names codecs")).collect();
    LADDER.iter().map(rung).collect()
}

/// A codec on one hop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub codec: Codec,
    /// Of what it makes of the hop's tensors, over all inputs.
    pub bytes: u64,
    /// The largest relative error of the network's answers where this hop alone is rounded.
    pub error: f64,
}

/// Codecs of similar cost; one of each is enough for a hop.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Halves,
    Bytes,
    Entropy,
    Zfp,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Entropy, Self::Zfp, Self::Bytes, Self::Halves];

    fn of(codec: Codec) -> Self {
        match codec {
            Codec::F16 | Codec::SparseF16 => Self::Halves,
            Codec::Int8 | Codec::SparseInt8 => Self::Bytes,
            Codec::Zfp(_) => Self::Zfp,
            _ => Self::Entropy,
        }
    }
}

/// A hop while its codecs are chosen.
#[derive(Clone, Debug, Default)]
pub struct Hop {
    /// Of its tensors, over all inputs.
    pub raw_bytes: u64,
    /// What the best lossless codec makes of them.
    pub lossless_bytes: u64,
    /// What the best of the lossless codecs does that have no entropy coder.
    quick_bytes: u64,
    left: Vec<Candidate>,
}

impl Hop {
    pub fn new(raw_bytes: u64, lossless_bytes: u64, quick_bytes: u64) -> Self {
        Self { raw_bytes, lossless_bytes, quick_bytes, left: Vec::new() }
    }

    /// Whether a codec that makes the hop's tensors so small is of use. Halves take next to no time, which the smallest of the
    /// lossless codecs do: they have to beat the quick ones only.
    pub fn is_worth(&self, codec: Codec, bytes: u64) -> bool {
        let lossless = if Kind::of(codec) == Kind::Halves { self.quick_bytes } else { self.lossless_bytes };
        (bytes as f64) < lossless as f64 * WORTH
    }

    /// Takes a codec that alone keeps to the budget.
    pub fn admit(&mut self, candidate: Candidate) {
        self.left.push(candidate);
    }

    /// Codecs that do no more to the answers than the worst that is allowed.
    pub fn harmless(&self) -> impl Iterator<Item = Codec> {
        let worst = self.worst().map_or(0.0, |worst| worst.error);
        self.left.iter().filter(move |candidate| candidate.error <= worst).map(|candidate| candidate.codec)
    }

    /// Whether a codec may be used: a lossless one may be anyway.
    fn admits(&self, codec: Codec) -> bool {
        !codec.is_lossy() || self.harmless().any(|harmless| harmless == codec)
    }

    /// Gives up what is worse than `codec`, all of it where that is lossless.
    pub fn keep_to(&mut self, codec: Codec) {
        let error = self.left.iter().find(|candidate| candidate.codec == codec).map_or(-1.0, |planned| planned.error);
        self.left.retain(|candidate| candidate.error <= error);
    }

    /// The codecs to allow: of each kind the smallest, the one with the largest error first.
    pub fn allowed(&self) -> Vec<Candidate> {
        let smallest = |kind: Kind| {
            let of_kind = self.left.iter().filter(|candidate| Kind::of(candidate.codec) == kind);
            of_kind.min_by_key(|candidate| candidate.bytes).copied()
        };
        let mut allowed: Vec<Candidate> = Vec::new();
        for kind in Kind::ALL {
            // ZFP takes longest: it has to be the smallest.
            let small =
                |candidate: &Candidate| kind != Kind::Zfp || allowed.iter().all(|other| candidate.bytes < other.bytes);
            allowed.extend(smallest(kind).filter(small));
        }
        allowed.sort_by(|a, b| b.error.total_cmp(&a.error));
        allowed
    }

    /// The allowed codec with the largest error.
    pub fn worst(&self) -> Option<Candidate> {
        self.allowed().first().copied()
    }

    /// Gives up the worst codec, and all that are no better.
    pub fn tighten(&mut self) {
        if let Some(worst) = self.worst() {
            self.left.retain(|candidate| candidate.error < worst.error);
        }
    }
}

/// Tightens the hop that contributes most. `false` where no lossy codec is left.
pub fn tighten(hops: &mut [Hop]) -> bool {
    let error = |hop: &Hop| hop.worst().map(|worst| worst.error);
    let most = hops.iter_mut().max_by(|a, b| error(a).partial_cmp(&error(b)).unwrap_or(std::cmp::Ordering::Equal));
    match most {
        Some(hop) if hop.worst().is_some() => {
            hop.tighten();
            true
        }
        _ => false,
    }
}

/// Tightens hops until these codecs are no longer allowed all together, though each may be by itself.
pub fn exclude(hops: &mut [Hop], codecs: &[Codec]) {
    while hops.iter().zip(codecs).all(|(hop, codec)| hop.admits(*codec)) && tighten(hops) {}
}

/// What all hops together may come to: their errors have nothing to do with each other, so their squares add up.
pub fn expected(hops: &[Hop]) -> f64 {
    hops.iter().filter_map(Hop::worst).map(|worst| worst.error.powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::CodecChoice;

    fn hop(candidates: &[(&str, u64, f64)]) -> Hop {
        let mut hop = Hop::new(1000, 700, 900);
        for &(codec, bytes, error) in candidates {
            hop.admit(Candidate { codec: codec.parse().unwrap(), bytes, error });
        }
        hop
    }

    fn names(hop: &Hop) -> Vec<String> {
        hop.allowed().iter().map(|candidate| candidate.codec.to_string()).collect()
    }

    #[test]
    fn the_ladder_holds_codecs_that_auto_may_use() {
        assert!(ladder().iter().flatten().all(|codec| CodecChoice::may_allow(*codec)));
        assert!(Kind::ALL.len() <= CodecChoice::MOST_LOSSY);
    }

    #[test]
    fn the_smallest_of_each_kind_is_allowed_worst_first() {
        let all = hop(&[
            ("int8+zstd:relative=2e-2", 100, 0.02),
            ("int8+zstd:relative=1e-2", 150, 0.01),
            ("int8", 250, 0.002),
            ("sparse+int8", 200, 0.002),
            ("zfp:relative=1e-2", 300, 0.004),
            ("f16", 500, 0.0003),
            ("sparse+f16", 400, 0.0003),
        ]);
        assert_eq!(names(&all), ["int8+zstd:relative=2e-2", "sparse+int8", "sparse+f16"]);
        let smooth = hop(&[("zfp:relative=1e-2", 90, 0.004), ("int8+zstd", 100, 0.002)]);
        assert_eq!(names(&smooth), ["zfp:relative=1e-2", "int8+zstd"]);
    }

    #[test]
    fn a_plan_may_use_what_is_no_worse_and_a_hop_keeps_to_its_plan() {
        let all =
            hop(&[("int8+zstd", 100, 0.004), ("sparse+int8", 200, 0.002), ("int8", 250, 0.002), ("f16", 500, 0.001)]);
        // A codec that is not the smallest of its kind included.
        assert_eq!(all.harmless().count(), 4);
        for (codec, left) in [("int8", 3), ("f16", 1), ("sparse", 0)] {
            let mut hop = all.clone();
            hop.keep_to(codec.parse().unwrap());
            assert_eq!(hop.harmless().count(), left, "{codec}");
        }
    }

    #[test]
    fn what_is_too_much_together_is_not_allowed_because_each_is_alone() {
        let int8: Codec = "int8+zstd".parse().unwrap();
        let both = || hop(&[("int8+zstd", 100, 0.004), ("f16", 500, 0.001)]);
        let mut hops = [both(), both(), hop(&[])];
        let codecs = [int8, int8, Codec::Sparse];
        exclude(&mut hops, &codecs);
        let allowed = hops.iter().zip(&codecs).filter(|(hop, codec)| hop.admits(**codec)).count();
        assert_eq!(allowed, 2, "one of the two gives it up, and no more than that: {hops:?}");
        // Lossless codecs cannot be taken away: it ends with nothing left.
        let mut hops = [both()];
        exclude(&mut hops, &[Codec::Sparse]);
        assert_eq!(hops[0].harmless().count(), 0);
    }

    #[test]
    fn the_hop_that_contributes_most_is_tightened_until_nothing_is_left() {
        let mut hops = [
            hop(&[("int8+zstd:relative=1e-2", 100, 0.004), ("f16", 500, 0.001)]),
            hop(&[("int8+zstd:relative=1e-2", 100, 0.003)]),
            hop(&[]),
        ];
        let mut errors = vec![expected(&hops)];
        while tighten(&mut hops) {
            errors.push(expected(&hops));
        }
        assert_eq!(errors.len(), 4);
        assert!((errors[0] - 0.005).abs() < 1e-9 && errors[3] == 0.0);
        assert!(errors.is_sorted_by(|a, b| a > b), "{errors:?}");
    }

    #[test]
    fn what_saves_little_over_lossless_codecs_is_of_no_use() {
        for (codec, bytes, worth) in
            [("int8", 600, true), ("int8", 640, false), ("f16", 800, true), ("f16", 820, false)]
        {
            assert_eq!(hop(&[]).is_worth(codec.parse().unwrap(), bytes), worth, "{codec} {bytes}");
        }
    }
}
