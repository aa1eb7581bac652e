//! Feature maps of a few made-up pictures, computed along with the network. Training measures the statistics of its
//! BatchNormalization layers on real pictures; a generator measures them on these, so that a deep network of random
//! weights neither explodes nor gives every picture the same answer.

use super::random::Random;

/// Pictures looked at.
const PICTURES: usize = 16;
/// How many patches, side by side, a picture is made of: its overall tint, shapes, details. Noise comes on top.
const PATCHES: [usize; 3] = [1, 4, 16];

/// One position of one channel in every picture: innermost, so that the arithmetic below vectorises.
type Lane = [f32; PICTURES];

/// A square window that moves over a picture.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) size: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl Window {
    /// Looks at one position at a time.
    pub(super) const POINT: Self = Self { size: 1, stride: 1, padding: 0 };

    /// Side of what comes out of maps of `side`.
    fn side(self, side: usize) -> usize {
        (side + 2 * self.padding - self.size) / self.stride + 1
    }

    /// The input position under `offset` of the window at output position `at`, unless it is in the padding.
    fn source(self, at: usize, offset: usize, side: usize) -> Option<usize> {
        (at * self.stride + offset).checked_sub(self.padding).filter(|&position| position < side)
    }
}

/// Channels of `side` × `side` positions.
pub(super) struct Maps {
    side: usize,
    channels: Vec<Vec<Lane>>,
}

impl Maps {
    /// Pictures of `side` × `side` pixels, a multiple of 16, with mean 0 and variance 1: patches of several sizes, each
    /// with its own random value. The shares of the sizes differ from picture to picture: one is nearly plain, another
    /// nearly noise.
    pub(super) fn pictures(channels: usize, side: usize, random: &mut Random) -> Self {
        let columns = PATCHES.into_iter().chain([side]);
        // Squared, so that one size tends to prevail.
        let mut share = |_| {
            let uniform = random.uniform();
            (uniform * uniform) as f32
        };
        let mut shares: Vec<Lane> = columns.clone().map(|_| std::array::from_fn(&mut share)).collect();
        for picture in 0..PICTURES {
            let power = shares.iter().map(|share| share[picture] * share[picture]).sum::<f32>().sqrt();
            shares.iter_mut().for_each(|share| share[picture] /= power);
        }
        let plane = |_| {
            let mut plane = vec![[0.0; PICTURES]; side * side];
            for (columns, shares) in columns.clone().zip(&shares) {
                let patch = side / columns;
                let value = |_| std::array::from_fn(|picture| shares[picture] * random.normal() as f32);
                let values: Vec<Lane> = (0..columns * columns).map(value).collect();
                for (at, lane) in plane.iter_mut().enumerate() {
                    multiply_add(lane, &values[at / side / patch * columns + at % side / patch], 1.0);
                }
            }
            plane
        };
        Self { side, channels: (0..channels).map(plane).collect() }
    }

    pub(super) fn channels(&self) -> usize {
        self.channels.len()
    }

    /// A convolution with `weights` \[out, in / groups, size, size\].
    pub(super) fn conv(&self, weights: &[f32], out: usize, groups: usize, window: Window) -> Self {
        let side = window.side(self.side);
        let area = window.size * window.size;
        let inputs = self.channels.len() / groups;
        let filter = |(number, weights): &(usize, &[f32])| {
            let group = &self.channels[number * groups / out * inputs..][..inputs];
            let mut plane = Vec::with_capacity(side * side);
            let mut taps = Vec::with_capacity(area);
            for at in 0..side * side {
                taps.clear();
                taps.extend((0..area).filter_map(|offset| Some((offset, self.source(window, side, at, offset)?))));
                let mut sum = [0.0; PICTURES];
                for (input, weights) in group.iter().zip(weights.chunks_exact(area)) {
                    taps.iter().for_each(|&(offset, from)| multiply_add(&mut sum, &input[from], weights[offset]));
                }
                plane.push(sum);
            }
            plane
        };
        let filters: Vec<_> = weights.chunks_exact(weights.len() / out).enumerate().collect();
        Self { side, channels: in_parallel(&filters, filter) }
    }

    /// A fully connected layer with `out` outputs over maps of one position; `draw` fills the weights of one output after
    /// the other.
    pub(super) fn dense(&self, out: usize, mut draw: impl FnMut(&mut [f32])) -> Self {
        let mut weights = vec![0.0; self.channels.len()];
        let mut respond = |_| {
            draw(&mut weights);
            let mut sum = [0.0; PICTURES];
            for (channel, &weight) in self.channels.iter().zip(&weights) {
                multiply_add(&mut sum, &channel[0], weight);
            }
            vec![sum]
        };
        Self { side: 1, channels: (0..out).map(&mut respond).collect() }
    }

    /// Channels that each are one position of these maps, as if they were of `side` × `side`.
    pub(super) fn spread(&self, side: usize) -> Self {
        let position = |at: usize| at / side * self.side / side * self.side + at % side * self.side / side;
        let one = |channel: &Vec<Lane>, at| vec![channel[position(at)]];
        let channels = self.channels.iter().flat_map(|channel| (0..side * side).map(move |at| one(channel, at)));
        Self { side: 1, channels: channels.collect() }
    }

