//! Puts a pipeline onto nodes: ships the artifacts that are missing, and has every node prepare a new generation.

use super::nodes::NodeClient;
use crate::node::generation::{Assignment, Hop, Owner, Prepare};
use crate::pipeline::Pipeline;
use crate::relay::codec::{Choice, Codec};
use anyhow::{Context as _, Result, bail};
use futures_util::future::{join_all, try_join_all};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a node keeps a generation that nobody uses, or a pipeline for a dispatcher it does not hear of.
pub const LEASE: Duration = Duration::from_secs(15);

/// How long an older generation may finish what is in it.
const DRAIN_OLD: Duration = Duration::from_secs(10);

/// One stage on its node.
#[derive(Clone, Debug)]
pub struct Placed {
    pub index: usize,
    pub node: NodeClient,
    /// The node's name.
    pub name: String,
    /// Where its relay is reached.
    pub relay: String,
    pub artifact: PathBuf,
    pub assignment: Assignment,
}

/// A generation as it is deployed: an immutable tuple of artifacts, placement and codecs.
#[derive(Clone, Debug)]
pub struct Deployment {
    pub pipeline: String,
    pub generation: u64,
    pub owner: Owner,
    /// Codec of the hop from the dispatcher to the first stage.
    pub codec_in: Codec,
    pub stages: Vec<Placed>,
}

/// Told of what takes time while deploying.
pub trait Progress: Send + Sync {
    /// `bytes` more of stage `stage`'s artifact, `total` long, went to its node.
    fn shipped(&self, stage: usize, bytes: u64, total: u64);
    /// Stage `stage` is loaded and warmed up.
    fn prepared(&self, stage: usize, node: &str);
}

/// Plans generation `number` of `pipeline`: stage i on node i.
pub async fn place(
    pipeline: &Pipeline,
    folder: &Path,
    nodes: &[NodeClient],
    owner: Owner,
    codec: Option<Choice>,
) -> Result<Deployment> {
    let infos = try_join_all(nodes.iter().map(NodeClient::describe)).await?;
    let mut named = BTreeMap::new();
    for (info, node) in infos.iter().zip(nodes) {
        if let Some(other) = named.insert(&info.name, &node.url) {
            bail!("the nodes at {other} and {} are both called \"{}\"; give each its own --name", node.url, info.name);
        }
    }
    let slots = try_join_all(nodes.iter().map(NodeClient::slots)).await?;
    let known = slots.iter().flatten().filter(|slot| slot.pipeline == pipeline.name).map(|slot| slot.generation).max();
    let relays = nodes.iter().zip(&infos).map(|(node, info)| node.relay(info)).collect::<Result<Vec<_>>>()?;
    let mut stages = Vec::with_capacity(pipeline.stages.len());
    for (i, stage) in pipeline.stages.iter().enumerate() {
        let next = relays.get(i + 1).filter(|_| i + 1 < pipeline.stages.len());
        let next = next.map(|relay| Hop { relay: relay.clone(), stage: i + 1 }).into_iter().collect();
        let codec = codec.or(stage.codec).unwrap_or(Choice::Auto);
        if let Choice::Fixed(lossy) = codec
            && lossy.is_lossy()
        {
            tracing::warn!(stage = i, codec = %lossy, "a lossy codec: results will differ from the network's own");
        }
        stages.push(Placed {
            index: i,
            node: nodes[i].clone(),
            name: infos[i].name.clone(),
            relay: relays[i].clone(),
            artifact: folder.join(&stage.file),
            assignment: Assignment { index: i, artifact: stage.digest, next, codec, lossy: stage.lossy.clone() },
        });
    }
    Ok(Deployment {
        pipeline: pipeline.name.clone(),
        generation: known.unwrap_or(0) + 1,
        owner,
        // Its inputs come from outside, and the dispatcher has no bottleneck to mind.
        codec_in: match codec {
            Some(Choice::Fixed(codec)) => codec,
            Some(Choice::Auto) | None => Codec::Raw,
        },
        stages,
    })
}

