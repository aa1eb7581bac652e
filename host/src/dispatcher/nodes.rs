//! The dispatcher's side of a node's REST API.

use super::ailing::Ailing;
use crate::artifact::Digest;
use crate::http::ErrorBody;
use crate::node::generation::Prepare;
use crate::pipeline::Pipeline;
use crate::relay::Token;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use reqwest::{Body, Client, Method, RequestBuilder, Response, StatusCode, Url, redirect};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio_util::io::ReaderStream;

/// Answers that need no work come within this time.
const QUICK: Duration = Duration::from_secs(10);
/// A word that needs no work on the other side.
const WORD: Duration = Duration::from_secs(5);
/// Loading a stage may read gigabytes from a slow card.
pub const LOAD: Duration = Duration::from_secs(600);
const UPLOAD_CHUNK: usize = 256 * 1024;
/// Bytes of an answer: more than a node with a thousand stages says.
const MOST_SAID: usize = 4 << 20;

/// In the chain of an error: somebody else has the pipeline, or the generation's number.
#[derive(Debug, thiserror::Error)]
#[error("the pipeline is taken")]
pub struct Taken;

/// In the chain of an error: what a node said instead of yes.
#[derive(Debug, thiserror::Error)]
#[error("the {kind} at {url} answered {status}: {said}")]
pub struct Answered {
    kind: &'static str,
    url: Url,
    pub status: StatusCode,
    said: String,
}

/// In the chain of an error: a node keeps less than would have to go there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoRoom(String);

/// In the chain of an error: something else than a node, or half of its answer, came from its address.
#[derive(Debug, thiserror::Error)]
#[error("what came is none: {0}")]
pub struct Strange(String);

/// One node, by its URL.
#[derive(Clone, Debug)]
pub struct NodeClient {
    pub url: Url,
    http: Client,
    token: Token,
    kind: Kind,
}

/// What answers at the URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Node,
    /// A dispatcher's admin port, where some calls are the same.
    Dispatcher,
}

impl Kind {
    fn name(self) -> &'static str {
        if self == Self::Node { "node" } else { "dispatcher" }
    }

    fn command(self) -> &'static str {
        if self == Self::Node { "serve" } else { "dispatch" }
    }
}

/// What `GET /v1/pulse` tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pulse {
    /// Drawn anew at each start of the node.
    pub epoch: u64,
    /// Whether it is about to stop: it finishes what is in it and takes no more.
    #[serde(default)]
    pub draining: bool,
    /// Swaps that wait for the dispatcher that owns their pipeline.
    pub candidates: Vec<CandidateInfo>,
    /// What keeps stages from their work although the node lives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ailing: Vec<Ailing>,
}

/// A stage that somebody sent to a node to be swapped in: loaded, warmed up, waiting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateInfo {
    /// The node's number for it.
    pub id: u64,
    pub pipeline: String,
    pub index: usize,
    pub digest: Digest,
    /// Incarnation of the dispatcher that it waits for.
    pub incarnation: u64,
}

/// What a dispatcher says of a candidate: body of `POST /v1/candidates/{id}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is working on it.
    Taken,
    /// The ingress has turned: requests from `first_seq` on go to `generation`, which has it.
    Switched { generation: u64, first_seq: u64 },
    /// It will not be; the node answers its client so.
    Refused { status: u16, error: String },
}

/// What a node says of itself, as far as a dispatcher wants to know it.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeInfo {
    pub name: String,
    /// Address to which its relay is bound.
    relay: String,
    advertise: Option<String>,
    pub max_tensor_bytes: usize,
    /// The largest artifact that it takes.
    store_limit_bytes: Option<u64>,
    #[serde(default)]
    pub cores: Option<u32>,
    /// What stages may still take.
    #[serde(default)]
    pub usable_memory_bytes: Option<u64>,
    #[serde(default)]
    pub engines: Vec<EngineInfo>,
}

/// An engine that a node has.
#[derive(Clone, Debug, Deserialize)]
pub struct EngineInfo {
    /// Whether stages may run on it.
    pub chosen: bool,
}

/// A slot that a node has.
#[derive(Clone, Debug, Deserialize)]
pub struct SlotInfo {
    pub pipeline: String,
    pub generation: u64,
    /// Of the dispatcher that made the generation; nodes of earlier versions do not say.
    pub incarnation: Option<u64>,
    pub digest: Option<Digest>,
    pub engine: Option<String>,
}

#[derive(Deserialize)]
struct Relay {
    relay: String,
}

#[derive(Deserialize)]
struct Slots {
    stages: Vec<SlotInfo>,
}

impl NodeClient {
    pub fn new(url: Url, token: Token) -> Result<Self> {
        Self::of(Kind::Node, url, token, None)
    }

