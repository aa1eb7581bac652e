//! Mutations: of bytes, of JSON by its words, of ONNX models by their fields, of artifacts by their sections.

mod model;

use super::targets::artifact::ASSEMBLE;
use defer_partition::onnx::proto::ModelProto;
use defer_partition::testing::Random;
use flate2::Compression;
use flate2::bufread::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use prost::Message as _;
use std::io::{self, Read as _, Write};

/// Inputs grow to this length at most.
const LONGEST: usize = 48 << 10;
/// Numbers at which arithmetic turns.
const NUMBERS: [u64; 20] = [
    0,
    1,
    2,
    7,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];
/// Words that mean something to one reader or another, and some that mean nothing.
const WORDS: [&str; 40] = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "-1",
    "1e400",
    "1e-400",
    "0.1",
    "256",
    "65536",
    "9223372036854775807",
    "18446744073709551616",
    "-9223372036854775809",
    "\"\"",
    "\"x\"",
    "\"FP32\"",
    "\"BF16\"",
    "\"BOOL\"",
    "\"INT64\"",
    "\"BYTES\"",
    "\"data\"",
    "\"shape\"",
    "\"inputs\"",
    "\"outputs\"",
    "\"parameters\"",
    "\"binary_data_size\"",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "[]",
    "{}",
    "[[[[[[[[",
    "]",
    "{\"a\":",
    ",",
    ":",
    " ",
    "\"shared_memory_region\"",
    "\"timeout\"",
    "\"",
];

/// A number at which arithmetic turns, or near one.
fn number(random: &mut Random) -> u64 {
    let near = NUMBERS[random.below(NUMBERS.len())];
    match random.below(4) {
        0 => near.wrapping_sub(1),
        1 => random.bits() >> random.below(64),
        _ => near,
    }
}

/// A mutation of `seed` for the target called `name`; `other` is another seed of it.
pub fn mutate(name: &str, random: &mut Random, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut mutated = seed.to_vec();
    // Few requests survive more.
    let most = if name == "oip" { 2 } else { 4 };
    for _ in 0..1 + random.below(most) {
        let by_structure = random.below(4) > 0;
        mutated = match name {
            "onnx" if by_structure => of_model(random, &mutated),
            "artifact" if by_structure => of_artifact(random, &mutated),
            "oip" if by_structure => of_request(random, &mutated),
            _ => of_bytes(random, &mutated, other),
        };
        mutated.truncate(LONGEST);
    }
    mutated
}

/// A place in `bytes` and as many from there on as are wanted and there.
fn range(random: &mut Random, len: usize, most: usize) -> std::ops::Range<usize> {
    let from = random.below(len + 1);
    from..(from + random.below(most + 1)).min(len)
}