    pub(super) fn max_pool(&self, window: Window) -> Self {
        let side = window.side(self.side);
        let pool = |input: &Vec<Lane>| {
            let greatest = |at| {
                let mut greatest = [f32::NEG_INFINITY; PICTURES];
                for from in (0..window.size * window.size).filter_map(|offset| self.source(window, side, at, offset)) {
                    for (to, from) in greatest.iter_mut().zip(&input[from]) {
                        *to = if *from > *to { *from } else { *to };
                    }
                }
                greatest
            };
            (0..side * side).map(greatest).collect()
        };
        Self { side, channels: self.channels.iter().map(pool).collect() }
    }

    /// The input position under one `offset` of the window at output position `at` of `side` × `side`, unless it is in
    /// the padding.
    fn source(&self, window: Window, side: usize, at: usize, offset: usize) -> Option<usize> {
        let y = window.source(at / side, offset / window.size, self.side)?;
        let x = window.source(at % side, offset % window.size, self.side)?;
        Some(y * self.side + x)
    }

    /// `values · scale + shift`, one pair per channel.
    pub(super) fn affine(mut self, scale_and_shift: &[(f32, f32)]) -> Self {
        for (plane, &(scale, shift)) in self.channels.iter_mut().zip(scale_and_shift) {
            plane.as_flattened_mut().iter_mut().for_each(|value| *value = *value * scale + shift);
        }
        self
    }

    /// What is below 0 becomes 0, and what is above `top` becomes `top`.
    pub(super) fn clamp(mut self, top: f32) -> Self {
        for plane in &mut self.channels {
            // Not `max`, which may keep either of 0 and -0.
            let clamped = |value: f32| if value > 0.0 { if value < top { value } else { top } } else { 0.0 };
            plane.as_flattened_mut().iter_mut().for_each(|value| *value = clamped(*value));
        }
        self
    }

    pub(super) fn add(mut self, other: &Self) -> Self {
        for (plane, other) in self.channels.iter_mut().zip(&other.channels) {
            for (to, from) in plane.iter_mut().zip(other) {
                multiply_add(to, from, 1.0);
            }
        }
        self
    }

    /// The mean over all positions.
    pub(super) fn average(&self) -> Self {
        let share = 1.0 / (self.side * self.side) as f32;
        let average = |plane: &Vec<Lane>| {
            let mut sum = [0.0; PICTURES];
            plane.iter().for_each(|lane| multiply_add(&mut sum, lane, share));
            vec![sum]
        };
        Self { side: 1, channels: self.channels.iter().map(average).collect() }
    }

    /// Mean and variance of each channel over all positions and pictures.
    pub(super) fn statistics(&self) -> Vec<(f64, f64)> {
        let of = |plane: &Vec<Lane>| {
            let values = plane.as_flattened();
            let count = values.len() as f64;
            let mean = values.iter().copied().map(f64::from).sum::<f64>() / count;
            let variance = values.iter().map(|&v| (f64::from(v) - mean) * (f64::from(v) - mean)).sum::<f64>() / count;
            (mean, variance)
        };
        self.channels.iter().map(of).collect()
    }
}

/// What `work` makes of each item, in their order, by as many threads as there are cores.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = items.len().div_ceil(threads).max(1);
    let all = |items: &[T]| -> Vec<R> { items.iter().map(&work).collect() };
    std::thread::scope(|scope| {
        let running: Vec<_> = items.chunks(share).map(|items| scope.spawn(|| all(items))).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("arithmetic does not panic")).collect()
    })
}

fn multiply_add(to: &mut Lane, from: &Lane, factor: f32) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from * factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One channel of 3 × 3 positions, 1 to 9, the same in all pictures.
    fn counting() -> Maps {
        Maps { side: 3, channels: vec![(1_u8..=9).map(|v| [f32::from(v); PICTURES]).collect()] }
    }

    fn first_picture(maps: &Maps) -> Vec<f32> {
        maps.channels.iter().flatten().map(|lane| lane[0]).collect()
    }

    #[test]
    fn a_convolution_slides_its_window_over_padded_maps() {
        let window = Window { size: 3, stride: 2, padding: 1 };
        let corners = [1.0, 0.0, 10.0, 0.0, 100.0, 0.0, 0.0, 0.0, 1000.0];
        assert_eq!(first_picture(&counting().conv(&corners, 1, 1, window)), [5100.0, 300.0, 750.0, 905.0]);
        assert_eq!(first_picture(&counting().max_pool(window)), [5.0, 6.0, 8.0, 9.0]);
    }

    #[test]
    fn pictures_are_normalised_and_differ() {
        let maps = Maps::pictures(3, 96, &mut Random::new(2));
        for (mean, variance) in maps.statistics() {
            assert!(mean.abs() < 0.5 && (variance - 1.0).abs() < 0.5, "{mean} {variance}");
        }
        assert_ne!(maps.channels[0][0][0], maps.channels[0][0][1]);
    }
}
