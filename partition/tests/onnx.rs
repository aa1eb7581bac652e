//! Reading files: what is accepted, what is refused and how.

#![allow(clippy::unwrap_used)]

mod support;

use defer_partition::fold::fold;
use defer_partition::onnx::proto::{ModelProto, StringStringEntryProto, TensorProto};
use defer_partition::onnx::{OnnxError, ValueError, decode, read};
use defer_partition::slice::slice;
use defer_partition::testing::{Random, random_model};
use defer_partition::{Atoms, DType, Network, Partition, TensorInfo};
use prost::Message;
use support::{floats, model, op, values};

fn add_model(weights: TensorProto) -> ModelProto {
    model(&["x"], &["y"], vec![op("Add", &["x", "w"], &["y"])], vec![weights])
}

fn first(model: &ModelProto) -> &TensorProto {
    &model.graph.as_ref().unwrap().initializer[0]
}

fn external(entries: &[(&str, &str)]) -> TensorProto {
    let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
        key: Some((*key).to_owned()),
        value: Some((*value).to_owned()),
    };
    TensorProto {
        name: Some("w".into()),
        dims: vec![1, 2],
        data_type: Some(1),
        data_location: Some(1),
        external_data: entries.iter().map(entry).collect(),
        ..Default::default()
    }
}

#[test]
fn every_storage_form_becomes_raw_little_endian_bytes() {
    let base = |data_type, dims: &[i64]| TensorProto {
        name: Some("w".into()),
        data_type: Some(data_type),
        dims: dims.to_vec(),
        ..Default::default()
    };
    let cases: [(TensorProto, Vec<u8>); 9] = [
        (TensorProto { float_data: vec![1.0, -2.0], ..base(1, &[2]) }, [1f32, -2.0].map(f32::to_le_bytes).concat()),
        (TensorProto { double_data: vec![0.5], ..base(11, &[]) }, 0.5f64.to_le_bytes().to_vec()),
        (TensorProto { int64_data: vec![-1], ..base(7, &[1]) }, vec![0xff; 8]),
        (TensorProto { uint64_data: vec![7], ..base(12, &[1]) }, vec![7, 0, 0, 0]),
        (TensorProto { int32_data: vec![1, 0, 1], ..base(9, &[3]) }, vec![1, 0, 1]),
        (TensorProto { int32_data: vec![-2], ..base(3, &[1]) }, vec![0xfe]),
        (TensorProto { int32_data: vec![0x3c00], ..base(10, &[1]) }, vec![0x00, 0x3c]),
        // Two of four bits to the byte.
        (TensorProto { int32_data: vec![0x21, 0x03], ..base(22, &[3]) }, vec![0x21, 0x03]),
        (base(1, &[0, 3]), vec![]),
    ];
    for (tensor, want) in cases {
        let model = decode(add_model(tensor.clone()).encode_to_vec().into()).unwrap();
        assert_eq!(first(&model).raw_data.as_deref(), Some(want.as_slice()), "{tensor:?}");
    }
}

#[test]
fn weights_are_views_into_the_file() {
    let bytes = bytes::Bytes::from(add_model(floats("w", &[1000], &[1.5; 1000])).encode_to_vec());
    let range = bytes.as_ptr_range();
    let model = decode(bytes).unwrap();
    assert!(range.contains(&first(&model).raw_data().as_ptr()));
}