fn of_bytes(random: &mut Random, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.is_empty() {
        return other.to_vec();
    }
    match random.below(8) {
        0 => {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        1 => {
            let at = random.below(bytes.len());
            bytes[at] = number(random) as u8;
        }
        // A length, an offset, a count.
        2 | 3 => {
            let value = number(random);
            let width = [2, 4, 8][random.below(3)];
            let at = random.below(bytes.len());
            let value = if random.below(4) == 0 { value.swap_bytes().to_be_bytes() } else { value.to_le_bytes() };
            bytes.iter_mut().skip(at).zip(&value[..width]).for_each(|(byte, new)| *byte = *new);
        }
        4 => {
            let cut = range(random, bytes.len(), 64);
            bytes.drain(cut);
        }
        5 => {
            let copy = bytes[range(random, bytes.len(), 64)].to_vec();
            let at = random.below(bytes.len() + 1);
            let times = 1 + random.below(4) * random.below(16);
            bytes.splice(at..at, copy.repeat(times));
        }
        6 => bytes.truncate(random.below(bytes.len() + 1)),
        // The beginning of one, the end of another.
        _ => {
            bytes.truncate(random.below(bytes.len() + 1));
            bytes.extend(&other[random.below(other.len() + 1)..]);
        }
    }
    bytes
}

/// Changes one word of JSON, or of what stands between.
fn of_json(random: &mut Random, text: &[u8]) -> Vec<u8> {
    let words = words(text);
    if words.is_empty() {
        return WORDS[random.below(WORDS.len())].into();
    }
    let at = words[random.below(words.len())].clone();
    let another = words[random.below(words.len())].clone();
    let mut text = text.to_vec();
    let is_value = |word: &std::ops::Range<usize>| text[word.start].is_ascii_alphanumeric() || text[word.start] == b'"';
    let new = match random.below(8) {
        0 => Vec::new(),
        1 => text[another].to_vec(),
        2 => number(random).to_string().into_bytes(),
        3 => [text[at.clone()].to_vec(), text[another.start.min(at.start)..another.end.max(at.end)].to_vec()].concat(),
        4 => WORDS[random.below(WORDS.len())].into(),
        // A value in another's place: what is written well is read furthest.
        _ if is_value(&at) && is_value(&another) => text[another].to_vec(),
        _ if text[at.start].is_ascii_digit() => random.below(100).to_string().into_bytes(),
        _ => text[at.clone()].to_vec(),
    };
    text.splice(at, new);
    text
}

/// Where the words of JSON are: strings, numbers and names, and each sign between them.
fn words(text: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut words = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let end = match text[at] {
            b'"' => {
                at + 1 + text[at + 1..].iter().position(|&byte| byte == b'"').map_or(text.len() - at - 1, |n| n + 1)
            }
            byte if byte.is_ascii_alphanumeric() || byte == b'-' => {
                let ends = |byte: &u8| !(byte.is_ascii_alphanumeric() || b"-+.".contains(byte));
                at + text[at..].iter().position(ends).unwrap_or(text.len() - at)
            }
            _ => at + 1,
        };
        words.push(at..end);
        at = end;
    }
    words
}

/// Changes a request's JSON, which may be followed by raw bytes, or be compressed.
fn of_request(random: &mut Random, request: &[u8]) -> Vec<u8> {
    let (head, body) = request.split_at(request.len().min(6));
    let mut json = Vec::new();
    if GzDecoder::new(body).read_to_end(&mut json).is_ok() {
        let gzip = GzEncoder::new(head.to_vec(), Compression::fast());
        return compressed(gzip, &of_json(random, &json)).and_then(GzEncoder::finish).expect("memory is written to");
    }
    json.clear();
    if ZlibDecoder::new(body).read_to_end(&mut json).is_ok() {
        let zlib = ZlibEncoder::new(head.to_vec(), Compression::fast());
        return compressed(zlib, &of_json(random, &json)).and_then(ZlibEncoder::finish).expect("memory is written to");
    }
    let json = body.iter().rposition(|&byte| byte == b'}').map_or(body.len(), |at| at + 1);
    let (json, raw) = body.split_at(json);
    [head, &of_json(random, json), raw].concat()
}

fn compressed<W: Write>(mut encoder: W, bytes: &[u8]) -> io::Result<W> {
    encoder.write_all(bytes)?;
    Ok(encoder)
}

fn of_model(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    match ModelProto::decode(bytes) {
        Ok(mut model) => {
            model::mutate(random, &mut model);
            model.encode_to_vec()
        }
        Err(_) => of_bytes(random, bytes, &[]),
    }
}

/// Changes one section of an artifact that the target assembles.
fn of_artifact(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let (Some((&[ASSEMBLE, a, b, c, d, e, f, g, h], rest)), true) = (bytes.split_first_chunk(), bytes.len() > 9) else {
        return of_bytes(random, bytes, &[]);
    };
    let [manifest, graph] = [[a, b, c, d], [e, f, g, h]].map(|len| u32::from_le_bytes(len) as usize);
    let (manifest, rest) = rest.split_at(manifest.min(rest.len()));
    let (graph, weights) = rest.split_at(graph.min(rest.len()));
    let (mut manifest, mut graph, mut weights) = (manifest.to_vec(), graph.to_vec(), weights.to_vec());
    match random.below(6) {
        0 | 1 => manifest = of_json(random, &manifest),
        2 => weights.truncate(random.below(weights.len() + 1)),
        _ => graph = of_model(random, &graph),
    }
    let lengths = [&manifest, &graph].map(|part| (part.len() as u32).to_le_bytes()).concat();
    [vec![ASSEMBLE], lengths, manifest, graph, weights].concat()
}
