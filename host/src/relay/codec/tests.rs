use super::*;
use proptest::prelude::*;

/// All codecs, with some more parameters.
fn codecs() -> Vec<Codec> {
    let more = [
        "zfp:relative=1e-2",
        "zfp:rate=3.5",
        "zfp:precision=32",
        "constant-size:f16",
        "constant-size:density=1",
        "int8+zstd:relative=1e-2",
    ];
    Codec::ALL.into_iter().chain(more.iter().map(|text| text.parse().expect("a codec"))).collect()
}

fn seal(dtype: DType, shape: Vec<usize>, codec: Codec, data: Vec<u8>) -> Encoded {
    let checksum = XxHash3_64::oneshot(&data);
    Encoded { dtype, shape, codec, data, checksum }
}

fn floats(shape: Vec<usize>, value: impl FnMut(usize) -> f32) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    Tensor::from_f32(shape, &values).expect("as many values as the shape has")
}

/// Something like what comes out of a ReLU: half zeros, neighbours alike.
fn relu(shape: Vec<usize>) -> Tensor {
    floats(shape, |i| ((i as f32 / 9.0).sin() + (i as f32 / 700.0).cos()).max(0.0))
}

fn round_trip(tensor: &Tensor, codec: Codec, pool: &Pool) -> (Codec, usize, Tensor) {
    let encoded = encode(tensor.clone(), codec, pool);
    let (used, len) = (encoded.codec, encoded.data.len());
    (used, len, decode(encoded, pool).expect("our own encoding"))
}

/// Any bits that four bytes can be, with many zeros and the patterns that get lost most easily.
fn bits() -> impl Strategy<Value = u32> {
    let special = [0x8000_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_1234, 0xff81_2345, 0x7f80_0001, 1, 0x8000_0001];
    prop_oneof![4 => Just(0), 2 => prop::sample::select(special.to_vec()), 3 => any::<u32>(), 3 => 0x3f00_0000..0x4000_0000u32]
}

proptest! {
    #[test]
    fn lossless_codecs_give_back_every_bit_of_every_type(
        bits in prop::collection::vec(bits(), 0..2500),
        dtype in prop::sample::select(DType::ALL.to_vec()),
        fold in 1usize..5,
    ) {
        let pool = Pool::new(1 << 20);
        let mut data: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let count = data.len() / dtype.size() / fold * fold;
        data.truncate(count * dtype.size());
        let tensor = Tensor { dtype, shape: vec![1, fold, count / fold], data };
        for codec in codecs().into_iter().filter(|codec| !codec.is_lossy() || dtype != DType::Fp32) {
            let (_, len, back) = round_trip(&tensor, codec, &pool);
            prop_assert!(len <= tensor.data.len());
            prop_assert_eq!(&back, &tensor, "{}", codec);
        }
    }

    #[test]
    fn any_bytes_give_the_declared_shape_or_an_error(
        data in prop::collection::vec(any::<u8>(), 0..300),
        shape in prop::collection::vec(0usize..12, 0..5),
        dtype in prop::sample::select(DType::ALL.to_vec()),
    ) {
        let pool = Pool::new(1 << 20);
        for codec in codecs() {
            let want = byte_len(dtype, &shape).expect("small");
            if let Ok(tensor) = decode(seal(dtype, shape.clone(), codec, data.clone()), &pool) {
                prop_assert_eq!(tensor.data.len(), want);
            }
        }
    }

    #[test]
    fn damaged_encodings_give_the_declared_shape_or_an_error(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        shape in prop::sample::select(vec![vec![1, 6, 9, 7], vec![5, 50], vec![333], vec![2, 3, 4, 5, 6]]),
    ) {
        let pool = Pool::new(1 << 20);
        let tensor = relu(shape);
        for codec in codecs() {
            let Encoded { dtype, shape, codec, mut data, .. } = encode(tensor.clone(), codec, &pool);
            for (at, byte) in &damage {
                let at = at.index(data.len());
                data[at] = *byte;
            }
            if let Some(cut) = cut {
                data.truncate(cut.index(data.len()));
            }
            if let Ok(back) = decode(seal(dtype, shape, codec, data), &pool) {
                prop_assert_eq!(back.data.len(), tensor.data.len());
            }
        }
    }

    #[test]
    fn rounding_stays_within_what_each_codec_promises(
        values in prop::collection::vec(prop_oneof![Just(0f32), -8f32..8.0, 0f32..1e-3], 16..600),
        negative in any::<bool>(),
    ) {
        let pool = Pool::new(1 << 20);
        let values: Vec<f32> = values.into_iter().map(|value| if negative { value } else { value.abs() }).collect();
        let tensor = Tensor::from_f32(vec![1, 2, values.len() / 2], &values[..values.len() / 2 * 2]).expect("fits");
        let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        for (codec, bound) in [
            ("f16", largest / 2048.0 + 6e-8),
            ("sparse+f16", largest / 2048.0 + 6e-8),
            ("int8", largest / 253.0),
            ("sparse+int8", largest / 253.0),
            ("int8+zstd", largest / 253.0),
            ("int8+zstd:relative=1e-2", largest * 1e-2),
            ("zfp:accuracy=1e-3", 1e-3),
            ("zfp:relative=1e-2", largest * 1e-2),
        ] {
            let (_, _, back) = round_trip(&tensor, codec.parse().expect("a codec"), &pool);
            for (got, want) in back.to_f32().expect("floats").iter().zip(&values) {
                prop_assert!((got - want).abs() <= bound, "{}: {} became {}", codec, want, got);
            }
        }
    }

    #[test]
    fn any_parameters_give_a_codec_or_an_error(id in any::<u8>(), parameters in prop::collection::vec(any::<u8>(), 0..12)) {
        if let Ok(codec) = Codec::from_wire(id, &parameters) {
            prop_assert_eq!(codec.id(), id);
            prop_assert_eq!(&*codec.parameters(), &parameters[..]);
        }
    }
}

