//! When nodes are lost: their stages move to spare nodes, or onto those that are left, as another generation; what was
//! pending starts again there.

use super::deploy::{Deployment, Progress};
use super::failure::PartFailed;
use super::fleet::{Certainty, Down, Member};
use super::generations::{Before, Generations, Trouble};
use super::placement::{Homes, has};
use super::running::Running;
use super::upkeep;
use anyhow::{Context as _, Result, bail};
use std::collections::HashMap;
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
/// How long a node that could not take a stage is left alone with it; twice as long each further time, up to so many times.
const UNFIT: Duration = Duration::from_secs(10);
const DOUBLINGS: u32 = 6;

/// Nodes that could not take a stage, or keep it.
#[derive(Default)]
struct Unfit(HashMap<(usize, String), (Instant, u32)>);

impl Unfit {
    fn has(&self, index: usize, node: &Member) -> bool {
        let found = self.0.get(&(index, node.url().to_string()));
        found.is_some_and(|(since, times)| since.elapsed() < UNFIT * 2u32.pow(times.min(&DOUBLINGS) - 1))
    }

    fn add(&mut self, index: usize, node: &Member) {
        let (since, times) = self.0.entry((index, node.url().to_string())).or_insert((Instant::now(), 0));
        *since = Instant::now();
        *times += 1;
    }
}

/// What to do about the nodes.
enum Plan {
    /// Every stage has a node that answers.
    Whole,
    /// The stages to run on these nodes.
    Move(Homes, Before),
    /// Stage `index` has no node, and there is none to give it.
    Stuck(String),
}

/// Mends for ever.
pub async fn serve(generations: Arc<Generations>, replan_after: Duration) {
    let mut news = generations.fleet.news();
    let mut unfit = Unfit::default();
    let mut epochs: HashMap<String, (Option<u64>, bool)> = HashMap::new();
    loop {
        let _ = tokio::time::timeout(LOOK, news.changed()).await;
        if revisit(&generations, &mut epochs) {
            unfit.0.clear();
        }
        if let Some((canary, _)) = generations.canary()
            && canary.deployment.homes_up().iter().any(Vec::is_empty)
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
        if let Plan::Move(homes, before) = plan
            && let Err(error) = mend(&generations, &active, &homes, before).await
        {
            tracing::warn!(error = format!("{error:#}"), "cannot move stages; trying on");
            let failed = error.downcast_ref::<PartFailed>().map(|part| part.node.as_str());
            for (index, node) in
                homes.iter().enumerate().flat_map(|(index, home)| home.iter().map(move |node| (index, node)))
            {
                if failed == Some(node.url().as_str()) {
                    unfit.add(index, node);
                }
            }
            tokio::time::sleep(BREATH).await;
        }
    }
}

/// Tells generations of nodes that are lost, and has those that came back drop what nobody needs any more. Whether any node
/// has come, gone, or started anew.
fn revisit(generations: &Arc<Generations>, epochs: &mut HashMap<String, (Option<u64>, bool)>) -> bool {
    let mut changed = false;
    for member in generations.fleet.members() {
        let now = (member.epoch(), member.is_up());
        let before = epochs.insert(member.url().to_string(), now);
        changed |= before != Some(now);
        match (before, now.1) {
            (Some((_, true)), false) => generations.all().iter().for_each(|(_, running)| running.lost(member)),
            (Some((_, false)), true) => {
                let (generations, member) = (Arc::clone(generations), Arc::clone(member));
                tokio::spawn(async move { upkeep::sweep_one(&generations, &member, Duration::ZERO).await });
            }
            _ => {}
        }
    }
    changed
}

fn plan(generations: &Generations, active: &Running, replan_after: Duration, unfit: &Unfit) -> Plan {
    let deployment = &active.deployment;
    let fits = |index: usize, node: &Arc<Member>| !unfit.has(index, node);
    let mut homes = deployment.homes_up();
    for (index, home) in homes.iter_mut().enumerate() {
        // A replica that cannot go into another generation must not keep the others out of it.
        if home.iter().any(|node| fits(index, node)) {
            home.retain(|node| fits(index, node));
        }
    }
    let idle = |homes: &Homes, index: usize| {
        let free = |node: &&Arc<Member>| !has(homes, node) && fits(index, node);
        generations.fleet.up().find(free).cloned()
    };
    let lost: Vec<usize> = (0..homes.len()).filter(|&index| homes[index].is_empty()).collect();
    if lost.is_empty() {
        if active.age() <= SETTLED {
            return Plan::Whole;
        }
        let wanted = generations.setup.wanted(&deployment.pipeline);
        return match spread_out(deployment, &wanted, &mut homes, idle) {
            true => Plan::Move(homes, Before::Finishes),
            false => Plan::Whole,
        };
    }
    for &index in &lost {
        let Some(lost) = Loss::of(deployment, index) else { continue };
        if let Some(node) = idle(&homes, index) {
            homes[index].push(node);
            continue;
        }
        // One of several nodes of another stage can be spared.
        let several = |home: &&mut Vec<Arc<Member>>| home.len() > 1 && home.iter().any(|node| fits(index, node));
        let is_sure = lost.certainty == Certainty::Certain || lost.since.elapsed() > DOUBT;
        if let Some(home) = homes.iter_mut().filter(several).max_by_key(|home| home.len())
            && let Some(at) = home.iter().rposition(|node| fits(index, node))
            && is_sure
        {
            let node = home.remove(at);
            homes[index].push(node);
            continue;
        }
        // The node may come back before long; moving in with another stage is the last resort.
        let load = |node: &Arc<Member>| homes.iter().flatten().filter(|used| Arc::ptr_eq(used, node)).count();
        let room = generations.fleet.up().filter(|node| fits(index, node)).min_by_key(|node| load(node)).cloned();
        match room {
            Some(node) if lost.since.elapsed() > replan_after => homes[index].push(node),
            // It may only be slow, and nothing is gained by thinking otherwise.
            _ if lost.certainty == Certainty::Late && lost.since.elapsed() < DOUBT => return Plan::Whole,
            room => {
                let hope = match room {
                    Some(_) => "it moves to another one if that lasts",
                    None => "no other node has room for it; the dispatcher keeps trying",
                };
                let (name, what) = (&deployment.pipeline.name, &lost.what);
                return Plan::Stuck(format!("stage {index} of pipeline \"{name}\": {what}; {hope}"));
            }
        }
    }
    Plan::Move(homes, Before::IsLost)
}

