//! Tensors as NumPy's `.npy` files. NumPy has no BF16: such a tensor is written as the `uint16` array of its bits.

use anyhow::{Context, bail};
use defer_partition::{DType, Tensor};
use npyz::{DType as Description, Endianness, NpyHeader, Order, TypeChar, TypeStr};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

/// What a `.npy` file begins with.
pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// Reads an array of booleans, integers or floats, of either byte order and either axis order.
pub(super) fn read(path: &Path) -> anyhow::Result<Tensor> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut reader = BufReader::new(file);
    let header = NpyHeader::from_reader(&mut reader).context("the header cannot be read")?;
    let Description::Plain(element) = header.dtype() else {
        bail!("it holds records; only arrays of plain numbers are tensors");
    };
    let dtype = dtype_of(&element).with_context(|| format!("its element type {element} is none of a network's"))?;
    let shape = header.shape().iter().map(|&d| usize::try_from(d)).collect::<Result<Vec<_>, _>>()?;
    let len = defer_partition::byte_len(dtype, &shape).filter(|&len| len as u64 <= size);
    let len = len.with_context(|| format!("{dtype}{shape:?} is more than the file holds"))?;
    let mut data = Vec::with_capacity(len);
    reader.read_to_end(&mut data)?;
    if data.len() != len {
        bail!("{dtype}{shape:?} takes {len} bytes, the file has {}", data.len());
    }
    if element.endianness() == Endianness::Big {
        data.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
    }
    if header.order() == Order::Fortran {
        data = row_major(&data, dtype.size(), &shape);
    }
    Ok(Tensor { dtype, shape, data })
}

/// Writes version 1.0 of the format, little-endian and row-major.
pub(super) fn write(path: &Path, tensor: &Tensor) -> std::io::Result<()> {
    let mut shape = tensor.shape.iter().map(|d| format!("{d}, ")).collect::<String>();
    if tensor.shape.len() > 1 {
        shape.truncate(shape.len() - 2);
    }
    let descr = descr_of(tensor.dtype);
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", shape.trim_end());
    // Magic, version and length take 10 bytes; the data begins on a multiple of 64.
    let padding = 63 - (10 + header.len()) % 64;
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(std::io::Error::other)?;
    let mut file = File::create(path)?;
    file.write_all(MAGIC)?;
    file.write_all(&[1, 0])?;
    file.write_all(&length.to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.write_all(&tensor.data)
}

fn dtype_of(element: &TypeStr) -> Option<DType> {
    Some(match (element.type_char(), element.size_field()) {
        (TypeChar::Bool, 1) => DType::Bool,
        (TypeChar::Uint, 1) => DType::Uint8,
        (TypeChar::Uint, 2) => DType::Uint16,
        (TypeChar::Uint, 4) => DType::Uint32,
        (TypeChar::Uint, 8) => DType::Uint64,
        (TypeChar::Int, 1) => DType::Int8,
        (TypeChar::Int, 2) => DType::Int16,
        (TypeChar::Int, 4) => DType::Int32,
        (TypeChar::Int, 8) => DType::Int64,
        (TypeChar::Float, 2) => DType::Fp16,
        (TypeChar::Float, 4) => DType::Fp32,
        (TypeChar::Float, 8) => DType::Fp64,
        _ => return None,
    })
}

fn descr_of(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "|b1",
        DType::Uint8 => "|u1",
        DType::Int8 => "|i1",
        DType::Uint16 | DType::Bf16 => "<u2",
        DType::Int16 => "<i2",
        DType::Uint32 => "<u4",
        DType::Int32 => "<i4",
        DType::Uint64 => "<u8",
        DType::Int64 => "<i8",
        DType::Fp16 => "<f2",
        DType::Fp32 => "<f4",
        DType::Fp64 => "<f8",
    }
}

/// The elements of a column-major array (first axis fastest) in row-major order.
fn row_major(data: &[u8], size: usize, shape: &[usize]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0; shape.len()];
    for _ in 0..data.len() / size {
        let from = index.iter().zip(shape).rev().fold(0, |at, (i, dim)| at * dim + i);
        out.extend_from_slice(&data[from * size..][..size]);
        for (i, dim) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < *dim {
                break;
            }
            *i = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_type_and_shape_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.npy");
        for dtype in DType::ALL {
            for shape in [vec![], vec![5], vec![0, 4], vec![2, 3, 4]] {
                let len = defer_partition::byte_len(dtype, &shape).unwrap();
                let data = (0..len).map(|i| (i % 2) as u8).collect();
                let tensor = Tensor { dtype, shape, data };
                write(&path, &tensor).unwrap();
                let size = std::fs::metadata(&path).unwrap().len() as usize;
                assert_eq!((size - len) % 64, 0, "the data of {tensor:?} begins on a multiple of 64");
                let back = read(&path).unwrap();
                assert_eq!((&back.shape, &back.data), (&tensor.shape, &tensor.data));
                assert_eq!(back.dtype, if dtype == DType::Bf16 { DType::Uint16 } else { dtype });
            }
        }
    }

    /// A file as NumPy writes it: `data` after a header with `descr`, `order` and `shape`.
    fn file(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let header = format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
        file.write_all(&[MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat())
            .unwrap();
        file
    }

    #[test]
    fn other_orders_are_put_right() {
        let big = file("'>i2'", "False", "(2,)", &[1, 2, 3, 4]);
        assert_eq!(read(big.path()).unwrap().data, [2, 1, 4, 3]);
        // [[0, 1, 2], [3, 4, 5]] with the first axis fastest.
        let columns = file("'|u1'", "True", "(2, 3)", &[0, 3, 1, 4, 2, 5]);
        assert_eq!(read(columns.path()).unwrap().data, [0, 1, 2, 3, 4, 5]);
        let cube: Vec<u8> = (0..2 * 3 * 4).collect();
        let at = |i: usize, j: usize, k: usize| (i + 2 * (j + 3 * k)) as u8;
        let want: Vec<u8> = (0..24).map(|n| at(n / 12, n / 4 % 3, n % 4)).collect();
        assert_eq!(read(file("'|u1'", "True", "(2, 3, 4)", &cube).path()).unwrap().data, want);
    }

    #[test]
    fn a_file_that_is_no_tensor_is_named() {
        let cases = [
            (file("'<c8'", "False", "(1,)", &[0; 8]), "element type"),
            (file("[('a', '<f4')]", "False", "(1,)", &[0; 4]), "records"),
            (file("'<f4'", "False", "(2,)", &[0; 7]), "takes 8 bytes, the file has 7"),
            (file("'<f4'", "False", "(2,)", &[0; 9]), "takes 8 bytes, the file has 9"),
            (file("'<f4'", "False", "(1099511627776,)", &[]), "more than the file holds"),
        ];
        for (file, message) in cases {
            let error = format!("{:#}", read(file.path()).unwrap_err());
            assert!(error.contains(message), "{error}");
        }
    }
}