#[test]
fn what_a_lossy_codec_must_not_round_travels_lossless() {
    let pool = Pool::new(1 << 20);
    for (what, odd) in [("NaN", f32::NAN), ("an infinity", f32::NEG_INFINITY)] {
        let mut tensor = relu(vec![1, 8, 20, 20]);
        tensor.data[400..404].copy_from_slice(&odd.to_le_bytes());
        for codec in codecs().into_iter().filter(|codec| !matches!(codec, Codec::ConstantSize(_))) {
            let (used, len, back) = round_trip(&tensor, codec, &pool);
            assert!(!used.is_lossy() && back == tensor, "{codec} with {what} became {used}");
            assert!(codec.is_lossy() <= (len < tensor.data.len()), "{codec} has a stand-in that shrinks it");
        }
    }
    // Above the largest half.
    let tensor = floats(vec![1, 8, 20, 20], |i| if i % 3 == 0 { 1e5 } else { 0.0 });
    for codec in [Codec::F16, Codec::SparseF16] {
        let (used, _, back) = round_trip(&tensor, codec, &pool);
        assert!(!used.is_lossy() && back == tensor, "{codec} became {used}");
    }
}

#[test]
fn every_codec_makes_activations_smaller() {
    let pool = Pool::new(1 << 20);
    let tensor = relu(vec![1, 16, 28, 28]);
    for codec in codecs().into_iter().filter(|codec| *codec != Codec::Raw) {
        let (used, len, back) = round_trip(&tensor, codec, &pool);
        assert_eq!(back.data.len(), tensor.data.len(), "{codec}");
        if codec.to_string() != "constant-size:density=1" {
            assert_eq!(used.id(), codec.id(), "{codec}");
            assert!(len < tensor.data.len(), "{codec}: {len}");
        }
    }
}

#[test]
fn fewer_steps_take_fewer_bytes() {
    let pool = Pool::new(1 << 20);
    let tensor = relu(vec![1, 16, 28, 28]);
    let len = |codec: &str| round_trip(&tensor, codec.parse().expect("a codec"), &pool).1;
    assert!(len("int8+zstd:relative=1e-1") < len("int8+zstd:relative=1e-2"));
    assert!(len("int8+zstd:relative=1e-2") < len("int8+zstd"));
    let fine = "int8+zstd:relative=1e-5".parse().expect("a codec");
    let (used, _, back) = round_trip(&tensor, fine, &pool);
    assert!(!used.is_lossy() && back == tensor, "256 steps are too few, so it travels lossless: {used}");
}

