//! One model on one server.

use super::wire::{self, Encoded, Outputs};
use super::{InferArgs, UsageError};
use crate::oip::{HEADER_LENGTH, ModelMetadata, binary};
use anyhow::Context;
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url, header};
use std::fmt;
use std::time::Duration;

/// Time to open a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How much longer than the server's time limit the client waits, for the server to be the one that says so.
const GRACE: Duration = Duration::from_secs(2);

pub(super) struct Endpoint {
    client: Client,
    model: Url,
    infer: Url,
    token: Option<String>,
}

/// Why one attempt gave no answer.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Connect(String),
    TimedOut(String),
    /// The server said no: status, its message, and the wait that it asks for.
    Refused {
        status: StatusCode,
        message: String,
        retry_after: Option<Duration>,
    },
    /// An answer that is not the protocol's.
    Answer(String),
}

impl Failure {
    /// What failures are counted by.
    pub(super) fn kind(&self) -> String {
        match self {
            Failure::Connect(_) => "connection".into(),
            Failure::TimedOut(_) => "time limit".into(),
            Failure::Refused { status, .. } => format!("HTTP {}", status.as_u16()),
            Failure::Answer(_) => "bad answer".into(),
        }
    }

    /// How long to wait before the same request may be sent again; `None` where that is no use.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Failure::Refused { status: StatusCode::SERVICE_UNAVAILABLE, retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Connect(text) | Failure::TimedOut(text) | Failure::Answer(text) => f.write_str(text),
            Failure::Refused { status, message, .. } => write!(f, "{message} (HTTP {})", status.as_u16()),
        }
    }
}

impl std::error::Error for Failure {}

impl Endpoint {
    pub(super) fn new(args: &InferArgs) -> anyhow::Result<Self> {
        let wrong =
            |why: &str| UsageError(format!("--url \"{}\" {why}; give one like http://127.0.0.1:8000", args.url));
        let base = Url::parse(&args.url).map_err(|e| wrong(&format!("cannot be read: {e}")))?;
        if base.scheme() != "http" {
            return Err(wrong(&format!("has the scheme {}, only http is spoken", base.scheme())).into());
        }
        let path = |last: Option<&str>| -> Result<Url, UsageError> {
            let mut url = base.clone();
            let mut segments = url.path_segments_mut().map_err(|()| wrong("has no path"))?;
            // A segment is percent-encoded as a whole: a slash in a model's name stays in the name.
            segments.pop_if_empty().extend(["v2", "models", &args.model]).extend(last);
            drop(segments);
            Ok(url)
        };
        let token = match &args.token_file {
            Some(file) => {
                let read = std::fs::read_to_string(file);
                let text = read.map_err(|e| UsageError(format!("cannot read --token-file {}: {e}", file.display())))?;
                Some(text.trim().to_owned())
            }
            None => None,
        };
        // A proxy for the web has no business between a cluster's machines.
        let mut client = Client::builder().no_proxy().connect_timeout(CONNECT);
        if let Some(budget) = args.budget() {
            client = client.timeout(budget + GRACE);
        }
        let client = client.build().context("cannot set up an HTTP client")?;
        Ok(Self { client, model: path(None)?, infer: path(Some("infer"))?, token })
    }

    /// What the server says of the model.
    pub(super) async fn metadata(&self) -> Result<ModelMetadata, Failure> {
        let response = self.send(self.client.get(self.model.clone())).await?;
        let body = response.bytes().await.map_err(|e| failure(&e))?;
        wire::metadata(&body).map_err(|e| Failure::Answer(format!("the model's description cannot be read: {e}")))
    }

    /// One attempt at one request.
    pub(super) async fn infer(&self, request: &Encoded) -> Result<Outputs, Failure> {
        let post = self.client.post(self.infer.clone()).header(HEADER_LENGTH, request.header_length);
        let response = self.send(post.body(request.body.clone())).await?;
        let header_length = binary::header_length(response.headers()).map_err(Failure::Answer)?;
        let body = response.bytes().await.map_err(|e| failure(&e))?;
        wire::decode(&body, header_length).map_err(Failure::Answer)
    }

    async fn send(&self, mut request: RequestBuilder) -> Result<Response, Failure> {
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.map_err(|e| failure(&e))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let seconds = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
        let body = response.text().await.unwrap_or_default();
        let told = serde_json::from_str::<serde_json::Value>(&body).ok();
        let told = told.as_ref().and_then(|v| v.get("error")?.as_str());
        let message = told.map_or_else(|| body.chars().take(200).collect(), str::to_owned);
        Err(Failure::Refused { status, message, retry_after: seconds.map(Duration::from_secs) })
    }
}

fn failure(error: &reqwest::Error) -> Failure {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    if error.is_timeout() { Failure::TimedOut(text) } else { Failure::Connect(text) }
}