    /// For the node that answers at `address`, whatever else the name in `url` may mean later.
    pub fn at(address: SocketAddr, url: Url, token: Token) -> Result<Self> {
        Self::of(Kind::Node, url, token, Some(address))
    }

    /// For a dispatcher's admin port.
    pub fn of_dispatcher(url: Url, token: Token) -> Result<Self> {
        Self::of(Kind::Dispatcher, url, token, None)
    }

    fn of(kind: Kind, url: Url, token: Token, address: Option<SocketAddr>) -> Result<Self> {
        // Nodes stand in the user's own network: a proxy of the environment is not meant for them. Nor does a node ever
        // send anybody elsewhere.
        let mut http = Client::builder().connect_timeout(QUICK).no_proxy().redirect(redirect::Policy::none());
        if let (Some(host), Some(address)) = (url.host_str(), address) {
            http = http.resolve(host, address);
        }
        Ok(Self { http: http.build()?, url, token, kind })
    }

    fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder> {
        let mut url = self.url.clone();
        url.path_segments_mut().map_err(|()| anyhow!("{} is no base for paths", self.url))?.pop_if_empty().extend(path);
        let request = self.http.request(method, url);
        Ok(if self.token.is_empty() { request } else { request.bearer_auth(self.token.text()) })
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let (kind, command) = (self.kind.name(), self.kind.command());
        let unreachable =
            || format!("cannot reach the {kind} at {}; is `defer-host {command}` running there?", self.url);
        request.send().await.with_context(unreachable)
    }

