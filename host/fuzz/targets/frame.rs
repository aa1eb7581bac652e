//! The relay's frame reader: whatever a peer sends becomes frames or an error, within the limits of the connection, and a
//! frame that was read is the same when it is written and read again.
//!
//! An input is a byte of [`Repair`] bits and a stream.

use super::Verdict;
use defer_host::buffer::Pool;
use defer_host::port::STALL;
use defer_host::relay::frame::{FIXED, Kind, data_head, write_head};
use defer_host::relay::{Frame, FrameReader, Limits, codec};
use defer_partition::byte_len;
use futures_util::FutureExt as _;
use std::hash::Hasher as _;
use twox_hash::XxHash3_64;

/// Bytes of one tensor that the connection takes.
const MAX_TENSOR: usize = 64 << 10;
const MAX_PARTS: usize = 8;
/// Bits of the first byte: which checksums are put right before the stream is read.
pub const REPAIR_HEADS: u8 = 1;
pub const REPAIR_TENSORS: u8 = 2;

/// A head, a tensor with its encoding, what was read before (no more than the input), and as much again for the check.
pub fn memory(input: usize) -> usize {
    (1 << 20) + 16 * input
}

pub fn run(input: &[u8]) -> Verdict {
    let Some((&repairs, stream)) = input.split_first() else { return Verdict::Refused };
    let mut stream = stream.to_vec();
    repair(&mut stream, repairs);
    let frames = read(&stream);
    for frame in &frames {
        match frame {
            Frame::Data(tag, parts) => {
                let body: Vec<u8> = parts.iter().flat_map(|part| part.tensor.data.iter().copied()).collect();
                let mut again = write_head(Kind::Data, tag, &data_head(parts), body.len() as u64);
                again.extend(body);
                let [Frame::Data(tag_again, parts_again)] = &read(&again)[..] else { panic!("a frame was lost") };
                assert_eq!((tag, parts), (tag_again, parts_again));
                for part in parts {
                    let (dtype, shape) = (part.tensor.dtype, part.tensor.shape.clone());
                    if let Ok(tensor) = codec::decode(part.tensor.clone(), &Pool::new(0)) {
                        assert_eq!((tensor.dtype, &tensor.shape), (dtype, &shape));
                        assert_eq!(Some(tensor.data.len()), byte_len(dtype, &shape));
                        assert!(tensor.data.len() <= MAX_TENSOR);
                    }
                }
            }
            Frame::Error(tag, failure) => {
                let head = serde_json::to_vec(failure).expect("a failure is JSON");
                // JSON may take more room when written again than it did, with its escapes.
                if let [Frame::Error(tag_again, failure_again)] = &read(&write_head(Kind::Error, tag, &head, 0))[..] {
                    assert_eq!((tag, failure), (tag_again, failure_again));
                }
            }
            Frame::Hello(_) | Frame::Unfit(..) | Frame::Credit(_) | Frame::Ping => {}
        }
    }
    if frames.is_empty() { Verdict::Refused } else { Verdict::Taken }
}

/// The frames of `stream`, up to the first error.
fn read(stream: &[u8]) -> Vec<Frame> {
    let limits = Limits { max_tensor: MAX_TENSOR, max_parts: MAX_PARTS, pool: Pool::new(0), stall: STALL };
    let mut reader = FrameReader::new(stream, limits);
    let mut frames = Vec::new();
    while let Ok(Some(frame)) = reader.next().now_or_never().expect("bytes in memory keep nobody waiting") {
        frames.push(frame);
    }
    frames
}

/// Puts checksums right, as far as the lengths in `stream` lead.
fn repair(stream: &mut [u8], repairs: u8) {
    let mut rest = stream;
    while let Some((fixed, after)) = rest.split_first_chunk_mut::<FIXED>() {
        let head_len = u32::from_le_bytes(fixed[44..48].try_into().expect("four bytes")) as usize;
        let body_len = u64::from_le_bytes(fixed[72..80].try_into().expect("eight bytes"));
        let Some((head, body)) = after.split_at_mut_checked(head_len) else { return };
        if repairs & REPAIR_TENSORS != 0 && fixed[6] == Kind::Data as u8 {
            repair_tensors(head, body);
        }
        if repairs & REPAIR_HEADS != 0 {
            let mut hasher = XxHash3_64::new();
            hasher.write(&fixed[..FIXED - 8]);
            hasher.write(head);
            fixed[FIXED - 8..].copy_from_slice(&hasher.finish().to_le_bytes());
        }
        let Some((_, next)) = usize::try_from(body_len).ok().and_then(|len| body.split_at_mut_checked(len)) else {
            return;
        };
        rest = next;
    }
}

/// The checksum of each tensor that lies whole in `body`.
fn repair_tensors(head: &mut [u8], mut body: &[u8]) {
    let Some((_, mut rest)) = head.split_at_mut_checked(2) else { return };
    while let Some((part, after)) = rest.split_first_chunk_mut::<24>() {
        let (rank, parameters) = (usize::from(part[3]), usize::from(u16::from_le_bytes([part[6], part[7]])));
        let encoded = u64::from_le_bytes(part[8..16].try_into().expect("eight bytes"));
        let Some((data, next)) = usize::try_from(encoded).ok().and_then(|len| body.split_at_checked(len)) else {
            return;
        };
        part[16..].copy_from_slice(&XxHash3_64::oneshot(data).to_le_bytes());
        body = next;
        let Some((_, next)) = after.split_at_mut_checked(8 * rank + parameters) else { return };
        rest = next;
    }
}