/// Gives idle nodes to stages that share theirs with another one, and to those that have fewer than they are to have: `true`
/// if there was one to give.
fn spread_out(
    deployment: &Deployment,
    wanted: &[usize],
    homes: &mut Homes,
    idle: impl Fn(&Homes, usize) -> Option<Arc<Member>>,
) -> bool {
    let crowded = (1..homes.len()).find(|&index| homes[index].iter().any(|node| has(&homes[..index], node)));
    if let Some(index) = crowded {
        let Some(node) = idle(homes, index) else { return false };
        homes[index] = vec![node];
        return true;
    }
    let mut is_any = false;
    for (index, &wanted) in wanted.iter().enumerate() {
        // One that is away for a moment has its place when it comes back.
        let away = deployment.nodes_of(index).filter_map(|node| node.down());
        let away = away.filter(|down| down.since.elapsed() <= SETTLED).count();
        while homes[index].len() + away < wanted
            && let Some(node) = idle(homes, index)
        {
            homes[index].push(node);
            is_any = true;
        }
    }
    is_any
}

/// How a stage lost all of its nodes.
struct Loss {
    /// When the last one was.
    since: Instant,
    certainty: Certainty,
    what: String,
}

impl Loss {
    /// `None` if one has come back.
    fn of(deployment: &Deployment, index: usize) -> Option<Self> {
        let down: Option<Vec<(String, Down)>> =
            deployment.nodes_of(index).map(|node| Some((node.name(), node.down()?))).collect();
        let down = down?;
        let is_certain = down.iter().all(|(_, down)| down.certainty == Certainty::Certain);
        let what = |(name, down): &(String, Down)| format!("its node \"{name}\" does not answer ({})", down.cause);
        Some(Self {
            since: down.iter().map(|(_, down)| down.since).max()?,
            certainty: if is_certain { Certainty::Certain } else { Certainty::Late },
            what: down.iter().map(what).collect::<Vec<_>>().join(", "),
        })
    }
}

/// The stages that have nodes in `homes` which they had not `before`, and those.
fn moved<'a>(before: &'a Homes, homes: &'a Homes) -> impl Iterator<Item = (usize, &'a Arc<Member>)> {
    let pairs = before.iter().zip(homes).enumerate();
    pairs.flat_map(|(index, (before, home))| {
        let is_new = |node: &&Arc<Member>| !before.iter().any(|old| Arc::ptr_eq(old, node));
        home.iter().filter(is_new).map(move |node| (index, node))
    })
}

async fn mend(generations: &Arc<Generations>, active: &Arc<Running>, homes: &Homes, before: Before) -> Result<()> {
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
    for (stage, node) in moved(&active.deployment.homes(), homes) {
        let from: Vec<String> = active.deployment.nodes_of(stage).map(|node| node.name()).collect();
        tracing::warn!(stage, from = from.join(", "), to = node.name(), "moving a stage");
    }
    let progress: Arc<dyn Progress> = Arc::new(());
    let prepare = generations.prepare(&active.deployment.pipeline, homes, &progress);
    let (next, tentative) = tokio::select! {
        prepared = prepare => prepared?,
        lost = any_lost(homes) => bail!("node \"{lost}\" was lost meanwhile"),
    };
    generations.commit(&next, Some(tentative), before).context("cannot go over to the moved stages")?;
    Ok(())
}

/// The name of a node in `homes`, once one does not answer.
async fn any_lost(homes: &Homes) -> String {
    loop {
        if let Some(lost) = homes.iter().flatten().find(|node| !node.is_up()) {
            return lost.name();
        }
        tokio::time::sleep(LOOK / 4).await;
    }
}
