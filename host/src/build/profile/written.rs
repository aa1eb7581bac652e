//! What was found out as a `profile.json`, for planners.

use super::Profiler;
use defer_partition::profile::{AtomCost, CodecCost, CutCost, FORMAT, Profile, RunCost, TensorCost};

impl Profiler<'_, '_> {
    /// The profile of the network `model`, whose atoms are pieces.
    ///
    /// What the first stage takes in from the dispatcher, and what the last one sends to it, is part of the first and of
    /// the last atom's time: these hops have no choice of codec.
    pub fn profile(&self, model: &str) -> Profile {
        let (fit, passage) = (self.fit(), self.passage());
        let (last, pieces) = (self.pieces.count() - 1, &self.pieces);
        let (receive, send) = self.codings.frame();
        let ends = |first: usize, end: usize| {
            let taken = if first == 0 { passage.enter_ms[0] } else { 0.0 };
            let sent = if end == last { passage.leave_ms[last + 1] } else { 0.0 };
            taken + sent
        };
        let atoms = pieces.sizes.iter().zip(&fit.pieces_ms).enumerate().map(|(at, (size, ms))| AtomCost {
            name: size.name.clone(),
            compute_ms: ms + ends(at, at),
            weights_bytes: size.weights_bytes,
            activation_peak_bytes: size.activation_peak_bytes,
        });
        let cuts = pieces.crossing.iter().zip(&fit.boundaries_ms).enumerate().map(|(after, (names, ms))| CutCost {
            after,
            tensors: names.clone(),
            codecs: self.allowed(after, self.codings.together(names.iter().map(String::as_str))),
            // A frame is sent on one side and taken in on the other, whatever is in it.
            boundary_ms: ms + receive + send,
        });
        let tensors = pieces.lives.iter().map(|(name, life)| TensorCost {
            name: name.clone(),
            made: life.made,
            used: life.used.iter().copied().collect(),
            codecs: self.codings.of(name),
        });
        let mut runs: Vec<RunCost> = self
            .checked
            .iter()
            .map(|(run, ms)| {
                let (first, end) = (run.start, run.end - 1);
                let frames = if first > 0 { receive } else { 0.0 } + if end < last { send } else { 0.0 };
                RunCost { atoms: [first, end], compute_ms: ms + ends(first, end) + frames }
            })
            .collect();
        runs.sort_by_key(|run| run.atoms);
        let bytes = |names: &[String]| {
            self.codings.together(names.iter().map(String::as_str)).first().map_or(0, |raw| raw.bytes)
        };
        Profile {
            format: FORMAT,
            model: model.to_owned(),
            atoms: atoms.collect(),
            cuts: cuts.collect(),
            input_bytes: bytes(&self.ends[0]),
            output_bytes: bytes(&self.ends[1]),
            tensors: tensors.collect(),
            runs,
        }
    }

    fn allowed(&self, after: usize, mut codecs: Vec<CodecCost>) -> Vec<CodecCost> {
        // What rounding does to answers changes slowly along a network. Without the neighbours' word a plan would move its cuts to
        // where nothing was tried, round after round; what it then does is tried in its turn.
        if let Some((_, barred)) = self.barred.iter().min_by_key(|(at, _)| (at.abs_diff(after), **at)) {
            codecs.retain(|codec| !barred.contains(&codec.name));
        }
        codecs
    }
}
