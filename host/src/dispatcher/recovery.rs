//! When nodes are lost: their stages move to spare nodes, or onto those that are left, as another generation; what was
//! pending starts again there.

use super::deploy::{self, Placed, Progress};
use super::failure::PartFailed;
use super::fleet::{Certainty, Down, Member};
use super::generations::{Before, Generations, Trouble};
use super::running::Running;
use anyhow::{Context as _, Result, bail};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the nodes are looked at where nothing is heard.
const LOOK: Duration = Duration::from_millis(200);
/// How long a node must have been there before a stage that shares its node with others moves to it.
const SETTLED: Duration = Duration::from_secs(5);
/// How long a node whose answer is late is given the benefit of the doubt, where there is nobody to take its place.
const DOUBT: Duration = Duration::from_secs(3);
/// Between two attempts that failed.
const BREATH: Duration = Duration::from_millis(500);
/// How long a node that could not take a stage is left alone with it.
const UNFIT: Duration = Duration::from_secs(10);

/// Nodes that could not take a stage, and when.
type Unfit = HashMap<(usize, String), Instant>;

/// What to do about the nodes.
enum Plan {
    /// Every stage has a node that answers.
    Whole,
    /// The stages to run on these nodes; `None` where nothing is lost by what is there now.
    Move(Vec<Arc<Member>>, Before),
    /// Stage `index` has no node, and there is none to give it.
    Stuck(String),
}

/// Mends for ever.
pub async fn serve(generations: Arc<Generations>, replan_after: Duration) {
    let mut news = generations.fleet.news();
    let mut unfit = Unfit::new();
    let mut epochs: HashMap<String, (Option<u64>, bool)> = HashMap::new();
    loop {
        let _ = tokio::time::timeout(LOOK, news.changed()).await;
        if revisit(&generations, &mut epochs) {
            unfit.clear();
        }
        unfit.retain(|_, since| since.elapsed() < UNFIT);
        if let Some((canary, _)) = generations.canary()
            && canary.deployment.stages.iter().any(|stage| !stage.node.is_up())
            // It is being promoted or aborted otherwise.
            && let Some(_change) = generations.try_change()
            && generations.canary().is_some_and(|(now, _)| Arc::ptr_eq(&now, &canary))
        {
            tracing::warn!(generation = canary.number(), "a node of the generation on trial is lost");
            generations.abort(Before::IsLost);
        }
        let Some(active) = generations.active() else { continue };
        let plan = plan(&generations, &active, replan_after, &unfit);
        let trouble = match &plan {
            Plan::Stuck(reason) => Trouble::Stuck(reason.clone()),
            Plan::Whole | Plan::Move(..) => Trouble::None,
        };
        generations.trouble.send_if_modified(|before| {
            let changed = *before != trouble;
            if changed && let Trouble::Stuck(reason) = &trouble {
                tracing::error!(reason, "requests are refused");
            }
            *before = trouble;
            changed
        });
        if let Plan::Move(nodes, before) = plan
            && let Err(error) = mend(&generations, &active, &nodes, before).await
        {
            tracing::warn!(error = format!("{error:#}"), "cannot move stages; trying on");
            let failed = error.downcast_ref::<PartFailed>().map(|part| part.node.as_str());
            for (stage, node) in active.deployment.stages.iter().zip(&nodes) {
                if !Arc::ptr_eq(&stage.node, node) && failed == Some(node.url().as_str()) {
                    unfit.insert((stage.index, node.url().to_string()), Instant::now());
                }
            }
            tokio::time::sleep(BREATH).await;
        }
    }
}

/// Has nodes that came back drop what nobody needs any more. Whether any node has come, gone, or started anew.
fn revisit(generations: &Arc<Generations>, epochs: &mut HashMap<String, (Option<u64>, bool)>) -> bool {
    let mut changed = false;
    for member in generations.fleet.members() {
        let now = (member.epoch(), member.is_up());
        let before = epochs.insert(member.url().to_string(), now);
        changed |= before != Some(now);
        if before.is_some_and(|(_, was_up)| !was_up) && now.1 {
            let (generations, member) = (Arc::clone(generations), Arc::clone(member));
            tokio::spawn(async move {
                let (pipeline, incarnation) = {
                    let Some(active) = generations.active() else { return };
                    (active.deployment.pipeline.name.clone(), generations.setup.owner.incarnation)
                };
                let keep = |generation| generations.knows(generation);
                deploy::sweep(&member.client, &pipeline, Some(incarnation), Duration::ZERO, keep).await;
            });
        }
    }
    changed
}

