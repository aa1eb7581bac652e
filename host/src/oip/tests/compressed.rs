//! Compressed bodies, both ways.

use super::backend::Echo;
use super::{serve, start};
use crate::oip::Options;
use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use reqwest::Response;
use serde_json::{Value, json};
use std::io::{Read, Write};

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn bare_deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A request of `count` numbers, and where its JSON part ends.
fn ask(count: usize) -> (Vec<u8>, usize) {
    let values: Vec<u8> = (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let head = json!({"parameters": {"binary_data_output": true}, "inputs": [{"name": "x", "datatype": "FP32",
        "shape": [1, count], "parameters": {"binary_data_size": values.len()}}]});
    let head = head.to_string().into_bytes();
    let length = head.len();
    ([head, values].concat(), length)
}

async fn send(url: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Response {
    let mut request = reqwest::Client::new().post(format!("{url}/v2/models/echo-FP32/infer")).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

async fn error(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    (status, body["error"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn both_codings_are_read_and_written() {
    let url = start().await;
    for count in [1000, 300_000] {
        let (body, length) = ask(count);
        let header = length.to_string();
        let cases = [
            ("gzip", "gzip", gzip(&body)),
            ("X-GZIP", "gzip;q=0.5, deflate;q=0.1", gzip(&body)),
            ("gzip", "deflate;q=0.2, *", [gzip(&body[..100]), gzip(&body[100..])].concat()),
            ("deflate", "deflate", zlib(&body)),
            ("deflate", "gzip;q=0, *;q=0.3, identity", bare_deflate(&body)),
            ("identity", "br, gzip;q=0, deflate;q=0.000", body.clone()),
        ];
        for (given, accepted, body_sent) in cases {
            let headers = [
                ("content-encoding", given),
                ("accept-encoding", accepted),
                ("inference-header-content-length", &header),
            ];
            let answer = send(&url, &headers, body_sent).await;
            assert_eq!(answer.status(), 200, "{given} {accepted}");
            let length: usize = answer.headers()["inference-header-content-length"].to_str().unwrap().parse().unwrap();
            let coding = answer.headers().get("content-encoding").map(|v| v.to_str().unwrap().to_owned());
            let declared = answer.content_length();
            let sent = answer.bytes().await.unwrap();
            assert_eq!(declared, Some(sent.len() as u64));
            let mut expanded = Vec::new();
            match (coding.as_deref(), accepted) {
                (Some("gzip"), "gzip" | "gzip;q=0.5, deflate;q=0.1" | "deflate;q=0.2, *") => {
                    GzDecoder::new(&*sent).read_to_end(&mut expanded).unwrap()
                }
                (Some("deflate"), "deflate" | "gzip;q=0, *;q=0.3, identity") => {
                    ZlibDecoder::new(&*sent).read_to_end(&mut expanded).unwrap()
                }
                (None, "br, gzip;q=0, deflate;q=0.000") => (&*sent).read_to_end(&mut expanded).unwrap(),
                other => panic!("{other:?}"),
            };
            assert_eq!(coding.is_some(), sent.len() < expanded.len());
            let header: Value = serde_json::from_slice(&expanded[..length]).unwrap();
            assert_eq!(header["outputs"][0]["parameters"]["binary_data_size"], 4 * count);
            assert_eq!(expanded[length..], body[body.len() - 4 * count..], "{given} {accepted}");
        }
    }
}

#[tokio::test]
async fn json_is_compressed_too_unless_it_is_short() {
    let url = start().await;
    for (count, coding) in [(2, None), (5000, Some("gzip"))] {
        let body = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, count], "data": vec![1; count]}]});
        let headers = [("content-encoding", "gzip"), ("accept-encoding", "gzip, deflate")];
        let answer = send(&url, &headers, gzip(body.to_string().as_bytes())).await;
        assert_eq!(answer.headers().get("content-encoding").map(|v| v.to_str().unwrap()), coding);
        assert_eq!(answer.headers()["content-type"], "application/json");
        let sent = answer.bytes().await.unwrap();
        let mut text = String::new();
        match coding {
            None => text = String::from_utf8(sent.to_vec()).unwrap(),
            Some(_) => drop(GzDecoder::new(&*sent).read_to_string(&mut text).unwrap()),
        }
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["outputs"][0]["data"].as_array().unwrap().len(), count);
    }
}

#[tokio::test]
async fn a_body_that_expands_without_end_is_cut_off() {
    let limit = 1 << 20;
    let url = serve(Echo::default(), Options { max_body_bytes: limit, ..Options::default() }).await;
    let large = vec![b' '; 64 << 20];
    let expands = (413, "the body expands to more than 1048576 bytes".to_owned());
    for (name, body) in [("gzip", gzip(&large)), ("deflate", zlib(&large)), ("deflate", bare_deflate(&large))] {
        assert!(body.len() < limit);
        assert_eq!(error(send(&url, &[("content-encoding", name)], body).await).await, expands);
    }
    // One byte over the limit is too many, the limit itself is not.
    let over = send(&url, &[("content-encoding", "gzip")], gzip(&large[..=limit])).await;
    assert_eq!(error(over).await, expands);
    let (status, message) = error(send(&url, &[("content-encoding", "gzip")], gzip(&large[..limit])).await).await;
    assert_eq!((status, message.contains("EOF")), (400, true), "{message}");
    // A compressed body over the limit is refused as any other.
    let noise: Vec<u8> = (0..2_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let answer = send(&url, &[("content-encoding", "gzip")], gzip(&noise)).await;
    assert_eq!(answer.status(), 413);
}

#[tokio::test]
async fn a_coding_that_is_not_served_or_not_true_is_refused() {
    let url = start().await;
    let not_served =
        |name: &str| format!("bodies with Content-Encoding \"{name}\" are not served; use gzip, deflate or none");
    let twice = "bodies that are compressed twice are not served; compress once or not at all";
    for (coding, message) in [
        ("br", not_served("br")),
        ("gzip, zstd", not_served("zstd")),
        ("gzip, gzip", twice.into()),
        ("deflate, gzip", twice.into()),
    ] {
        let answer = send(&url, &[("content-encoding", coding)], gzip(b"{}")).await;
        assert_eq!(answer.headers()["accept-encoding"], "gzip, deflate");
        assert_eq!(error(answer).await, (415, message));
    }
    let (body, _) = ask(1000);
    let whole = gzip(&body);
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x40;
    let after = |body: Vec<u8>| [&*body, b"more"].concat();
    for (coding, sent) in [
        ("gzip", body.clone()),
        ("gzip", Vec::new()),
        ("gzip", whole[..whole.len() - 1].to_vec()),
        ("gzip", flipped),
        ("gzip", after(whole.clone())),
        ("gzip", zlib(&body)),
        ("deflate", zlib(&body)[..100].to_vec()),
        ("deflate", after(zlib(&body))),
        ("deflate", after(bare_deflate(&body))),
        ("deflate", whole),
    ] {
        let (status, message) = error(send(&url, &[("content-encoding", coding)], sent).await).await;
        assert_eq!(status, 400, "{message}");
        assert!(message.starts_with("the body is not what its Content-Encoding says: "), "{message}");
    }
}
