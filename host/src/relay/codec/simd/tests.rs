use super::*;
use proptest::prelude::*;

/// Bytes with runs of zeros, as many as make `cells` of `width` bytes and some more to start unaligned from.
fn bytes(cells: impl Into<prop::collection::SizeRange>, width: usize) -> impl Strategy<Value = Vec<u8>> {
    let cell = prop_oneof![Just(vec![0; width]), prop::collection::vec(any::<u8>(), width)];
    prop::collection::vec(cell, cells).prop_map(|cells| cells.concat())
}

/// What `work` appends to a buffer that holds something already.
fn appended(work: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![7, 7, 7];
    work(&mut out);
    assert_eq!(out[..3], [7, 7, 7], "what is there stays");
    out.split_off(3)
}

proptest! {
    #[test]
    fn planes_are_the_scalar_ones_and_lead_back(cells in bytes(0..300, 4)) {
        let (mut one, mut other) = (vec![0; cells.len()], vec![0; cells.len()]);
        shuffle(&cells, 4, &mut one);
        scalar::shuffle4(&cells, &mut other);
        prop_assert_eq!(&one, &other);
        scalar::shuffle(&cells, 4, &mut other);
        prop_assert_eq!(&one, &other);
        let quarter = cells.len() / 4;
        let planes: [&[u8]; 4] = std::array::from_fn(|n| &one[n * quarter..][..quarter]);
        prop_assert_eq!(appended(|out| unshuffle(&planes, out)), &cells[..]);
        prop_assert_eq!(appended(|out| scalar::unshuffle4(planes, out)), &cells[..]);
        prop_assert_eq!(appended(|out| scalar::unshuffle(&planes, out)), &cells[..]);
    }

    #[test]
    fn planes_of_other_widths_lead_back(width in prop_oneof![Just(1usize), Just(2), Just(8)], cells in bytes(0..100, 8)) {
        let mut planes = vec![0; cells.len()];
        shuffle(&cells, width, &mut planes);
        let planes: Vec<&[u8]> = planes.chunks_exact((cells.len() / width).max(1)).collect();
        if !planes.is_empty() {
            prop_assert_eq!(appended(|out| unshuffle(&planes, out)), &cells[..]);
        }
    }

    #[test]
    fn packing_is_the_scalar_one_and_leads_back((width, cells) in
        prop_oneof![Just(1usize), Just(2), Just(4), Just(8)].prop_flat_map(|width| (Just(width), bytes(0..300, width))))
    {
        let count = cells.len() / width;
        let packed = appended(|out| pack(&cells, width, out));
        let other = appended(|out| match width {
            1 => scalar::pack::<1>(&cells, out),
            2 => scalar::pack::<2>(&cells, out),
            4 => scalar::pack::<4>(&cells, out),
            _ => scalar::pack::<8>(&cells, out),
        });
        prop_assert_eq!(&packed, &other);
        let (bitmap, values) = packed.split_at(count.div_ceil(8));
        prop_assert_eq!(ones(bitmap), scalar::ones(bitmap));
        prop_assert_eq!(appended(|out| unpack(bitmap, values, width, count, out)), &cells[..]);
        let other = appended(|out| match width {
            1 => scalar::unpack::<1>(bitmap, values, count, out),
            2 => scalar::unpack::<2>(bitmap, values, count, out),
            4 => scalar::unpack::<4>(bitmap, values, count, out),
            _ => scalar::unpack::<8>(bitmap, values, count, out),
        });
        prop_assert_eq!(other, cells);
    }

    #[test]
    fn halves_are_the_scalar_ones(floats in prop::collection::vec(any::<f32>(), 0..100)) {
        let floats: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
        let (mut one, mut other) = (Vec::new(), Vec::new());
        prop_assert_eq!(to_halves(&floats, &mut one), scalar::to_halves(&floats, &mut other));
        prop_assert_eq!(&one, &other);
        let back = appended(|out| from_halves(&one, out));
        prop_assert_eq!(back, appended(|out| scalar::from_halves(&one, out)));
    }

    #[test]
    fn a_survey_is_the_scalar_one(floats in bytes(0..100, 4)) {
        let (one, other) = (survey(&floats), scalar::survey(&floats));
        prop_assert_eq!((one.magnitude.to_bits(), one.sign), (other.magnitude.to_bits(), other.sign));
    }

    #[test]
    fn integers_are_the_scalar_ones(
        floats in prop::collection::vec(-300f32..300.0, 0..100),
        inverse in 0f32..2.0,
        scale in any::<f32>(),
        sign in prop_oneof![Just(Sign::Unsigned), Just(Sign::Signed)],
    ) {
        // Halves between integers are where roundings differ.
        let halved = floats.iter().map(|float| (float * 2.0).round() / 2.0);
        let floats: Vec<u8> = floats.iter().copied().chain(halved).flat_map(f32::to_le_bytes).collect();
        let one = appended(|out| quantise(&floats, inverse, sign, out));
        prop_assert_eq!(&one, &appended(|out| scalar::quantise(&floats, inverse, sign, out)));
        let back = appended(|out| dequantise(&one, scale, sign, out));
        prop_assert_eq!(back, appended(|out| scalar::dequantise(&one, scale, sign, out)));
    }
}

#[test]
fn every_half_is_the_scalar_float() {
    let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let (one, other) = (appended(|out| from_halves(&halves, out)), appended(|out| scalar::from_halves(&halves, out)));
    for (one, other) in one.as_chunks::<4>().0.iter().zip(other.as_chunks::<4>().0) {
        let (one, other) = (f32::from_le_bytes(*one), f32::from_le_bytes(*other));
        assert!(one.to_bits() == other.to_bits() || one.is_nan() && other.is_nan(), "{one} {other}");
    }
}
