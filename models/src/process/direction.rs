//! Text direction as PP-OCR does it: a line of text scaled into 48 × 192 pixels, and one of two classes.

use super::{Answer, ProcessError, line, only_output};
use defer_partition::Tensor;
use image::RgbImage;

const HEIGHT: usize = 48;
/// Longer lines are squeezed.
const WIDTH: usize = 192;
const DEGREES: [u16; 2] = [0, 180];

/// FP32 \[1,3,48,192\], zeros right of a short picture.
pub(super) fn input(picture: &RgbImage) -> Tensor {
    let width = (picture.width() as usize * HEIGHT).div_ceil(picture.height() as usize).min(WIDTH);
    line::tensor(picture, (width, HEIGHT), (WIDTH, HEIGHT))
}

/// The likelier of the two classes of FP32 \[1,2\] probabilities.
pub(super) fn answer(outputs: &[(String, Tensor)]) -> Result<Answer, ProcessError> {
    let (_, probabilities) = only_output(outputs, "[1,2]", |shape| shape == [1, DEGREES.len()])?;
    let class = usize::from(probabilities[1] > probabilities[0]);
    Ok(Answer::Direction { degrees: DEGREES[class], probability: probabilities[class] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn long_lines_are_squeezed_and_short_ones_padded() {
        for ((width, height), filled) in [((48, 48), 48), ((49, 48), 49), ((5, 9), 27), ((2000, 30), 192)] {
            let tensor = input(&RgbImage::from_pixel(width, height, Rgb([255, 255, 255])));
            assert_eq!(tensor.shape, [1, 3, 48, 192]);
            let row = tensor.to_f32().unwrap()[..192].to_vec();
            assert_eq!(row.iter().filter(|v| **v > 0.99).count(), filled, "{width} x {height}");
        }
    }

    #[test]
    fn the_likelier_class_is_the_answer() {
        for (probabilities, want) in [([0.9, 0.1], "turned by 0° (0.900)"), ([0.25, 0.75], "turned by 180° (0.750)")]
        {
            let output = ("y".to_owned(), Tensor::from_f32(vec![1, 2], &probabilities).unwrap());
            assert_eq!(answer(&[output]).unwrap().to_string(), want);
        }
        let output = ("y".to_owned(), Tensor::from_f32(vec![2, 1], &[0.0; 2]).unwrap());
        assert!(answer(&[output]).unwrap_err().to_string().contains("expected one output FP32 [1,2], got \"y\""));
    }
}
