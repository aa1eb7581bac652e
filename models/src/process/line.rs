//! Pictures as the networks of text recognition take them: blue, green, red, from -1 to 1. The recipes here and beside
//! follow RapidOCR 3.10 (Apache-2.0).

use defer_partition::Tensor;
use image::RgbImage;

/// FP32 \[1,3,height,width\], channels blue, green, red, from -1 to 1: `picture` scaled to the size `scaled`, width first,
/// in the upper left corner of a canvas of the size `canvas`; zeros elsewhere.
pub(super) fn tensor(picture: &RgbImage, scaled: (usize, usize), canvas: (usize, usize)) -> Tensor {
    let (width, height) = canvas;
    let columns = taps(picture.width(), scaled.0);
    let mut values = vec![0.0; 3 * height * width];
    for (y, row) in taps(picture.height(), scaled.1).iter().enumerate() {
        for (x, column) in columns.iter().enumerate() {
            for channel in 0..3 {
                let level = interpolate(picture, *column, *row, 2 - channel);
                values[(channel * height + y) * width + x] = (level / 255.0 - 0.5) / 0.5;
            }
        }
    }
    Tensor::from_f32(vec![1, 3, height, width], &values).expect("as many values as the shape says")
}

/// Two source pixels and the share of the second.
#[derive(Clone, Copy)]
struct Tap {
    first: u32,
    second: u32,
    share: f32,
}

/// For each of `to` pixels along an axis, where it falls among `from` source pixels: centres aligned, edges repeated,
/// no smoothing when it shrinks, as OpenCV's `INTER_LINEAR` has it and the networks expect.
fn taps(from: u32, to: usize) -> Vec<Tap> {
    let last = from - 1;
    let step = f64::from(from) / to as f64;
    (0..to)
        .map(|i| {
            let at = ((i as f64 + 0.5) * step - 0.5).clamp(0.0, f64::from(last));
            let first = at as u32;
            Tap { first, second: (first + 1).min(last), share: (at - f64::from(first)) as f32 }
        })
        .collect()
}

/// From 0 to 255.
fn interpolate(picture: &RgbImage, x: Tap, y: Tap, channel: usize) -> f32 {
    let level = |x, y| f32::from(picture.get_pixel(x, y).0[channel]);
    let row = |y| level(x.first, y) * (1.0 - x.share) + level(x.second, y) * x.share;
    row(y.first) * (1.0 - y.share) + row(y.second) * y.share
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn channels_are_blue_green_red_from_minus_one_to_one() {
        let mut picture = RgbImage::from_pixel(96, 48, Rgb([255, 0, 51]));
        picture.put_pixel(0, 0, Rgb([0, 0, 0]));
        let values = tensor(&picture, (96, 48), (320, 48)).to_f32().unwrap();
        let at = |channel: usize, y: usize, x: usize| values[(channel * 48 + y) * 320 + x];
        let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(close(at(0, 0, 0), -1.0) && close(at(2, 0, 0), -1.0));
        assert!(close(at(0, 20, 50), -0.6) && close(at(1, 20, 50), -1.0) && close(at(2, 20, 50), 1.0));
        assert_eq!([at(0, 0, 96), at(2, 47, 319)], [0.0, 0.0]);
    }

    #[test]
    fn scaling_interpolates_between_pixel_centres() {
        let mut picture = RgbImage::new(2, 24);
        for y in 0..24 {
            picture.put_pixel(1, y, Rgb([255, 255, 255]));
        }
        let values = tensor(&picture, (4, 48), (320, 48)).to_f32().unwrap();
        let levels: Vec<f32> = values[..4].iter().map(|v| (v + 1.0) / 2.0).collect();
        assert_eq!(levels, [0.0, 0.25, 0.75, 1.0]);
    }
}