fn plan(generations: &Generations, active: &Running, replan_after: Duration, unfit: &Unfit) -> Plan {
    let stages = &active.deployment.stages;
    let lost: Vec<usize> = stages.iter().filter(|stage| !stage.node.is_up()).map(|stage| stage.index).collect();
    let mut nodes: Vec<Arc<Member>> = stages.iter().map(|stage| Arc::clone(&stage.node)).collect();
    let fits = |index: usize, node: &Arc<Member>| !unfit.contains_key(&(index, node.url().to_string()));
    let idle = |nodes: &[Arc<Member>], index: usize| {
        let free = |node: &&Arc<Member>| !nodes.iter().any(|used| Arc::ptr_eq(used, node)) && fits(index, node);
        generations.fleet.up().find(free).cloned()
    };
    if lost.is_empty() {
        // Stages that had to share a node spread out again.
        let shared = |index: usize| (0..index).any(|other| Arc::ptr_eq(&nodes[other], &nodes[index]));
        let crowded = (1..nodes.len()).find(|&index| shared(index));
        return match crowded.and_then(|index| Some((index, idle(&nodes, index)?))) {
            Some((index, node)) if active.age() > SETTLED => {
                nodes[index] = node;
                Plan::Move(nodes, Before::Finishes)
            }
            _ => Plan::Whole,
        };
    }
    for &index in &lost {
        let stage = &stages[index];
        let Some(Down { since, cause, certainty }) = stage.node.down() else { continue };
        if let Some(node) = idle(&nodes, index) {
            nodes[index] = node;
            continue;
        }
        // The node may come back before long; moving in with another stage is the last resort.
        let load = |node: &Arc<Member>| nodes.iter().filter(|used| Arc::ptr_eq(used, node)).count();
        let room = generations.fleet.up().filter(|node| fits(index, node)).min_by_key(|node| load(node)).cloned();
        match room {
            Some(node) if since.elapsed() > replan_after => nodes[index] = node,
            // It may only be slow, and nothing is gained by thinking otherwise.
            _ if certainty == Certainty::Late && since.elapsed() < DOUBT => return Plan::Whole,
            room => {
                let name = stage.node.name();
                let hope = match room {
                    Some(_) => "it moves to another one if that lasts",
                    None => "no other node has room for it; the dispatcher keeps trying",
                };
                let pipeline = &active.deployment.pipeline.name;
                return Plan::Stuck(format!(
                    "stage {index} of pipeline \"{pipeline}\": its node \"{name}\" does not answer ({cause}); {hope}"
                ));
            }
        }
    }
    Plan::Move(nodes, Before::IsLost)
}

async fn mend(
    generations: &Arc<Generations>,
    active: &Arc<Running>,
    nodes: &[Arc<Member>],
    before: Before,
) -> Result<()> {
    let _change = match before {
        Before::IsLost => generations.change_now().await,
        Before::Finishes => match generations.try_change() {
            Some(change) if generations.canary().is_none() => change,
            _ => return Ok(()),
        },
    };
    if generations.active().is_none_or(|now| !Arc::ptr_eq(&now, active)) {
        // The change that was made meanwhile is another state of things.
        return Ok(());
    }
    for (stage, node) in active.deployment.stages.iter().zip(nodes) {
        if !Arc::ptr_eq(&stage.node, node) {
            tracing::warn!(stage = stage.index, from = stage.node.name(), to = node.name(), "moving a stage");
        }
    }
    let progress: Arc<dyn Progress> = Arc::new(());
    let prepare = generations.prepare(&active.deployment.pipeline, nodes, &progress);
    let (next, tentative) = tokio::select! {
        prepared = prepare => prepared?,
        lost = any_lost(nodes) => bail!("node \"{lost}\" was lost meanwhile"),
    };
    generations.commit(&next, Some(tentative), before).context("cannot go over to the moved stages")?;
    Ok(())
}

/// The name of one of `nodes`, once it does not answer.
async fn any_lost(nodes: &[Arc<Member>]) -> String {
    loop {
        if let Some(lost) = nodes.iter().find(|node| !node.is_up()) {
            return lost.name();
        }
        tokio::time::sleep(LOOK / 4).await;
    }
}

/// Sends the stages of the active generation to nodes that run none, so that they have them when they are needed.
pub async fn provision(generations: Arc<Generations>) {
    /// Between two rounds.
    const PAUSE: Duration = Duration::from_secs(1);
    let mut done: HashSet<(String, Option<u64>, String)> = HashSet::new();
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(active) = generations.active() else { continue };
        let stages = &active.deployment.stages;
        let idle = |node: &&Arc<Member>| !stages.iter().any(|stage| Arc::ptr_eq(&stage.node, node));
        let spares: Vec<Arc<Member>> = generations.fleet.up().filter(idle).cloned().collect();
        for spare in &spares {
            for stage in stages {
                let digest = stage.assignment.artifact;
                // One that has no room is not asked again and again.
                if spare.is_up() && done.insert((spare.url().to_string(), spare.epoch(), digest.to_string())) {
                    provide(&generations, spare, stage).await;
                }
            }
        }
    }
}

async fn provide(generations: &Generations, spare: &Member, stage: &Placed) {
    let (node, index) = (spare.name(), stage.index);
    match generations.place.artifacts.ship(&spare.client, &stage.assignment.artifact, |_, _| {}).await {
        Ok(()) => tracing::debug!(node, stage = index, "the spare has the stage"),
        Err(error) => {
            tracing::warn!(node, stage = index, error = format!("{error:#}"), "the spare cannot have the stage now");
        }
    }
}