#[test]
fn what_does_not_become_smaller_travels_raw() {
    let pool = Pool::new(1 << 20);
    // The finaliser of MurmurHash3: nothing to be found in its results.
    let noise = |i: usize| {
        let x = (i as u32 + 1).wrapping_mul(0x9e37_79b9);
        let x = (x ^ x >> 16).wrapping_mul(0x85eb_ca6b);
        let x = (x ^ x >> 13).wrapping_mul(0xc2b2_ae35);
        f32::from_bits(x ^ x >> 16)
    };
    let tensor = floats(vec![1, 4, 30, 30], noise);
    for codec in codecs().into_iter().filter(|codec| !codec.is_lossy()) {
        let (used, len, back) = round_trip(&tensor, codec, &pool);
        assert_eq!((used, len), (Codec::Raw, tensor.data.len()), "{codec}");
        assert!(back == tensor);
    }
}

#[test]
fn a_flipped_bit_is_noticed() {
    let pool = Pool::new(1 << 20);
    for codec in codecs() {
        let mut encoded = encode(relu(vec![1, 4, 20, 20]), codec, &pool);
        encoded.data[3] ^= 1;
        assert!(matches!(decode(encoded, &pool), Err(CodecError::Checksum { .. })));
    }
}

#[test]
fn empty_and_scalar_tensors_travel() {
    let pool = Pool::new(1 << 20);
    for codec in codecs() {
        for (shape, data) in [(vec![2, 0, 3], vec![]), (vec![], vec![1, 2, 3, 4]), (vec![0], vec![])] {
            let tensor = Tensor { dtype: DType::Fp32, shape, data };
            let (used, _, back) = round_trip(&tensor, codec, &pool);
            assert_eq!((back.dtype, &back.shape, back.data.len()), (tensor.dtype, &tensor.shape, tensor.data.len()));
            assert!(used.is_lossy() || back == tensor, "{codec}");
        }
    }
}

#[test]
fn a_bitmap_that_does_not_fit_its_values_is_refused() {
    let pool = Pool::new(1 << 20);
    for (what, data) in [
        ("too few values", &[1, 0b11, 0, 0, 0, 0x80][..]),
        ("too many values", &[1, 0b01, 0, 0, 0, 0x80, 0, 0, 0, 0]),
        ("a bit beyond the cells", &[1, 0b1000, 0, 0, 0, 0x80]),
        ("no bitmap", &[1]),
        ("nothing", &[]),
        ("an unknown kind", &[2, 0b01, 0, 0, 0, 0x80]),
    ] {
        assert!(decode(seal(DType::Fp32, vec![3], Codec::Sparse, data.to_vec()), &pool).is_err(), "{what}");
    }
    let good = seal(DType::Fp32, vec![3], Codec::Sparse, vec![1, 0b010, 0, 0, 0, 0x80]);
    let tensor = decode(good, &pool).expect("a good one");
    assert_eq!(tensor.data, [0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0], "-0.0 is a value");
}

#[test]
fn numbers_and_names_never_change() {
    let table: Vec<(u8, String)> = Codec::plain().map(|codec| (codec.id(), codec.to_string())).collect();
    let want = [
        (0, "raw"),
        (1, "lz4"),
        (2, "shuffle-lz4"),
        (3, "shuffle-zstd"),
        (4, "sparse"),
        (5, "sparse+shuffle-lz4"),
        (6, "sparse+shuffle-zstd"),
        (7, "f16"),
        (8, "sparse+f16"),
        (9, "int8"),
        (10, "sparse+int8"),
        (11, "int8+zstd"),
    ];
    assert_eq!(table, want.map(|(id, name)| (id, name.to_owned())));
    assert_eq!("zfp:reversible".parse::<Codec>().map(Codec::id), Ok(12));
}

