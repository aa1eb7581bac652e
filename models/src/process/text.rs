//! Text recognition as PP-OCR does it: a line of text scaled to 48 pixels of height, and characters by greedy CTC.

use super::{Answer, ProcessError, line, only_output};
use defer_partition::Tensor;
use image::RgbImage;

const HEIGHT: usize = 48;
/// Narrower lines are padded to this width, at which the network was trained.
const MIN_WIDTH: usize = 320;
/// No line of text is longer; a picture that would come out wider is a mistake, and would take memory without end.
const MAX_WIDTH: usize = 8192;

/// FP32 \[1,3,48,W\], channels blue, green, red, from -1 to 1; zeros right of the picture.
pub(super) fn input(picture: &RgbImage) -> Result<Tensor, ProcessError> {
    let (width, height) = (picture.width(), picture.height());
    let scaled = u64::from(width) * HEIGHT as u64 / u64::from(height);
    let padded = match usize::try_from(scaled) {
        Ok(scaled) if scaled <= MAX_WIDTH => scaled.max(MIN_WIDTH),
        _ => {
            return Err(ProcessError::TooWide { width, height, scaled, limit: MAX_WIDTH });
        }
    };
    let text_width = (width as usize * HEIGHT).div_ceil(height as usize).min(padded);

    Ok(line::tensor(picture, (text_width, HEIGHT), (padded, HEIGHT)))
}

/// The characters that a network knows, by class; class 0 is CTC's blank.
#[derive(Clone, Debug)]
pub(super) struct Dictionary {
    characters: Vec<String>,
}

impl Dictionary {
    /// `lines` holds one character each, from class 1 on; the space follows as the last class.
    pub(super) fn parse(lines: &str) -> Self {
        let listed = lines.strip_suffix('\n').unwrap_or(lines).split('\n').map(|line| line.trim_end_matches('\r'));
        let characters = std::iter::once("").chain(listed).chain([" "]).map(str::to_owned).collect();
        Self { characters }
    }

    /// Greedy CTC over FP32 \[1,T,C\] probabilities: the best class of each step, repeats and blanks dropped.
    pub(super) fn decode(&self, outputs: &[(String, Tensor)]) -> Result<Answer, ProcessError> {
        let (shape, values) =
            only_output(outputs, "[1,T,C]", |shape| matches!(shape, [1, _, classes] if *classes > 0))?;
        let classes = shape[2];
        if classes != self.characters.len() {
            return Err(ProcessError::Dictionary { classes, dictionary: self.characters.len() });
        }
        let (mut text, mut sum, mut kept, mut previous) = (String::new(), 0.0, 0.0, 0);
        for step in values.chunks_exact(classes) {
            let (class, probability) = best(step);
            if class != 0 && class != previous {
                text.push_str(&self.characters[class]);
                sum += probability;
                kept += 1.0;
            }
            previous = class;
        }
        let confidence = if kept > 0.0 { sum / kept } else { 0.0 };
        Ok(Answer::Text { text, confidence })
    }
}

/// The greatest value and its index; the first of equals.
fn best(values: &[f32]) -> (usize, f32) {
    let greatest = |best: (usize, f32), at: (usize, f32)| if at.1 > best.1 { at } else { best };
    values.iter().copied().enumerate().fold((0, f32::NEG_INFINITY), greatest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use defer_partition::DType;

    fn probabilities(best: &[usize], classes: usize) -> Vec<(String, Tensor)> {
        let mut values = vec![0.0; best.len() * classes];
        for (step, class) in best.iter().enumerate() {
            values[step * classes + class] = if step == 0 { 0.5 } else { 1.0 };
        }
        vec![("y".into(), Tensor::from_f32(vec![1, best.len(), classes], &values).unwrap())]
    }

    #[test]
    fn ctc_drops_blanks_and_repeats() {
        let dictionary = Dictionary::parse("a\nb");
        let cases: [(&[usize], &str, f32); 5] = [
            (&[1, 2], "ab", 0.75),
            (&[1, 1, 0, 1, 3, 3, 2], "aa b", 0.875),
            (&[0, 2, 0, 2, 2], "bb", 1.0),
            (&[0, 0], "", 0.0),
            (&[], "", 0.0),
        ];
        for (best, text, confidence) in cases {
            let want = Answer::Text { text: text.into(), confidence };
            assert_eq!(dictionary.decode(&probabilities(best, 4)).unwrap(), want, "{best:?}");
        }
    }

    #[test]
    fn outputs_of_another_model_are_refused() {
        let dictionary = Dictionary::parse("a\nb\n");
        let two = [probabilities(&[1], 4), probabilities(&[1], 4)].concat();
        let batch = vec![("y".into(), Tensor::from_f32(vec![2, 1, 4], &[0.0; 8]).unwrap())];
        let integers = vec![("y".into(), Tensor::new(DType::Int32, vec![1, 1, 4], vec![0; 16]).unwrap())];
        for (outputs, want) in [
            (probabilities(&[1], 5), "knows 5 characters and its dictionary 4"),
            (two, "\"y\" FP32[1, 1, 4], \"y\""),
            (batch, "FP32[2, 1, 4]"),
            (integers, "INT32[1, 1, 4]"),
            (vec![], "got none"),
        ] {
            let error = dictionary.decode(&outputs).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn short_lines_are_padded_and_long_ones_are_not() {
        for ((width, height), want) in
            [((48, 48), 320), ((320, 48), 320), ((100, 24), 320), ((1000, 50), 960), ((333, 33), 484), ((1, 900), 320)]
        {
            let tensor = input(&RgbImage::new(width, height)).unwrap();
            assert_eq!(tensor.shape, [1, 3, 48, want], "{width} x {height}");
        }
        let error = input(&RgbImage::new(20_000, 10)).unwrap_err().to_string();
        assert!(error.contains("96000 pixels wide, 8192 is the limit"), "{error}");
    }
}
