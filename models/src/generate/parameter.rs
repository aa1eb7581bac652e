//! Constants of a generated network. The large ones are not kept: random numbers are drawn again when they are written.

use super::random::Random;
use bytes::Bytes;
use defer_partition::DType;
use defer_partition::onnx::proto::TensorProto;
use prost::Message;
use std::io::{self, Write};

/// Values that are turned into bytes at a time.
const BLOCK: usize = 16 * 1024;
/// Protobuf key of `TensorProto.raw_data`: field 9, a length and bytes.
const RAW_DATA: u8 = 9 << 3 | 2;

/// FP32 values that are nearly normal around 0: in rows, each with its own standard deviation.
#[derive(Clone, Debug)]
pub(super) struct Drawn {
    /// As it was before the first of them.
    pub(super) random: Random,
    /// Values per row.
    pub(super) row: usize,
    /// Of each row.
    pub(super) deviations: Vec<f64>,
}

impl Drawn {
    fn len(&self) -> usize {
        self.row * self.deviations.len()
    }

    /// Calls `take` with one block of values after the other.
    fn blocks<E>(&self, mut take: impl FnMut(&[f32]) -> Result<(), E>) -> Result<(), E> {
        let mut random = self.random.clone();
        let mut block = Vec::with_capacity(BLOCK.min(self.row));
        for &deviation in &self.deviations {
            let mut left = self.row;
            while left > 0 {
                let count = left.min(BLOCK);
                block.clear();
                block.extend((0..count).map(|_| (random.normal() * deviation) as f32));
                take(&block)?;
                left -= count;
            }
        }
        Ok(())
    }
}

pub(super) enum Values {
    Kept(Bytes),
    Drawn(Drawn),
}

/// An initializer.
pub(super) struct Parameter {
    /// All but the values.
    header: TensorProto,
    values: Values,
}

impl Parameter {
    pub(super) fn new(name: &str, dtype: DType, shape: &[usize], values: Values) -> Self {
        let header = TensorProto {
            dims: shape.iter().map(|&dim| dim as i64).collect(),
            data_type: Some(dtype.onnx()),
            name: Some(name.to_owned()),
            ..Default::default()
        };
        Self { header, values }
    }

    fn values_len(&self) -> usize {
        match &self.values {
            Values::Kept(bytes) => bytes.len(),
            Values::Drawn(drawn) => drawn.len() * size_of::<f32>(),
        }
    }

    /// Bytes that [`Parameter::write`] writes.
    pub(super) fn encoded_len(&self) -> usize {
        let values = self.values_len();
        self.header.encoded_len() + 1 + prost::length_delimiter_len(values) + values
    }

    /// Writes what `TensorProto::encode` would.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut start = self.header.encode_to_vec();
        // The header's fields all come before this one.
        start.push(RAW_DATA);
        prost::encode_length_delimiter(self.values_len(), &mut start).expect("a vector has room");
        out.write_all(&start)?;
        match &self.values {
            Values::Kept(bytes) => out.write_all(bytes),
            Values::Drawn(drawn) => {
                let mut bytes = Vec::with_capacity(BLOCK * size_of::<f32>());
                drawn.blocks(|block| {
                    bytes.clear();
                    bytes.extend(block.iter().flat_map(|value| value.to_le_bytes()));
                    out.write_all(&bytes)
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_a_tensor_and_its_length_is_known_before() {
        let random = Random::new(5);
        // More than a block per row, and not a multiple of one.
        let drawn = Drawn { random: random.clone(), row: BLOCK + 3, deviations: vec![1.0, 0.25] };
        let parameter = Parameter::new("w", DType::Fp32, &[2, BLOCK + 3], Values::Drawn(drawn));
        let mut bytes = Vec::new();
        parameter.write(&mut bytes).unwrap();
        assert_eq!(bytes.len(), parameter.encoded_len());
        let tensor = TensorProto::decode(&bytes[..]).unwrap();
        assert_eq!(tensor.encode_to_vec(), bytes);
        assert_eq!((tensor.name(), &tensor.dims[..]), ("w", &[2, BLOCK as i64 + 3][..]));
        let mut again = random;
        let want: Vec<u8> = (0..2 * (BLOCK + 3))
            .map(|at| (again.normal() * if at < BLOCK + 3 { 1.0 } else { 0.25 }) as f32)
            .flat_map(f32::to_le_bytes)
            .collect();
        assert!(tensor.raw_data() == want);
    }
}