#[test]
fn codecs_are_the_same_after_a_way_through_text_json_and_the_wire() {
    for codec in codecs() {
        assert_eq!(codec.to_string().parse(), Ok(codec));
        let json = serde_json::to_string(&codec).expect("text");
        assert_eq!(serde_json::from_str::<Codec>(&json).expect("our own"), codec, "{json}");
        assert_eq!(serde_json::from_reader::<_, Codec>(json.as_bytes()).expect("our own"), codec, "not borrowed");
        if codec == codec.as_it_travels() && !matches!(codec, Codec::Zfp(Mode::Relative(_))) {
            assert_eq!(Codec::from_wire(codec.id(), &codec.parameters()), Ok(codec));
        }
    }
    assert_eq!("zfp:accuracy=0.001".parse::<Codec>().expect("a codec").to_string(), "zfp:accuracy=1e-3");
}

#[test]
fn a_wrong_name_is_told_what_there_is() {
    for (text, want) in [
        ("zip", "unknown codec \"zip\"; this version has raw, lz4, shuffle-lz4"),
        ("zip", "zfp:accuracy="),
        ("lz4:level=3", "codec lz4 takes no parameters, got \"level=3\""),
        ("int8+zstd:levels=3", "takes relative= and nothing else"),
        ("zfp", "unknown mode \"\" of codec zfp; there are zfp:reversible"),
        ("zfp:accuracy=-1", "needs a number above 0"),
        ("zfp:accuracy=nan", "needs a number above 0"),
        ("zfp:rate=64", "needs a rate from 0.25 to 32"),
        ("zfp:precision=33", "needs 1 to 32 bit planes"),
        ("zfp:reversible=1", "unknown mode"),
        ("constant-size", "unknown kind \"\" of codec constant-size; there are constant-size:f16"),
        ("constant-size:density=2", "needs a share"),
    ] {
        let error = text.parse::<Codec>().expect_err(text);
        assert!(error.contains(want), "{text}: {error}");
    }
}

#[test]
fn the_length_of_a_constant_size_tells_nothing() {
    let pool = Pool::new(1 << 20);
    let shape = vec![1, 8, 20, 20];
    let mut odd = relu(shape.clone());
    odd.data[400..404].copy_from_slice(&f32::NAN.to_le_bytes());
    odd.data[800..804].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let tensors = [
        floats(shape.clone(), |_| 0.0),
        relu(shape.clone()),
        floats(shape.clone(), |i| (i as f32 * 0.7).sin() * 1e3),
        floats(shape.clone(), |i| if i == 7 { -3e38 } else { i as f32 }),
        odd,
    ];
    for text in ["constant-size:f16", "constant-size:int8", "constant-size:zfp-rate=6", "constant-size:density=0.3"] {
        let codec: Codec = text.parse().expect("a codec");
        let encoded = tensors.clone().map(|tensor| encode(tensor, codec, &pool));
        for other in &encoded {
            let fields = |encoded: &Encoded| (encoded.data.len(), encoded.codec.id(), encoded.codec.parameters().len());
            assert_eq!(fields(other), fields(&encoded[0]), "{codec}");
            assert!(other.data.len() < tensors[0].data.len(), "{codec}");
        }
        for encoded in encoded {
            decode(encoded, &pool).expect("our own encoding");
        }
        let integers = Tensor { dtype: DType::Int32, ..tensors[0].clone() };
        assert_eq!(encode(integers, codec, &pool).codec, Codec::Raw, "other types have one length anyway");
    }
    // A bound that is not reached costs no bit.
    let sparse = floats(shape, |i| if i % 5 == 0 { i as f32 } else { 0.0 });
    let (_, _, back) = round_trip(&sparse, "constant-size:density=0.3".parse().expect("a codec"), &pool);
    assert!(back == sparse);
}

#[test]
fn buffers_of_the_pool_are_used_again() {
    let pool = Pool::new(64 << 20);
    let tensor = relu(vec![1, 64, 56, 56]);
    for codec in codecs() {
        let turn = || {
            let mut data = pool.take(tensor.data.len());
            data.extend_from_slice(&tensor.data);
            let encoded = encode(Tensor { data, ..tensor.clone() }, codec, &pool);
            pool.give(decode(encoded, &pool).expect("our own encoding").data);
        };
        turn();
        let spare = pool.spare_bytes();
        (0..3).for_each(|_| turn());
        assert_eq!(pool.spare_bytes(), spare, "{codec} leaves the pool as it was");
    }
}