impl Deployment {
    /// Ships what is missing and prepares every stage. Where one node cannot, the others drop theirs again.
    pub async fn prepare(&self, progress: &Arc<dyn Progress>) -> Result<()> {
        let failed = CancellationToken::new();
        let all = self.stages.iter().map(|stage| async {
            let result = self.ship_and_prepare(stage, progress, &failed).await;
            if result.is_err() {
                failed.cancel();
            }
            result.with_context(|| format!("stage {} on node \"{}\"", stage.index, stage.name))
        });
        let result = join_all(all).await.into_iter().collect();
        if failed.is_cancelled() {
            self.remove().await;
        }
        result
    }

    /// Where another stage has failed, an upload is broken off. A node that loads is waited for: what it has not
    /// finished it could not be told to drop, and would then keep for a lease.
    async fn ship_and_prepare(
        &self,
        stage: &Placed,
        progress: &Arc<dyn Progress>,
        failed: &CancellationToken,
    ) -> Result<()> {
        match failed.run_until_cancelled(self.ship(stage, progress)).await {
            Some(shipped) => shipped?,
            None => return Ok(()),
        }
        self.prepare_one(stage).await?;
        progress.prepared(stage.index, &stage.name);
        Ok(())
    }

    async fn ship(&self, stage: &Placed, progress: &Arc<dyn Progress>) -> Result<()> {
        let digest = &stage.assignment.artifact;
        if stage.node.has_artifact(digest).await? {
            return Ok(());
        }
        let total = tokio::fs::metadata(&stage.artifact)
            .await
            .with_context(|| format!("cannot read {}; was the pipeline moved?", stage.artifact.display()))?
            .len();
        let (progress, index) = (Arc::clone(progress), stage.index);
        stage.node.upload(digest, &stage.artifact, move |bytes| progress.shipped(index, bytes, total)).await
    }

    async fn prepare_one(&self, stage: &Placed) -> Result<()> {
        stage.node.prepare(&self.pipeline, self.generation, &self.body(stage)).await
    }

    fn body(&self, stage: &Placed) -> Prepare {
        let lease_ms = u64::try_from(LEASE.as_millis()).expect("a lease is seconds");
        Prepare { dispatcher: self.owner.clone(), lease_ms, stages: vec![stage.assignment.clone()] }
    }

    /// Renews the lease on every node, for ever. A node that came back without its stage gets it again.
    pub async fn keep(&self, progress: Arc<dyn Progress>) {
        join_all(self.stages.iter().map(|stage| self.keep_one(stage, &progress))).await;
    }

    async fn keep_one(&self, stage: &Placed, progress: &Arc<dyn Progress>) {
        loop {
            tokio::time::sleep(LEASE / 3).await;
            let mut renewed = self.prepare_one(stage).await;
            if renewed.is_err() {
                renewed = async {
                    self.ship(stage, progress).await?;
                    self.prepare_one(stage).await
                }
                .await;
            }
            if let Err(error) = renewed {
                let error = format!("{error:#}");
                tracing::warn!(stage = stage.index, node = stage.name, error, "cannot renew the lease");
            }
        }
    }

    /// Drops this generation from all its nodes, as far as they answer and it is ours there. What is in it is lost: its
    /// links are closed by then.
    pub async fn remove(&self) {
        let owner = Some(self.owner.incarnation);
        let all = self.stages.iter().map(|stage| async move {
            let removed = stage.node.remove(&self.pipeline, self.generation, owner, Duration::ZERO).await;
            if let Err(error) = removed {
                let error = format!("{error:#}");
                tracing::debug!(stage = stage.index, error, "a generation was not there to drop");
            }
        });
        join_all(all).await;
    }

    /// Drops what earlier dispatchers left of this pipeline on these nodes.
    pub async fn remove_older(&self) {
        for stage in &self.stages {
            let slots = stage.node.slots().await.unwrap_or_default();
            for slot in slots.iter().filter(|s| s.pipeline == self.pipeline && s.generation < self.generation) {
                if let Err(error) = stage.node.remove(&slot.pipeline, slot.generation, None, DRAIN_OLD).await {
                    let error = format!("{error:#}");
                    tracing::warn!(node = stage.name, generation = slot.generation, error, "an old generation stays");
                }
            }
        }
    }
}