    /// The answer, or the node's own words on why not.
    async fn accept(&self, response: Response) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = match read(response).await {
            Ok(body) => String::from_utf8_lossy(&body).into_owned(),
            Err(error) => format!("({error:#})"),
        };
        let said = match serde_json::from_str::<ErrorBody>(&text) {
            Ok(ErrorBody { error, cause }) => [vec![error], cause].concat().join(": "),
            Err(_) => text,
        };
        Err(Answered { kind: self.kind.name(), url: self.url.clone(), status, said }.into())
    }

    /// What the node says to `request`.
    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let said = read(self.accept(self.send(request).await?).await?).await;
        let said =
            said.and_then(|said| serde_json::from_slice(&said).map_err(|error| Strange(error.to_string()).into()));
        said.with_context(|| format!("no answer of the {} at {}", self.kind.name(), self.url))
    }

    pub async fn describe(&self) -> Result<NodeInfo> {
        let request = self.request(Method::GET, &["v1", "node"])?.timeout(QUICK);
        self.answer(request).await
    }

    /// Where the node says that its relay is, `host:port` or `:port`: told without the token, and not proved.
    pub async fn stated_relay(&self) -> Result<String> {
        let request = self.request(Method::GET, &["v1", "relay"])?.timeout(QUICK);
        Ok(self.answer::<Relay>(request).await?.relay)
    }

    /// Where others reach the relay: what the node advertises, else the host of its URL and the relay's port.
    pub fn relay(&self, info: &NodeInfo) -> Result<String> {
        if let Some(address) = &info.advertise {
            return Ok(address.clone());
        }
        let host = self.url.host_str().ok_or_else(|| anyhow!("{} names no host", self.url))?;
        let port = info.relay.rsplit_once(':').map(|(_, port)| port).context("the node's relay address has no port")?;
        Ok(format!("{host}:{port}"))
    }

    /// That the node lives, and what waits there for dispatcher `incarnation`, which lives too.
    pub async fn pulse(&self, incarnation: u64) -> Result<Pulse> {
        // The caller knows how long is too long.
        let request = self.request(Method::GET, &["v1", "pulse"])?.timeout(QUICK);
        let request = request.query(&[("incarnation", incarnation)]);
        self.answer(request).await
    }

    /// Tells the node what becomes of a candidate.
    pub async fn settle(&self, candidate: u64, verdict: &Verdict) -> Result<()> {
        let request = self.request(Method::POST, &["v1", "candidates", &candidate.to_string()])?;
        self.accept(self.send(request.timeout(WORD).json(verdict)).await?).await?;
        Ok(())
    }

    /// The bytes of an artifact that the node has.
    pub async fn download(&self, digest: &Digest) -> Result<Body> {
        let request = self.request(Method::GET, &["v1", "artifacts", &digest.to_string()])?;
        Ok(Body::from(self.accept(self.send(request).await?).await?))
    }

    /// Posts `body` to `path`, and waits for the answer for at most `limit`.
    pub async fn ask<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize, limit: Duration) -> Result<T> {
        let request = self.request(Method::POST, path)?.timeout(limit).json(body);
        self.answer(request).await
    }

    pub async fn slots(&self) -> Result<Vec<SlotInfo>> {
        let request = self.request(Method::GET, &["v1", "stages"])?.timeout(QUICK);
        Ok(self.answer::<Slots>(request).await?.stages)
    }

    pub async fn has_artifact(&self, digest: &Digest) -> Result<bool> {
        // A node that finds its mark missing hashes the file first.
        let request = self.request(Method::HEAD, &["v1", "artifacts", &digest.to_string()])?.timeout(LOAD);
        match self.send(request).await?.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            StatusCode::UNAUTHORIZED => {
                bail!("the {} at {} refuses the token; give both the same --token-file", self.kind.name(), self.url)
            }
            status => bail!("the {} at {} answered {status}", self.kind.name(), self.url),
        }
    }

    /// Uploads the artifact `file`; `sent` is told the bytes of each chunk.
    pub async fn upload(&self, digest: &Digest, file: &Path, sent: impl Fn(u64) + Send + Sync + 'static) -> Result<()> {
        use futures_util::TryStreamExt as _;
        let open = tokio::fs::File::open(file).await.with_context(|| format!("cannot read {}", file.display()))?;
        let length = open.metadata().await?.len();
        // It would refuse it, but a client that is still sending may miss the answer.
        let limit = if self.kind == Kind::Node { self.describe().await?.store_limit_bytes } else { None };
        if let Some(limit) = limit.filter(|limit| length > *limit) {
            let (file, url) = (file.display(), &self.url);
            let text = format!("{file} has {length} bytes, the node at {url} keeps {limit} (serve --store-limit)");
            return Err(NoRoom(text).into());
        }
        let stream = ReaderStream::with_capacity(open, UPLOAD_CHUNK).inspect_ok(move |chunk| sent(chunk.len() as u64));
        let request = self.request(Method::PUT, &["v1", "artifacts", &digest.to_string()])?;
        let request = request.header("content-length", length).body(Body::wrap_stream(stream));
        self.accept(self.send(request).await?).await?;
        Ok(())
    }

    /// Has the node swap stage `index` of `pipeline` for the artifact `file`; gives its answer.
    pub async fn swap(
        &self,
        pipeline: &str,
        index: usize,
        file: &Path,
        sent: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<Value> {
        use futures_util::TryStreamExt as _;
        let open = tokio::fs::File::open(file).await.with_context(|| format!("cannot read {}", file.display()))?;
        let length = open.metadata().await?.len();
        let stream = ReaderStream::with_capacity(open, UPLOAD_CHUNK).inspect_ok(move |chunk| sent(chunk.len() as u64));
        let request = self.request(Method::PUT, &["v1", "stages", pipeline, &index.to_string()])?;
        let request = request.header("content-length", length).body(Body::wrap_stream(stream));
        self.answer(request).await
    }

    /// Has the node go back to what stage `index` of `pipeline` ran before; gives its answer.
    pub async fn roll_back(&self, pipeline: &str, index: usize) -> Result<Value> {
        let request = self.request(Method::POST, &["v1", "stages", pipeline, &index.to_string(), "rollback"])?;
        self.answer(request).await
    }

    /// Has a dispatcher change what runs: `what` is deploy, promote or abort; gives its answer.
    pub async fn change(
        &self,
        pipeline: &str,
        what: &str,
        query: &[(&str, String)],
        body: Option<&Pipeline>,
    ) -> Result<Value> {
        let mut request = self.request(Method::POST, &["v1", "pipelines", pipeline, what])?.query(query);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.answer(request).await
    }

    /// Has the node load and start its stages of a generation, or renews its lease.
    pub async fn prepare(&self, pipeline: &str, generation: u64, body: &Prepare) -> Result<()> {
        let path = ["v1", "pipelines", pipeline, "generations", &generation.to_string()];
        let request = self.request(Method::PUT, &path)?.timeout(LOAD).json(body);
        let response = self.send(request).await?;
        let conflict = response.status() == StatusCode::CONFLICT;
        let result = self.accept(response).await;
        match result {
            Err(error) if conflict => Err(error.context(Taken)),
            result => result.map(drop),
        }
    }

    /// Drops a generation, if it belongs to dispatcher `incarnation` (`None`: whosever it is), giving it at most `drain`
    /// to finish what is in it.
    pub async fn remove(
        &self,
        pipeline: &str,
        generation: u64,
        incarnation: Option<u64>,
        drain: Duration,
    ) -> Result<()> {
        let path = ["v1", "pipelines", pipeline, "generations", &generation.to_string()];
        let request = self.request(Method::DELETE, &path)?.timeout(QUICK + drain);
        let request = request.query(&[("drain_ms", drain.as_millis().to_string())]);
        let request = request.query(&incarnation.map(|incarnation| ("incarnation", incarnation)).as_slice());
        self.accept(self.send(request).await?).await?;
        Ok(())
    }
}

/// The body of `response`, if it is not too long: whoever listens at a node's address may say anything.
async fn read(mut response: Response) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        ensure!(body.len() + chunk.len() <= MOST_SAID, Strange(format!("it has more than {MOST_SAID} bytes")));
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
