//! `cluster.toml`: the machines that a network may run on, and what joins them.
//!
//! ```toml
//! [[node]]
//! name = "pi-1"                   # unique
//! url = "http://192.0.2.1:7700"   # optional for planning alone
//! speed = 0.25                    # relative to the machine of the profile
//! memory_bytes = 536870912
//! cores = 4                       # optional
//! [link]                          # of every pair that is not listed; may be left out when all are
//! bandwidth_bps = 100000000       # bits per second
//! latency_ms = 0.5
//! [[link.pair]]                   # both ways, unless the reverse is listed too; what it leaves out is that of [link]
//! a = "pi-1"
//! b = "pi-2"
//! bandwidth_bps = 30000000
//! latency_ms = 2
//! [dispatcher]                    # its link, over which all requests and answers go; without it: infinitely fast
//! bandwidth_bps = 1000000000
//! latency_ms = 0.2                # 0 if left out
//! ```

use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    #[serde(rename = "node", default)]
    pub nodes: Vec<ClusterNode>,
    #[serde(default)]
    pub link: Links,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispatcher: Option<DispatcherLink>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterNode {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Relative to the machine of the profile.
    pub speed: f64,
    /// What it may use for weights and activations.
    pub memory_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
}

/// What joins nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Links {
    /// Bits per second of every pair that is not listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bps: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    #[serde(rename = "pair", default, skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<Pair>,
}

/// The link from node `a` to node `b`, and back unless that is listed too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    pub a: String,
    pub b: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bps: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
}

/// The dispatcher's own link: every request leaves over it and every answer comes back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DispatcherLink {
    pub bandwidth_bps: f64,
    #[serde(default)]
    pub latency_ms: f64,
}

/// How one thing reaches another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Bits per second.
    pub bandwidth_bps: f64,
    pub latency_ms: f64,
}

impl Link {
    /// How long `bytes` take to leave, in ms.
    pub fn ms(&self, bytes: u64) -> f64 {
        if bytes == 0 { 0.0 } else { bytes as f64 * 8e3 / self.bandwidth_bps }
    }
}

/// Why a cluster cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("cannot read the cluster file {path}: {cause}", path = path.display())]
    Read { path: PathBuf, cause: std::io::Error },
    #[error("the cluster file {path} is malformed: {cause}", path = path.display())]
    Malformed { path: PathBuf, cause: String },
    #[error("the cluster file {path} cannot be used: {cause}", path = path.display())]
    Invalid { path: PathBuf, cause: String },
}

impl Cluster {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self, ClusterError> {
        let text =
            std::fs::read_to_string(path).map_err(|cause| ClusterError::Read { path: path.to_owned(), cause })?;
        Self::parse(&text, path)
    }

