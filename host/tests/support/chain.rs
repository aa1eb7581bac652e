//! Nodes and a dispatcher as processes of their own.

use super::cluster::Process;
use super::http::{self, Refusal, Reply, Request};
use super::networks::Staged;
use super::{BINARY, emulated, folder, poll};
use defer_host::engine::Named;
use reqwest::Method;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

const UP: Duration = Duration::from_secs(60);

/// A node that can be stopped and started again on the same ports.
pub struct Node {
    pub process: Process,
    pub name: String,
    pub state_dir: PathBuf,
    program: PathBuf,
    extra: Vec<String>,
    envs: Vec<(String, String)>,
    rest: String,
    relay: String,
}

impl Node {
    /// Starts a node with its state under `folder`, on free ports.
    pub fn start(folder: &Path, name: &str, extra: &[&str]) -> Self {
        Self::start_in(folder, name, extra, &[])
    }

    /// The same with an environment.
    pub fn start_in(folder: &Path, name: &str, extra: &[&str], envs: &[(&str, &str)]) -> Self {
        Self::start_as(Path::new(BINARY), folder, name, extra, envs)
    }

    /// The same of an emulated aarch64 machine.
    pub fn start_emulated(folder: &Path, name: &str) -> Self {
        let library = emulated::aarch64_library();
        let library = library.to_str().expect("the cache's path is UTF-8");
        Self::start_as(emulated::aarch64(), folder, name, &["--ort-lib", library], &[])
    }

    /// A node on the oldest processor of this architecture, x86-64, that the program is for.
    pub fn start_oldest(folder: &Path, name: &str, extra: &[&str]) -> Self {
        Self::start_as(emulated::oldest_x86(), folder, name, extra, &[])
    }

    fn start_as(program: &Path, folder: &Path, name: &str, extra: &[&str], envs: &[(&str, &str)]) -> Self {
        let state_dir = folder.join(name);
        let extra: Vec<String> = extra.iter().map(|&arg| arg.to_owned()).collect();
        let process = serve(program, name, &state_dir, ["127.0.0.1:0"; 2], &extra, envs);
        let envs = envs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { program: program.to_owned(), extra, envs, ..Self::adopt(process, name, &state_dir) }
    }

    /// A node that somebody else has started and waited for.
    pub fn adopt(process: Process, name: &str, state_dir: &Path) -> Self {
        let (rest, relay) = (process.address("rest").to_owned(), process.address("relay").to_owned());
        let (name, state_dir) = (name.to_owned(), state_dir.to_owned());
        let program = PathBuf::from(BINARY);
        Self { process, name, state_dir, program, extra: Vec::new(), envs: Vec::new(), rest, relay }
    }

    /// Starts it again after it ended, on the same ports with the same state.
    pub fn start_again(&mut self) {
        let rest = self.rest.trim_start_matches("http://");
        let envs: Vec<(&str, &str)> = self.envs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.process = serve(&self.program, &self.name, &self.state_dir, [rest, &self.relay], &self.extra, &envs);
    }

    /// URL of its REST port.
    pub fn url(&self) -> &str {
        &self.rest
    }

    /// Address of its relay port.
    pub fn relay(&self) -> &str {
        &self.relay
    }

    pub fn get(&self, path: &str) -> Reply {
        Request::get(format!("{}{path}", self.rest)).send()
    }

    /// What `GET /v1/stages` lists.
    pub fn stages(&self) -> Vec<Value> {
        self.get("/v1/stages").json()["stages"].as_array().expect("a list").clone()
    }

    /// Uploads an artifact under `digest`.
    pub fn upload(&self, digest: &str, artifact: Vec<u8>) -> Reply {
        Request::new(Method::PUT, format!("{}/v1/artifacts/{digest}", self.rest)).body(artifact).send()
    }

    /// What it says of itself.
    pub fn describe(&self) -> Value {
        self.get("/v1/node").json()
    }

    pub fn has_artifact(&self, digest: &str) -> bool {
        Request::new(Method::HEAD, format!("{}/v1/artifacts/{digest}", self.rest)).send().status.is_success()
    }

    pub fn prepare(&self, pipeline: &str, generation: u64, body: &Value) -> Reply {
        Request::new(Method::PUT, self.generation(pipeline, generation)).json(body).send()
    }

    pub fn remove(&self, pipeline: &str, generation: u64) -> Reply {
        Request::new(Method::DELETE, self.generation(pipeline, generation)).send()
    }

    fn generation(&self, pipeline: &str, generation: u64) -> String {
        format!("{}/v1/pipelines/{pipeline}/generations/{generation}", self.rest)
    }
}

/// A `--memory-limit` that leaves stages about `mebi` MiB on a node with `flags`: what such a node takes itself is measured.
pub fn memory_limit(name: &str, flags: &[&str], mebi: u64) -> String {
    let node = Node::start(&folder(&format!("limit-of-{name}")), "n0", flags);
    assert!(node.describe()["runtime_memory_bytes"].is_null(), "no stage was loaded yet");
    let measured = Request::new(Method::POST, format!("{}/v1/probe/speed", node.url())).send();
    assert!(measured.status.is_success(), "{}", measured.error());
    let runtime = node.describe()["runtime_memory_bytes"].as_u64().expect("it was measured");
    ((runtime >> 20) + mebi).to_string()
}

