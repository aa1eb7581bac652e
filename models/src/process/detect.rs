//! Text detection as PP-OCR does it: a picture whose sides are multiples of 32, and the rectangles in which the network
//! sees text.
//!
//! What RapidOCR makes of the map of probabilities ("differentiable binarisation", Liao et al., 2019,
//! <https://arxiv.org/abs/1911.08947>) is simplified here: regions are upright rectangles around connected pixels,
//! where the original fits turned ones to contours; thresholds and growth are its own.

use super::answer::Region;
use super::{Answer, ProcessError, line, only_output};
use defer_partition::Tensor;
use image::RgbImage;
use std::ops::Range;

/// Sides of the input are multiples of this: what the network divides them by.
const STEP: u32 = 32;
/// The longer side of the input at most, as PaddleOCR has it. (RapidOCR enlarges until the shorter side has 736 pixels,
/// which makes a single line of text a picture of many megapixels.)
const LIMIT: u32 = 960;
/// A pixel with more than this probability belongs to text.
const PIXEL: f32 = 0.3;
/// A region's mean probability at least.
const REGION: f32 = 0.5;
/// Pixels of a region's shorter side at least, before it is grown.
const SIDE: usize = 3;
/// The network sees the inner part of a line only: each side moves out by this times area over perimeter.
const GROWTH: f64 = 1.6;

/// FP32 \[1,3,H,W\], H and W multiples of 32, up to 960.
pub(super) fn input(picture: &RgbImage) -> Tensor {
    let (width, height) = picture.dimensions();
    let share = (f64::from(LIMIT) / f64::from(width.max(height))).min(1.0);
    let side = |side: u32| {
        let steps = (f64::from(side) * share / f64::from(STEP)).round_ties_even();
        (steps.max(1.0) as u32 * STEP) as usize
    };
    let size = (side(width), side(height));
    line::tensor(picture, size, size)
}

/// The regions in FP32 \[1,1,H,W\] probabilities.
pub(super) fn answer(outputs: &[(String, Tensor)]) -> Result<Answer, ProcessError> {
    let (shape, map) =
        only_output(outputs, "[1,1,H,W]", |shape| matches!(shape, [1, 1, height, width] if height * width > 0))?;
    let (height, width) = (shape[2], shape[3]);
    let mut regions: Vec<Region> = connected(&map, width)
        .into_iter()
        .filter(|(columns, rows)| columns.len().min(rows.len()) >= SIDE)
        .filter_map(|(columns, rows)| {
            let score = mean(&map, width, &columns, &rows);
            let (columns, rows) = grown(columns, rows, width, height);
            let region = Region { left: columns.start, top: rows.start, right: columns.end, bottom: rows.end, score };
            (score >= REGION).then_some(region)
        })
        .collect();
    regions.sort_by_key(|region| (region.top, region.left));
    Ok(Answer::Regions(regions))
}

/// The columns and rows that each set of touching text pixels, corners included, extends over.
fn connected(map: &[f32], width: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let height = map.len() / width;
    let mut seen = vec![false; map.len()];
    let mut found = Vec::new();
    let mut open = Vec::new();
    for start in 0..map.len() {
        if seen[start] || map[start] <= PIXEL {
            continue;
        }
        seen[start] = true;
        open.push(start);
        let (mut columns, mut rows) = (width..0, height..0);
        while let Some(at) = open.pop() {
            let (x, y) = (at % width, at / width);
            columns = columns.start.min(x)..columns.end.max(x + 1);
            rows = rows.start.min(y)..rows.end.max(y + 1);
            for near_y in y.saturating_sub(1)..(y + 2).min(height) {
                for near in near_y * width + x.saturating_sub(1)..near_y * width + (x + 2).min(width) {
                    if !seen[near] && map[near] > PIXEL {
                        seen[near] = true;
                        open.push(near);
                    }
                }
            }
        }
        found.push((columns, rows));
    }
    found
}

fn mean(map: &[f32], width: usize, columns: &Range<usize>, rows: &Range<usize>) -> f32 {
    let sum: f64 = rows.clone().flat_map(|y| &map[y * width..][columns.clone()]).copied().map(f64::from).sum();
    (sum / (columns.len() * rows.len()) as f64) as f32
}

fn grown(columns: Range<usize>, rows: Range<usize>, width: usize, height: usize) -> (Range<usize>, Range<usize>) {
    let (across, down) = (columns.len() as f64, rows.len() as f64);
    let by = (across * down * GROWTH / (2.0 * (across + down))).round() as usize;
    let grow = |range: Range<usize>, limit: usize| range.start.saturating_sub(by)..(range.end + by).min(limit);
    (grow(columns, width), grow(rows, height))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_become_multiples_of_32() {
        for ((width, height), want) in [
            ((640, 352), [352, 640]),
            ((305, 57), [64, 320]),
            ((1, 1), [32, 32]),
            // Halves go to the even multiple, as the recipe's language rounds.
            ((80, 48), [64, 64]),
            ((1920, 1080), [544, 960]),
            ((10, 30_000), [960, 32]),
        ] {
            assert_eq!(input(&RgbImage::new(width, height)).shape[2..], want, "{width} x {height}");
        }
    }

    #[test]
    fn touching_pixels_are_one_region_and_weak_or_thin_ones_are_none() {
        let (width, height) = (64, 40);
        let mut map = vec![0.0; width * height];
        let mut fill = |columns: Range<usize>, rows: Range<usize>, value: f32| {
            rows.for_each(|y| map[y * width..][columns.clone()].fill(value));
        };
        fill(40..60, 4..8, 0.9);
        // Two that touch at a corner.
        fill(4..10, 6..10, 0.8);
        fill(10..16, 10..14, 0.8);
        // Below the mean, and too thin.
        fill(4..30, 20..26, 0.4);
        fill(4..30, 30..32, 1.0);
        let output = ("y".to_owned(), Tensor::from_f32(vec![1, 1, height, width], &map).unwrap());
        let Answer::Regions(regions) = answer(std::slice::from_ref(&output)).unwrap() else { panic!() };
        // The corner pair fills half of its rectangle: 0.4 on average, no region.
        assert_eq!(regions.len(), 1, "{regions:?}");
        let Region { left, top, right, bottom, score } = regions[0];
        // 20 × 4 grows by 80 · 1.6 / 48 = 2.7 on each side.
        assert_eq!([left, top, right, bottom], [37, 1, 63, 11]);
        assert!((score - 0.9).abs() < 1e-6);
        let text = answer(&[output]).unwrap().to_string();
        assert_eq!(text, "1 region: (37, 1) to (63, 11) (0.90)");
    }

    #[test]
    fn regions_stay_inside_and_in_order() {
        let mut map = vec![0.0; 40 * 40];
        for (x, y) in [(30, 0), (0, 0), (0, 30)] {
            (y..y + 10).for_each(|y| map[y * 40 + x..][..10].fill(1.0));
        }
        let output = ("y".to_owned(), Tensor::from_f32(vec![1, 1, 40, 40], &map).unwrap());
        let Answer::Regions(regions) = answer(&[output]).unwrap() else { panic!() };
        let corners: Vec<_> = regions.iter().map(|r| [r.left, r.top, r.right, r.bottom]).collect();
        assert_eq!(corners, [[0, 0, 14, 14], [26, 0, 40, 14], [0, 26, 14, 40]]);
    }
}
