//! Which node runs which stage, where `build-stages --cluster` has said so.

use crate::client::UsageError;
use crate::pipeline::Pipeline;
use defer_partition::cluster::Cluster;
use reqwest::Url;
use std::collections::BTreeMap;
use std::path::Path;

/// The nodes of a cluster by what they have to do with a pipeline.
pub struct Placed {
    /// Those of each stage.
    pub nodes: Vec<Vec<Url>>,
    /// Those that the plan has left alone: of the nodes that were given, or else as far as the file has their URLs.
    pub idle: Vec<Url>,
}

/// Reads from the cluster file at `path` where the nodes are that the stages of `pipeline` are placed on. Only `given`
/// nodes are used if there are any; those that the file does not list have to be among the `spares`.
pub fn read(pipeline: &Pipeline, path: &Path, given: &[Url], spares: &[Url]) -> Result<Placed, UsageError> {
    let cluster = Cluster::read(path).map_err(|error| UsageError(error.to_string()))?;
    let (name, file) = (&pipeline.name, path.display());
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    let locate = |node: &str, url: &str| {
        parse(url).map_err(|cause| UsageError(format!("url of node \"{node}\" in {file}: {cause}")))
    };
    let mut nodes = Vec::with_capacity(pipeline.stages.len());
    for stage in &pipeline.stages {
        let index = stage.index;
        let refuse = |why: String| UsageError(format!("stage {index} of pipeline \"{name}\" {why}"));
        let placed = stage.nodes.as_deref().filter(|placed| !placed.is_empty());
        let placed = placed.ok_or_else(|| {
            refuse("is placed on no node; cut it with build-stages --cluster, or give --node".to_owned())
        })?;
        let mut home = Vec::with_capacity(placed.len());
        for node in placed {
            match taken.insert(node, index) {
                None => {}
                Some(same) if same == index => return Err(refuse(format!("is placed on node \"{node}\" twice"))),
                Some(other) => {
                    return Err(refuse(format!("and stage {other} are both placed on node \"{node}\"")));
                }
            }
            let known = cluster.node(node).ok_or_else(|| {
                refuse(format!("is placed on node \"{node}\", which {file} does not list; cut it again with that file"))
            })?;
            let url = known
                .url
                .as_deref()
                .ok_or_else(|| refuse(format!("is placed on node \"{node}\", which has no url in {file}; add it")))?;
            let url = locate(node, url)?;
            if !given.is_empty() && !given.contains(&url) {
                return Err(refuse(format!(
                    "is placed on node \"{node}\", {url} in {file}, which is not among --node; add it there, or leave --node out"
                )));
            }
            home.push(url);
        }
        nodes.push(home);
    }
    let located = cluster.nodes.iter().filter_map(|node| Some((node, locate(&node.name, node.url.as_deref()?))));
    let mut idle = Vec::new();
    let mut listed = Vec::new();
    for (node, url) in located {
        let url = url?;
        let used = given.is_empty() || given.contains(&url);
        if used && !taken.contains_key(node.name.as_str()) && !spares.contains(&url) {
            idle.push(url.clone());
        }
        listed.push(url);
    }
    match given.iter().find(|url| !listed.contains(url) && !spares.contains(url)) {
        None => Ok(Placed { nodes, idle }),
        Some(url) => Err(UsageError(format!(
            "--node {url} is none of the nodes in {file}; correct it, add that node to the file, or give it as --spare"
        ))),
    }
}

/// The nodes of each stage where `given` ones are taken in turn, and those that are left. A stage has as many as `replicas`
/// says, or else the pipeline.
pub fn in_turn(
    pipeline: &Pipeline,
    replicas: &BTreeMap<usize, usize>,
    given: Vec<Url>,
) -> Result<(Vec<Vec<Url>>, Vec<Url>), UsageError> {
    let wanted = pipeline.wanted(replicas);
    let (name, stages, needed) =
        (&pipeline.name, wanted.len(), wanted.iter().fold(0, |all: usize, nodes| all.saturating_add(*nodes)));
    if given.len() < needed {
        let why = match needed == stages {
            true => "stage i runs on node i".to_owned(),
            false => format!("with their replicas they take {needed}"),
        };
        let nodes = given.len();
        return Err(UsageError(format!("pipeline \"{name}\" has {stages} stages, {nodes} --node were given; {why}")));
    }
    let mut given = given.into_iter();
    let nodes = wanted.iter().map(|&nodes| given.by_ref().take(nodes).collect()).collect();
    Ok((nodes, given.collect()))
}

fn parse(url: &str) -> Result<Url, String> {
    match url.parse::<Url>() {
        Ok(url) if url.scheme() == "http" && !url.cannot_be_a_base() => Ok(url),
        _ => Err(format!("\"{url}\" is no URL such as http://pi-1:7700")),
    }
}
