//! HTTP from plain threads: the nodes' and the dispatcher's ports, as any client sees them.

use defer_host::engine::Named;
use defer_partition::{DType, Tensor};
use reqwest::{Client, Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::runtime::Runtime;

/// No answer takes so long; a request that hangs is a failure of its test.
const HANGS: Duration = Duration::from_secs(90);

struct Web {
    runtime: Runtime,
    client: Client,
}

fn web() -> &'static Web {
    static WEB: OnceLock<Web> = OnceLock::new();
    WEB.get_or_init(|| Web {
        runtime: Runtime::new().expect("a runtime starts"),
        client: Client::builder().no_proxy().timeout(HANGS).build().expect("a client without TLS"),
    })
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The error of an answer that is no success, with all its causes.
    pub fn error(&self) -> String {
        let body = self.json();
        let causes = body["cause"].as_array().cloned().unwrap_or_default();
        let texts = std::iter::once(&body["error"]).chain(&causes).map(|text| text.as_str().expect("errors are text"));
        texts.collect::<Vec<_>>().join(": ")
    }
}

/// A request to be sent.
pub struct Request {
    method: Method,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        Self { method, url: url.into(), headers: Vec::new(), body: Vec::new() }
    }

    pub fn get(url: impl Into<String>) -> Self {
        Self::new(Method::GET, url)
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string().into_bytes())
    }

    /// The answer; `None` where the connection cannot be made or breaks off.
    pub fn try_send(self) -> Option<Reply> {
        let Web { runtime, client } = web();
        let mut request = client.request(self.method, &self.url);
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        let answer = async {
            let response = request.body(self.body).send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = response.bytes().await?.to_vec();
            Ok::<_, reqwest::Error>(Reply { status, headers, body })
        };
        match runtime.block_on(answer) {
            Ok(reply) => Some(reply),
            Err(error) if error.is_timeout() => panic!("no answer in {} s: {error}", HANGS.as_secs()),
            Err(_) => None,
        }
    }

    pub fn send(self) -> Reply {
        let url = self.url.clone();
        self.try_send().unwrap_or_else(|| panic!("no connection to {url}"))
    }
}

/// An inference that was not answered with outputs.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub error: String,
    pub retry_after: Option<u64>,
}

/// The body of a request with binary tensors, and the length of its JSON.
pub fn binary_body(inputs: &[Named], parameters: &Value) -> (usize, Vec<u8>) {
    let declared: Vec<Value> = inputs
        .iter()
        .map(|(name, tensor)| {
            let size = json!({"binary_data_size": tensor.data.len()});
            json!({"name": name, "datatype": tensor.dtype.name(), "shape": tensor.shape, "parameters": size})
        })
        .collect();
    let mut all = json!({"binary_data_output": true});
    all.as_object_mut().expect("an object").extend(parameters.as_object().cloned().unwrap_or_default());
    let mut body = json!({"inputs": declared, "parameters": all}).to_string().into_bytes();
    let header = body.len();
    inputs.iter().for_each(|(_, tensor)| body.extend(&tensor.data));
    (header, body)
}

/// One inference with binary tensors; `None` where the server is not there.
pub fn try_infer(url: &str, model: &str, inputs: &[Named], parameters: &Value) -> Option<Result<Vec<Named>, Refusal>> {
    let (header, body) = binary_body(inputs, parameters);
    let request = Request::new(Method::POST, format!("{url}/v2/models/{model}/infer"))
        .header("inference-header-content-length", header.to_string())
        .body(body);
    let reply = request.try_send()?;
    if reply.status != StatusCode::OK {
        let retry_after = reply.headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        return Some(Err(Refusal { status: reply.status.as_u16(), error: reply.error(), retry_after }));
    }
    Some(Ok(outputs(&reply)))
}

/// One inference with binary tensors.
pub fn infer(url: &str, model: &str, inputs: &[Named]) -> Result<Vec<Named>, Refusal> {
    try_infer(url, model, inputs, &json!({})).unwrap_or_else(|| panic!("no connection to {url}"))
}

fn outputs(reply: &Reply) -> Vec<Named> {
    let length = reply.headers.get("inference-header-content-length");
    // Empty tensors only: the body is JSON throughout, or begins with it.
    let length = length.map_or(reply.body.len(), |value| value.to_str().unwrap_or("").parse().expect("a length"));
    let (header, mut rest) = reply.body.split_at(length);
    let header: Value = serde_json::from_slice(header).expect("the answer's JSON");
    let mut outputs = Vec::new();
    for output in header["outputs"].as_array().expect("outputs") {
        let dtype: DType = serde_json::from_value(output["datatype"].clone()).expect("an element type");
        let shape: Vec<usize> = serde_json::from_value(output["shape"].clone()).expect("a shape");
        let size = output["parameters"]["binary_data_size"].as_u64().expect("a size") as usize;
        let (data, after) = rest.split_at(size);
        rest = after;
        let tensor = Tensor::new(dtype, shape, data.to_vec()).expect("as many bytes as the shape needs");
        outputs.push((output["name"].as_str().expect("a name").to_owned(), tensor));
    }
    assert!(rest.is_empty(), "{} bytes follow the last output", rest.len());
    outputs
}