fn serve(
    program: &Path,
    name: &str,
    state_dir: &Path,
    [rest, relay]: [&str; 2],
    extra: &[String],
    envs: &[(&str, &str)],
) -> Process {
    let state_dir = state_dir.to_str().expect("cargo's path is UTF-8");
    // One thread each: the tests run many nodes side by side.
    let mut args = vec!["serve", "--name", name, "--listen", rest, "--relay", relay, "--state-dir", state_dir];
    if !extra.iter().any(|arg| arg == "--threads") {
        args.extend(["--threads", "1"]);
    }
    args.extend(extra.iter().map(String::as_str));
    let mut process = Process::spawn(program, &args, envs).expect("the program starts");
    process.wait_listening(&["rest", "relay"], UP).expect("the node comes up");
    process
}

/// Starts a dispatcher for `staged`, stage i on node i, without waiting for it.
pub fn spawn_dispatcher(staged: &Staged, nodes: &[&Node], extra: &[&str]) -> Process {
    spawn_dispatcher_in(staged, nodes, extra, &[])
}

fn spawn_dispatcher_in(staged: &Staged, nodes: &[&Node], extra: &[&str], envs: &[(&str, &str)]) -> Process {
    let pipeline = staged.folder.to_str().expect("cargo's path is UTF-8");
    let mut args = vec!["dispatch", "--pipeline", pipeline, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    args.push("--node");
    args.extend(nodes.iter().map(|node| node.url()));
    args.extend(extra);
    Process::spawn(Path::new(BINARY), &args, envs).expect("the program starts")
}

/// Where a chain is asked; threads may share it.
#[derive(Clone, Debug)]
pub struct Door {
    pub url: String,
    pub model: String,
}

impl Door {
    pub fn infer(&self, inputs: &[Named]) -> Result<Vec<Named>, Refusal> {
        http::infer(&self.url, &self.model, inputs)
    }

    /// With parameters of the request; `None` where nobody listens.
    pub fn try_infer(&self, inputs: &[Named], parameters: &Value) -> Option<Result<Vec<Named>, Refusal>> {
        http::try_infer(&self.url, &self.model, inputs, parameters)
    }
}

/// A pipeline on running nodes behind a dispatcher.
pub struct Chain {
    pub dispatcher: Process,
    pub nodes: Vec<Node>,
    pub door: Door,
}

impl Chain {
    /// Starts as many nodes as `staged` has stages, and a dispatcher. `name` is the test's.
    pub fn start(name: &str, staged: &Staged) -> Self {
        Self::start_with(name, staged, &[], &[])
    }

    pub fn start_with(name: &str, staged: &Staged, serve: &[&str], dispatch: &[&str]) -> Self {
        let folder = folder(&format!("chain-{name}"));
        let names = (0..staged.pipeline.stages.len()).map(|index| format!("n{index}"));
        let nodes: Vec<Node> = names.map(|node| Node::start(&folder, &node, serve)).collect();
        Self::over(nodes, staged, dispatch)
    }

    /// Starts a dispatcher over running nodes.
    pub fn over(nodes: Vec<Node>, staged: &Staged, dispatch: &[&str]) -> Self {
        Self::over_in(nodes, staged, dispatch, &[])
    }

    /// The same with an environment.
    pub fn over_in(nodes: Vec<Node>, staged: &Staged, dispatch: &[&str], envs: &[(&str, &str)]) -> Self {
        let mut dispatcher = spawn_dispatcher_in(staged, &nodes.iter().collect::<Vec<_>>(), dispatch, envs);
        dispatcher.wait_listening(&["inference", "admin"], UP).expect("the dispatcher comes up");
        let door = Door { url: dispatcher.address("inference").to_owned(), model: staged.name().to_owned() };
        Self { dispatcher, nodes, door }
    }

    /// URL of the inference port.
    pub fn url(&self) -> &str {
        &self.door.url
    }

    pub fn infer(&self, inputs: &[Named]) -> Result<Vec<Named>, Refusal> {
        self.door.infer(inputs)
    }

    /// The answer, which may need patience: a chain that was hurt mends by itself, and says 503 until then.
    pub fn infer_in_time(&self, inputs: &[Named]) -> Vec<Named> {
        poll("an answer of the chain", || match self.door.try_infer(inputs, &json!({})) {
            Some(Ok(outputs)) => Some(outputs),
            Some(Err(refusal)) if refusal.status == 503 => None,
            other => panic!("neither an answer nor \"come again\": {other:?}"),
        })
    }

    /// What the admin port says of the pipeline.
    pub fn admin(&self) -> Value {
        Request::get(format!("{}/v1/pipelines", self.dispatcher.address("admin"))).send().json()["pipelines"][0].clone()
    }

    /// The generation that it runs, and the dispatcher's incarnation.
    pub fn tag(&self) -> (u64, u64) {
        let admin = self.admin();
        let generation = admin["generations"][0]["generation"].as_u64().expect("a number");
        (generation, admin["dispatcher"]["incarnation"].as_u64().expect("a number"))
    }
}
