//! The catalogue and its samples are complete, and fit each other.

use defer_models::{
    Answer, DICTIONARY_KEY, Origin, Processor, Task, catalogue, find, metadata_of, read_picture, samples,
};
use defer_partition::Tensor;
use defer_partition::onnx::proto::{ModelProto, StringStringEntryProto};
use std::collections::HashSet;

#[test]
fn entries_are_complete() {
    let names: HashSet<_> = catalogue().iter().map(|entry| entry.name).collect();
    assert_eq!(names.len(), catalogue().len());
    for entry in catalogue() {
        let name = entry.name;
        assert_eq!(find(name).unwrap().sha256, entry.sha256);
        // The name becomes a file name and a part of URLs.
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
        assert!(entry.sha256.len() == 64 && entry.sha256.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')), "{name}");
        assert!(!entry.summary.is_empty() && !entry.licence.is_empty() && !entry.attribution.is_empty(), "{name}");
        assert_eq!(entry.trained, matches!(entry.origin, Origin::Wheel { .. }), "{name}");
        assert_eq!(entry.trained, !entry.summary.contains("untrained"), "{name}");
    }
    assert!(find("resnet").is_none());
}

#[test]
fn samples_become_inputs_of_every_model() {
    for sample in samples() {
        assert!(sample.png.len() < 15_000, "{}", sample.name);
        read_picture(sample.png).unwrap();
    }
    for entry in catalogue() {
        let inputs = entry.sample_inputs().unwrap();
        let names: Vec<_> = inputs.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["label", "receipt", "sentence"]);
        let shapes: Vec<_> = inputs.iter().map(|(_, tensors)| tensors[0].1.shape.clone()).collect();
        let (input, want) = match entry.task {
            Task::TextRecognition => ("x", [[1, 3, 48, 320], [1, 3, 48, 342], [1, 3, 48, 758]]),
            Task::Classification => ("input", [[1, 3, 224, 224]; 3]),
        };
        assert_eq!(shapes, want, "{}", entry.name);
        assert!(inputs.iter().all(|(_, tensors)| tensors.len() == 1 && tensors[0].0 == input));
    }
}

#[test]
fn the_dictionary_comes_with_the_metadata() {
    let property = |key: Option<&str>, value: &str| StringStringEntryProto {
        key: key.map(str::to_owned),
        value: Some(value.to_owned()),
    };
    let model = ModelProto {
        metadata_props: vec![property(None, "lost"), property(Some("a"), "b"), property(Some(DICTIONARY_KEY), "x\ny")],
        ..Default::default()
    };
    let metadata = metadata_of(&model);
    assert_eq!(metadata, [("a".to_owned(), "b".to_owned()), (DICTIONARY_KEY.to_owned(), "x\ny".to_owned())]);

    let entry = find("ocr-rec").unwrap();
    let processor = Processor::for_model(entry, &metadata).unwrap();
    let probabilities = [0.0, 0.0, 0.96, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0];
    let outputs = [("y".to_owned(), Tensor::from_f32(vec![1, 3, 4], &probabilities).unwrap())];
    let answer = processor.answer(&outputs).unwrap();
    assert_eq!(answer.to_string(), "\"y \" (0.98)");
    assert!(matches!(answer, Answer::Text { .. }));

    let error = Processor::for_model(entry, &metadata[..1]).unwrap_err().to_string();
    assert_eq!(error, "the model's metadata has no \"character\": give the metadata of the uncut model file");
}

#[test]
fn what_is_no_picture_is_refused() {
    let error = read_picture(b"GIF89a").unwrap_err().to_string();
    assert!(error.starts_with("cannot decode the picture:") && error.ends_with("give a PNG or JPEG file"), "{error}");
    let processor = Processor::for_model(find("resnet50").unwrap(), &[]).unwrap();
    let error = processor.input(&image::DynamicImage::new_rgb8(0, 7)).unwrap_err().to_string();
    assert!(error.contains("0 × 7 pixels"), "{error}");
}
