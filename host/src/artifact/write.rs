//! Writes a stage artifact.

use super::{ALIGN, GRAPH, MANIFEST, Manifest, WEIGHTS};
use defer_partition::slice::Slice;
use prost::Message as _;
use std::io::{self, Write};

/// Section size as LEB128 in a fixed five bytes, so that its length is known beforehand.
fn leb5(value: u64) -> io::Result<[u8; 5]> {
    let value = u32::try_from(value).map_err(|_| {
        io::Error::other(format!("a section of {value} bytes is over WebAssembly's limit of 4 GiB; use more stages"))
    })?;
    let seven = |shift: u32| (value >> shift & 0x7f) as u8;
    Ok([seven(0) | 0x80, seven(7) | 0x80, seven(14) | 0x80, seven(21) | 0x80, seven(28)])
}

/// Start of a custom section: id, size, and the length-prefixed name.
fn open(name: &str, payload: u64) -> io::Result<Vec<u8>> {
    let name_len = u8::try_from(name.len()).map_err(io::Error::other)?;
    let mut head = vec![0];
    head.extend(leb5(payload + 1 + u64::from(name_len))?);
    head.push(name_len);
    head.extend(name.as_bytes());
    Ok(head)
}

/// Writes `guest` and the sections of one stage. `manifest`'s `graph_bytes` and `weights_bytes` are filled in.
pub fn write(out: &mut impl Write, guest: &[u8], mut manifest: Manifest, slice: &Slice) -> io::Result<()> {
    let graph = slice.model.encode_to_vec();
    manifest.graph_bytes = graph.len() as u64;
    manifest.weights_bytes = slice.weights_len;
    let manifest = serde_json::to_vec(&manifest)?;

    let mut out = Counting { inner: out, written: 0 };
    out.write_all(guest)?;
    for (name, payload) in [(MANIFEST, &manifest), (GRAPH, &graph)] {
        out.write_all(&open(name, payload.len() as u64)?)?;
        out.write_all(payload)?;
    }
    let header = open(WEIGHTS, 0)?.len() as u64;
    let padding = (out.written + header).next_multiple_of(ALIGN) - (out.written + header);
    out.write_all(&open(WEIGHTS, padding + slice.weights_len)?)?;
    out.zeros(padding)?;
    let base = out.written;
    for weight in &slice.weights {
        out.zeros(
            (base + weight.offset)
                .checked_sub(out.written)
                .ok_or_else(|| io::Error::other(format!("weight \"{}\" overlaps the one before it", weight.name)))?,
        )?;
        out.write_all(&weight.data)?;
    }
    out.zeros((base + slice.weights_len).saturating_sub(out.written))
}

/// Counts what is written, since offsets in the file follow from it.
struct Counting<'a, W> {
    inner: &'a mut W,
    written: u64,
}

impl<W: Write> Counting<'_, W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.inner.write_all(bytes)
    }

    fn zeros(&mut self, mut count: u64) -> io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while count > 0 {
            let part = count.min(ZEROS.len() as u64) as usize;
            self.write_all(&ZEROS[..part])?;
            count -= part as u64;
        }
        Ok(())
    }
}