    /// Reads and checks the text of a file; `path` is for errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ClusterError> {
        // The parser's message shows line and column.
        let malformed = |error: toml::de::Error| error.to_string().trim_end().to_owned();
        let cluster: Self = toml::from_str(text)
            .map_err(|error| ClusterError::Malformed { path: path.to_owned(), cause: malformed(error) })?;
        cluster.check().map_err(|cause| ClusterError::Invalid { path: path.to_owned(), cause })?;
        Ok(cluster)
    }

    /// Writes it, as a whole or not at all.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        self.write_under("", path)
    }

    /// The same with `remarks` in front, which are lines that begin with `#`.
    pub fn write_under(&self, remarks: &str, path: &Path) -> std::io::Result<()> {
        let text = remarks.to_owned() + &toml::to_string(self).map_err(std::io::Error::other)?;
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        std::fs::write(&part, text)?;
        std::fs::rename(part, path)
    }

    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if self.nodes.is_empty() {
            return Err("it has no [[node]]".to_owned());
        }
        let mut names = HashSet::new();
        for node in &self.nodes {
            let name = &node.name;
            if name.is_empty() {
                return Err("a node has an empty name".to_owned());
            }
            if !names.insert(name.as_str()) {
                return Err(format!("two nodes are called \"{name}\"; names are unique"));
            }
            positive(node.speed, || format!("speed of node \"{name}\""))?;
            positive(node.memory_bytes as f64, || format!("memory_bytes of node \"{name}\""))?;
        }
        let of_all = "[link]".to_owned();
        self.link.bandwidth_bps.map_or(Ok(()), |bps| positive(bps, || format!("bandwidth_bps of {of_all}")))?;
        self.link.latency_ms.map_or(Ok(()), |ms| latency(ms, || format!("latency_ms of {of_all}")))?;
        let mut pairs = HashSet::new();
        for pair in &self.link.pairs {
            let (a, b) = (pair.a.as_str(), pair.b.as_str());
            let of = || format!("the pair \"{a}\", \"{b}\"");
            if let Some(unknown) = [a, b].into_iter().find(|name| !names.contains(name)) {
                return Err(format!("{} names node \"{unknown}\", which is not listed", of()));
            }
            if a == b {
                return Err(format!("{} joins a node to itself", of()));
            }
            if !pairs.insert((a, b)) {
                return Err(format!("{} is listed twice", of()));
            }
            pair.bandwidth_bps.map_or(Ok(()), |bps| positive(bps, || format!("bandwidth_bps of {}", of())))?;
            pair.latency_ms.map_or(Ok(()), |ms| latency(ms, || format!("latency_ms of {}", of())))?;
        }
        if let Some(dispatcher) = &self.dispatcher {
            positive(dispatcher.bandwidth_bps, || "bandwidth_bps of [dispatcher]".to_owned())?;
            latency(dispatcher.latency_ms, || "latency_ms of [dispatcher]".to_owned())?;
        }
        self.all_links().map(|_| ())
    }

    /// Link `[a][b]` from each node to each other one; what it says of a node and itself means nothing.
    pub fn links(&self) -> Result<Vec<Vec<Link>>, ClusterError> {
        self.all_links().map_err(|cause| ClusterError::Invalid { path: PathBuf::from("given"), cause })
    }

    fn all_links(&self) -> Result<Vec<Vec<Link>>, String> {
        let listed: HashMap<(&str, &str), &Pair> =
            self.link.pairs.iter().map(|pair| ((pair.a.as_str(), pair.b.as_str()), pair)).collect();
        let link = |a: &ClusterNode, b: &ClusterNode| {
            if a.name == b.name {
                return Ok(Link { bandwidth_bps: f64::INFINITY, latency_ms: 0.0 });
            }
            let (a, b) = (a.name.as_str(), b.name.as_str());
            let pair = listed.get(&(a, b)).or_else(|| listed.get(&(b, a)));
            let missing = |field: &str| {
                format!(
                    "there is no {field} from \"{a}\" to \"{b}\": give it in [link], for every pair, or in a [[link.pair]]"
                )
            };
            let bandwidth = pair.and_then(|pair| pair.bandwidth_bps).or(self.link.bandwidth_bps);
            let latency = pair.and_then(|pair| pair.latency_ms).or(self.link.latency_ms);
            Ok(Link {
                bandwidth_bps: bandwidth.ok_or_else(|| missing("bandwidth_bps"))?,
                latency_ms: latency.ok_or_else(|| missing("latency_ms"))?,
            })
        };
        self.nodes.iter().map(|a| self.nodes.iter().map(|b| link(a, b)).collect()).collect()
    }

    /// The node called `name`.
    pub fn node(&self, name: &str) -> Option<&ClusterNode> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The dispatcher's link; infinitely fast where the file has none.
    pub fn dispatcher_link(&self) -> Link {
        match self.dispatcher {
            Some(DispatcherLink { bandwidth_bps, latency_ms }) => Link { bandwidth_bps, latency_ms },
            None => Link { bandwidth_bps: f64::INFINITY, latency_ms: 0.0 },
        }
    }
}

/// What is computed from smaller or larger numbers might not be finite.
const NUMBERS: std::ops::RangeInclusive<f64> = 1e-9..=1e30;
const LONGEST_MS: f64 = 1e15;

fn positive(value: f64, what: impl Fn() -> String) -> Result<(), String> {
    match NUMBERS.contains(&value) {
        true => Ok(()),
        false => Err(format!("{} is {value}; it must be a number above 0, from 1e-9 to 1e30", what())),
    }
}

fn latency(ms: f64, what: impl Fn() -> String) -> Result<(), String> {
    match (0.0..=LONGEST_MS).contains(&ms) {
        true => Ok(()),
        false => Err(format!("{} is {ms}; it must be a number from 0 to {LONGEST_MS:e}", what())),
    }
}