#[test]
fn external_data_comes_from_files_beside_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let data: Vec<u8> = [9f32, 1.0, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(dir.path().join("sub/w.bin"), data).unwrap();
    let save = |entries: &[(&str, &str)]| std::fs::write(&path, add_model(external(entries)).encode_to_vec()).unwrap();

    save(&[("location", "sub/w.bin"), ("offset", "4"), ("length", "8")]);
    let model = read(&path).unwrap();
    assert_eq!(values(first(&model)), [1.0, 2.0]);
    assert!(first(&model).external_data.is_empty() && first(&model).data_location.is_none());
    save(&[("location", "./sub/w.bin"), ("offset", "4")]);
    assert_eq!(values(first(&read(&path).unwrap())), [1.0, 2.0]);

    for outside in ["/etc/passwd", "../m.onnx", "sub/../../x", "", "..\\x", "C:x"] {
        save(&[("location", outside)]);
        let error = read(&path).unwrap_err();
        assert!(matches!(&error, OnnxError::Outside { location, .. } if location == outside), "{outside}: {error}");
    }
    for (offset, length) in [("8", "8"), ("13", "0"), ("18446744073709551615", "8"), ("99", "")] {
        let mut entries = vec![("location", "sub/w.bin"), ("offset", offset)];
        entries.extend((!length.is_empty()).then_some(("length", length)));
        save(&entries);
        let error = read(&path).unwrap_err();
        assert!(matches!(error, OnnxError::ExternalRange { len: 12, .. }), "{offset} {length}: {error}");
    }
    save(&[("location", "sub/w.bin"), ("offset", "-4")]);
    assert!(matches!(read(&path), Err(OnnxError::ExternalField { field: "offset", .. })));
    save(&[("location", "sub/w.bin"), ("length", "4")]);
    assert!(matches!(read(&path), Err(OnnxError::Value(ValueError::Length { want: 8, got: 4, .. }))));
    save(&[("location", "gone.bin")]);
    assert!(read(&path).unwrap_err().to_string().contains("gone.bin"));
    save(&[]);
    assert!(matches!(read(&path), Err(OnnxError::NoLocation { .. })));
}

#[test]
fn damaged_models_are_errors_or_other_models_but_never_panics() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let mut bytes = random_model(seed / 4).encode_to_vec();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        let Ok(model) = decode(bytes.into()) else { continue };
        let Ok(mut net) = Network::new(model) else { continue };
        fold(&mut net);
        let atoms = Atoms::new(&net);
        let cuts: Vec<usize> = (0..atoms.atoms.len() - 1).collect();
        for stage in Partition::new(&net, &atoms, &cuts).unwrap().stages {
            let info = |name: &str| Some(TensorInfo { name: name.into(), dtype: DType::Fp32, shape: vec![] });
            slice(&net, &stage, &info).unwrap().embedded();
        }
    }
}

#[test]
fn what_is_no_model_is_refused_with_the_reason() {
    let good = add_model(floats("w", &[1, 2], &[1.0, 2.0]));
    let bytes = good.encode_to_vec();
    assert!(decode(bytes.clone().into()).is_ok());
    // Cut anywhere, it is an error or at least never a panic; cut inside the graph, it is an error.
    for len in 0..bytes.len() {
        let result = decode(bytes[..len].to_vec().into());
        assert!(result.is_err(), "cut to {len} of {} bytes", bytes.len());
    }
    assert!(matches!(decode(vec![0x89, b'P', b'N', b'G'].into()), Err(OnnxError::Wire(_))));
    assert!(matches!(decode(Vec::new().into()), Err(OnnxError::NoGraph)));
    let missing = ModelProto { opset_import: vec![], ..good.clone() };
    assert!(matches!(decode(missing.encode_to_vec().into()), Err(OnnxError::NoOpset)));
    let missing = ModelProto { ir_version: None, ..good };
    assert!(matches!(decode(missing.encode_to_vec().into()), Err(OnnxError::NoIrVersion)));
    let short = add_model(TensorProto { dims: vec![3], ..floats("w", &[1, 2], &[1.0, 2.0]) });
    assert!(matches!(decode(short.encode_to_vec().into()), Err(OnnxError::Value(ValueError::Length { .. }))));
    for dims in [vec![-1], vec![i64::MAX, i64::MAX]] {
        let odd = add_model(TensorProto { dims, ..floats("w", &[1], &[1.0]) });
        assert!(matches!(decode(odd.encode_to_vec().into()), Err(OnnxError::Value(ValueError::Shape { .. }))));
    }
    let unknown = add_model(TensorProto { data_type: Some(99), ..floats("w", &[1], &[1.0]) });
    assert!(matches!(decode(unknown.encode_to_vec().into()), Err(OnnxError::Value(ValueError::DataType { .. }))));
    let elsewhere = add_model(external(&[("location", "w.bin")]));
    assert!(matches!(decode(elsewhere.encode_to_vec().into()), Err(OnnxError::Value(ValueError::Elsewhere { .. }))));
    let none = read(std::path::Path::new("no/such.onnx")).unwrap_err().to_string();
    assert!(none.contains("no/such.onnx"), "{none}");
}
