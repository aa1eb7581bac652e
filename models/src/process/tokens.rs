//! Token ids for networks that take text as numbers, and the vectors that come out.
//!
//! The networks of the catalogue that take tokens are untrained, and no vocabulary comes with them: the ids are made up.

use super::{Answer, Inputs, ProcessError};
use crate::catalogue::Entry;
use defer_partition::{DType, Tensor};

/// As BERT's vocabularies have them: padding, start of a text, end of a part of it, first of the words.
const PAD: i64 = 0;
const START: i64 = 101;
const END: i64 = 102;
const FIRST_WORD: i64 = 1000;
/// Words that ids are made up from; the vocabulary is larger.
const WORDS: u64 = 29_000;
/// The output with one vector per sequence.
const POOLED: &str = "pooler_output";

/// One text of two parts, some padding after it.
struct Text {
    /// Tokens of both parts, start and ends included.
    parts: [usize; 2],
    padding: usize,
    /// Other words for another one.
    seed: usize,
}

/// Samples of different lengths and batches.
const SAMPLES: [(&str, &[Text]); 3] = [
    ("tokens-32", &[Text { parts: [32, 0], padding: 0, seed: 0 }]),
    ("pair-21", &[Text { parts: [12, 9], padding: 0, seed: 0 }]),
    ("padded-2x16", &[Text { parts: [16, 0], padding: 0, seed: 0 }, Text { parts: [4, 3], padding: 9, seed: 0 }]),
];

/// The samples for `entry`, whose inputs are ids, mask and types in this order: INT64 \[texts, tokens\].
pub(super) fn samples(entry: &Entry) -> Vec<(String, Inputs)> {
    SAMPLES.iter().map(|(name, texts)| ((*name).to_owned(), inputs(entry, texts))).collect()
}

/// Some more, of other words for another `seed`.
pub(super) fn made_up(entry: &Entry, seed: usize) -> Vec<(String, Inputs)> {
    let text = |tokens: usize| {
        let texts = [Text { parts: [tokens, tokens / 3], padding: 0, seed }];
        (format!("tokens-{}-{seed}", texts[0].len()), inputs(entry, &texts))
    };
    [12, 18, 24, 30].map(|tokens| text(tokens + seed)).to_vec()
}

fn inputs(entry: &Entry, texts: &[Text]) -> Inputs {
    let [ids, mask, types] = entry.inputs else { return Vec::new() };
    let inputs = [(ids, id as Value), (mask, masked), (types, part)];
    inputs.map(|(input, of)| (input.name.to_owned(), tensor(texts, of))).to_vec()
}

/// What an input says of one position of a text.
type Value = fn(&Text, usize) -> i64;

fn tensor(texts: &[Text], of: Value) -> Tensor {
    let tokens = texts.iter().map(Text::len).max().unwrap_or(0);
    let values = texts.iter().flat_map(|text| (0..tokens).map(move |at| of(text, at)));
    let data: Vec<u8> = values.flat_map(i64::to_le_bytes).collect();
    Tensor::new(DType::Int64, vec![texts.len(), tokens], data).expect("as many values as the shape says")
}

impl Text {
    fn words(&self) -> usize {
        self.parts[0] + self.parts[1]
    }

    fn len(&self) -> usize {
        self.words() + self.padding
    }
}

fn id(text: &Text, at: usize) -> i64 {
    if at >= text.words() {
        PAD
    } else if at == 0 {
        START
    } else if at + 1 == text.parts[0] || at + 1 == text.words() {
        END
    } else {
        // Far apart, and the same every time.
        FIRST_WORD + ((at + 1013 * text.seed) as u64 * 7919 % WORDS) as i64
    }
}

fn masked(text: &Text, at: usize) -> i64 {
    i64::from(at < text.words())
}

fn part(text: &Text, at: usize) -> i64 {
    i64::from((text.parts[0]..text.words()).contains(&at))
}

/// How many vectors there are, and the one of the first sequence: FP32 \[B,S,W\] and `pooler_output` FP32 \[B,W\].
pub(super) fn answer(outputs: &[(String, Tensor)]) -> Result<Answer, ProcessError> {
    let floats = |tensor: &Tensor| tensor.dtype == DType::Fp32;
    let pooled = outputs.iter().find(|(name, tensor)| name == POOLED && floats(tensor));
    let hidden = outputs.iter().find(|(name, tensor)| name != POOLED && floats(tensor));
    if let (2, Some((_, pooled)), Some((_, hidden))) = (outputs.len(), pooled, hidden)
        && let (&[rows, width], &[sequences, tokens, hidden_width]) = (&pooled.shape[..], &hidden.shape[..])
        && (rows, width) == (sequences, hidden_width)
        && rows > 0
        && let Some(values) = pooled.to_f32()
    {
        return Ok(Answer::Embedding { sequences, tokens, pooled: values[..width].to_vec() });
    }
    let want = format!("outputs FP32 [B,S,W] and \"{POOLED}\" FP32 [B,W]");
    Err(super::unexpected(want, outputs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_texts_with_parts_and_padding() {
        let samples = samples(crate::find("bert-mini").unwrap());
        let (name, inputs) = &samples[2];
        assert_eq!(name, "padded-2x16");
        let row = |input: usize| -> Vec<i64> {
            let values = inputs[input].1.data.as_chunks().0.iter().copied().map(i64::from_le_bytes);
            values.skip(16).collect()
        };
        let ids = row(0);
        assert_eq!([ids[0], ids[3], ids[6], ids[7], ids[15]], [START, END, END, PAD, PAD]);
        assert!([1, 2, 4, 5].iter().all(|&at| (FIRST_WORD..30_522).contains(&ids[at])));
        assert_eq!(row(1), [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(row(2), [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for (name, inputs) in &samples {
            let shapes: Vec<_> = inputs.iter().map(|(_, tensor)| &tensor.shape).collect();
            assert!(shapes.iter().all(|shape| *shape == shapes[0]), "{name}: {shapes:?}");
        }
    }

    #[test]
    fn the_answer_shows_the_first_vector() {
        let floats = |shape: &[usize]| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|at: usize| at as f32 / 8.0).collect();
            Tensor::from_f32(shape.to_vec(), &values).unwrap()
        };
        let (hidden, pooled) = ("last_hidden_state".to_owned(), POOLED.to_owned());
        let good = [(pooled.clone(), floats(&[2, 6])), (hidden.clone(), floats(&[2, 3, 6]))];
        let text = answer(&good).unwrap().to_string();
        assert_eq!(text, "2 × 3 tokens as vectors of 6: 0.000, 0.125, 0.250, 0.375, 0.500, …");
        for bad in [
            vec![good[0].clone()],
            vec![(pooled.clone(), floats(&[2, 6])), (hidden.clone(), floats(&[2, 3, 4]))],
            vec![(pooled, floats(&[0, 6])), (hidden, floats(&[0, 3, 6]))],
        ] {
            assert!(answer(&bad).unwrap_err().to_string().starts_with("expected outputs FP32 [B,S,W]"));
        }
    }
}
