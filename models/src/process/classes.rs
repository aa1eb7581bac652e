//! Classification as ImageNet networks have it: the middle of the picture at 224 × 224, and the likeliest classes.

use super::{Answer, Class, ProcessError, only_output};
use defer_partition::Tensor;
use image::RgbImage;
use image::imageops::{self, FilterType};

const SIDE: u32 = 224;
/// The shorter side before the middle is cut out.
const SHORTER: u32 = 256;
/// Mean and standard deviation of ImageNet's red, green and blue, from 0 to 1.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];
/// How many classes an answer names.
const TOP: usize = 5;

/// FP32 \[1,3,224,224\], channels red, green, blue.
pub(super) fn input(picture: &RgbImage) -> Tensor {
    let (width, height) = picture.dimensions();
    // Cut before scaling: a picture that is much longer than it is high would grow beyond all memory.
    let side = f64::from(width.min(height)) * f64::from(SIDE) / f64::from(SHORTER);
    let side = (side.round() as u32).max(1);
    let middle = imageops::crop_imm(picture, (width - side) / 2, (height - side) / 2, side, side).to_image();
    let scaled = imageops::resize(&middle, SIDE, SIDE, FilterType::Triangle);

    let plane = (SIDE * SIDE) as usize;
    let mut values = vec![0.0; 3 * plane];
    for (i, pixel) in scaled.pixels().enumerate() {
        for channel in 0..3 {
            let level = f32::from(pixel.0[channel]) / 255.0;
            values[channel * plane + i] = (level - MEAN[channel]) / DEVIATION[channel];
        }
    }
    Tensor::from_f32(vec![1, 3, SIDE as usize, SIDE as usize], &values).expect("as many values as the shape says")
}

/// The likeliest classes of FP32 \[1,C\] logits, with softmax probabilities.
pub(super) fn answer(outputs: &[(String, Tensor)]) -> Result<Answer, ProcessError> {
    let (_, logits) = only_output(outputs, "[1,C]", |shape| matches!(shape, [1, classes] if *classes > 0))?;
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = logits.iter().map(|logit| (logit - greatest).exp()).collect();
    let sum: f32 = weights.iter().sum();
    let mut classes: Vec<Class> =
        weights.iter().enumerate().map(|(index, weight)| Class { index, probability: weight / sum }).collect();
    classes.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    classes.truncate(TOP);
    Ok(Answer::Classes(classes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn the_middle_is_taken_and_normalised() {
        for (width, height) in [(256, 256), (700, 300), (90, 400), (1, 5)] {
            let tensor = input(&RgbImage::from_pixel(width, height, Rgb([255, 0, 128])));
            assert_eq!(tensor.shape, [1, 3, 224, 224], "{width} x {height}");
            let values = tensor.to_f32().unwrap();
            let plane = 224 * 224;
            for (channel, level) in [(0, 1.0), (1, 0.0), (2, 128.0 / 255.0)] {
                let want = (level - MEAN[channel]) / DEVIATION[channel];
                let plane = &values[channel * plane..][..plane];
                assert!(plane.iter().all(|v| (v - want).abs() < 1e-5), "{width} x {height}, channel {channel}");
            }
        }
        let mut picture = RgbImage::from_pixel(512, 256, Rgb([0, 0, 0]));
        picture.put_pixel(144, 16, Rgb([255, 255, 255]));
        let values = input(&picture).to_f32().unwrap();
        assert!(values[0] > 2.0 && values[1] < 0.0, "the crop of 512 x 256 starts at (144, 16)");
    }

    #[test]
    fn the_answer_is_the_top_of_the_softmax() {
        let mut logits = vec![0.0; 1000];
        logits[7] = 1000.0;
        logits[3] = 1000.0 - std::f32::consts::LN_2;
        let answer = answer(&[("logits".into(), Tensor::from_f32(vec![1, 1000], &logits).unwrap())]).unwrap();
        let Answer::Classes(classes) = &answer else { panic!("{answer:?}") };
        assert_eq!(classes.iter().map(|c| c.index).collect::<Vec<_>>(), [7, 3, 0, 1, 2]);
        assert!((classes[0].probability - 2.0 / 3.0).abs() < 1e-5 && classes[4].probability == 0.0);
        assert!(answer.to_string().starts_with("class 7 (0.667), class 3 (0.333)"), "{answer}");
    }
}
