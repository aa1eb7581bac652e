//! The catalogue and its samples are complete, and fit each other.

use defer_models::{
    Answer, DICTIONARY_KEY, Origin, Processor, Task, calibration_lines, catalogue, find, metadata_of, page,
    read_picture, samples, trial_lines,
};
use defer_partition::onnx::proto::{ModelProto, StringStringEntryProto};
use defer_partition::{Network, Tensor, onnx};
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
    for sample in samples().iter().chain([page()]) {
        assert!(sample.png.len() < 15_000, "{}", sample.name);
        read_picture(sample.png).unwrap();
    }
    let of_all: Vec<_> = samples().iter().map(|sample| sample.text).collect();
    assert_eq!(page().text.lines().collect::<Vec<_>>(), of_all);
    for entry in catalogue() {
        let inputs = entry.sample_inputs().unwrap();
        let shapes: Vec<_> =
            inputs.iter().map(|(name, tensors)| (name.as_str(), tensors[0].1.shape.as_slice())).collect();
        let want: &[(&str, &[usize])] = match entry.task {
            Task::TextRecognition => {
                &[("label", &[1, 3, 48, 320]), ("receipt", &[1, 3, 48, 342]), ("sentence", &[1, 3, 48, 758])]
            }
            Task::TextDetection => &[
                ("page", &[1, 3, 352, 640]),
                ("label", &[1, 3, 64, 320]),
                ("receipt", &[1, 3, 32, 224]),
                ("sentence", &[1, 3, 64, 960]),
            ],
            Task::TextDirection => &[
                ("label", &[1, 3, 48, 192]),
                ("label-turned", &[1, 3, 48, 192]),
                ("receipt", &[1, 3, 48, 192]),
                ("receipt-turned", &[1, 3, 48, 192]),
                ("sentence", &[1, 3, 48, 192]),
                ("sentence-turned", &[1, 3, 48, 192]),
            ],
            Task::Classification => {
                &[("label", &[1, 3, 224, 224]), ("receipt", &[1, 3, 224, 224]), ("sentence", &[1, 3, 224, 224])]
            }
            Task::TokenEmbedding => &[("tokens-32", &[1, 32]), ("pair-21", &[1, 21]), ("padded-2x16", &[2, 16])],
        };
        assert_eq!(shapes, want, "{}", entry.name);
        for (sample, tensors) in &inputs {
            let fits = entry.inputs.iter().zip(tensors).all(|(input, (name, tensor))| {
                input.name == name && input.dtype == tensor.dtype && input.info().admits(&tensor.shape)
            });
            assert!(fits && tensors.len() == entry.inputs.len(), "{}, {sample}", entry.name);
        }
    }
}

#[test]
fn what_is_tried_was_not_calibrated_with() {
    for entry in catalogue() {
        let (calibration, trial) = (entry.calibration_inputs().unwrap(), entry.trial_inputs().unwrap());
        assert!(calibration.len() > entry.sample_inputs().unwrap().len() && trial.len() >= 3, "{}", entry.name);
        let known: Vec<_> = calibration.iter().map(|(_, inputs)| inputs).collect();
        for (name, inputs) in &trial {
            assert!(!known.contains(&inputs), "{}: {name} is calibrated with", entry.name);
            let fits = entry.inputs.iter().zip(inputs).all(|(input, (name, tensor))| {
                input.name == name && tensor.dtype == input.dtype && input.info().admits(&tensor.shape)
            });
            assert!(fits && inputs.len() == entry.inputs.len(), "{}, {name}", entry.name);
        }
    }
    assert!(trial_lines().all(|line| calibration_lines().chain(samples()).all(|other| other.text != line.text)));
}

/// Networks that are not generated have to be downloaded; where they cannot be had, this says so.
#[test]
fn the_files_take_the_inputs_that_the_catalogue_says() {
    for entry in catalogue().iter().filter(|entry| !entry.name.starts_with("vgg")) {
        let file = match entry.fetch(&mut |line| println!("{line}")) {
            Ok(file) => file,
            Err(error) if entry.trained => {
                println!("SKIPPED: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let network = Network::new(onnx::read(&file).unwrap()).unwrap();
        let got: Vec<_> = network.inputs().iter().map(|input| input.info()).collect();
        assert_eq!(got, entry.inputs.iter().map(|input| input.info()).collect::<Vec<_>>(), "{}", entry.name);
    }
}

#[test]
fn a_network_of_tokens_takes_no_pictures() {
    let processor = Processor::for_model(find("bert-mini").unwrap(), &[]).unwrap();
    let error = processor.input(&read_picture(page().png).unwrap()).unwrap_err().to_string();
    assert_eq!(error, "model bert-mini takes token ids, no pictures; give its inputs as .npy files");
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
