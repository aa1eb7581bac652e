//! When nodes are lost: their stages move to spare nodes, or onto those that are left, as another generation; what was
//! pending starts again there.

use super::ailing::{APART, Judge, Sick};
use super::deploy::Deployment;
use super::fleet::{Certainty, Down, Member};
use super::generations::{Before, Generations, Trouble};
use super::placement::{Homes, has};
use super::rollout;
use super::running::Running;
use super::unfit::Unfit;
use super::upkeep;
use anyhow::{Context as _, Result};
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
/// How long a generation that nothing is urgent about is looked at before it is used: its links are dialed meanwhile.
const TRIAL: Duration = Duration::from_millis(600);
/// After one that was not used for what was seen then, nothing is changed that is not urgent.
const QUIET: Duration = Duration::from_secs(15);

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
    let (mut unfit, mut judge) = (Unfit::default(), Judge::default());
    let mut quiet_until = None;
    let mut epochs: HashMap<String, (Option<u64>, bool)> = HashMap::new();
    loop {
        let _ = tokio::time::timeout(LOOK, news.changed()).await;
        if revisit(&generations, &mut epochs) {
            unfit.clear();
        }
        if let Some((canary, _)) = generations.canary()
            && has_lost_one(&canary.deployment, &judge.sick(&canary.deployment, canary.age(), APART))
            // It is being promoted or aborted otherwise.
            && let Some(_change) = generations.try_change()
            && generations.canary().is_some_and(|(now, _)| Arc::ptr_eq(&now, &canary))
        {
            tracing::warn!(generation = canary.number(), "a stage of the generation on trial is lost");
            generations.abort(Before::IsLost);
        }
        let Some(active) = generations.active() else {
            rollout::bring_back(&generations, &mut unfit).await;
            continue;
        };
        let sick = judge.sick(&active.deployment, active.age(), APART);
        let plan = plan(&generations, &active, replan_after, &unfit, &Found { judge: &judge, sick: &sick });
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
        let Plan::Move(homes, before) = plan else { continue };
        if before == Before::Finishes && quiet_until.is_some_and(|until| Instant::now() < until) {
            continue;
        }
        match mend(&generations, &active, (&homes, before), &Found { judge: &judge, sick: &sick }).await {
            Ok(Moved::Nothing) => {}
            Ok(Moved::Apart(apart)) => {
                quiet_until = Some(Instant::now() + QUIET);
                apart.iter().for_each(|sick| unfit.add(sick.index, &sick.node));
                judge.moved(&active.deployment, &apart);
            }
            Ok(Moved::All) => {
                sick.iter().for_each(|sick| unfit.add(sick.index, &sick.node));
                judge.moved(&active.deployment, &sick);
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "cannot move stages; trying on");
                unfit.add_failed(&homes, &error);
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

/// Stage by stage, the nodes that can do its work.
fn homes_well(deployment: &Deployment, sick: &[Sick]) -> Homes {
    let mut homes = deployment.homes_up();
    for (index, home) in homes.iter_mut().enumerate() {
        home.retain(|node| !sick.iter().any(|sick| sick.is(index, node)));
    }
    homes
}

fn has_lost_one(deployment: &Deployment, sick: &[Sick]) -> bool {
    homes_well(deployment, sick).iter().any(Vec::is_empty)
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

/// What ails stages of the active generation.
struct Found<'a> {
    judge: &'a Judge,
    sick: &'a [Sick],
}

fn plan(
    generations: &Generations,
    active: &Running,
    replan_after: Duration,
    unfit: &Unfit,
    Found { judge, sick }: &Found<'_>,
) -> Plan {
    let deployment = &active.deployment;
    let is_sick = |index: usize, node: &Arc<Member>| sick.iter().any(|sick| sick.is(index, node));
    let fits = |index: usize, node: &Arc<Member>| !unfit.has(index, node) && !is_sick(index, node);
    let mut homes = homes_well(deployment, sick);
    for (index, home) in homes.iter_mut().enumerate() {
        // A replica that cannot go into another generation must not keep the others out of it.
        if home.iter().any(|node| fits(index, node)) {
            home.retain(|node| fits(index, node));
        }
    }
    let free = |homes: &Homes, index: usize| -> Vec<Arc<Member>> {
        let free = |node: &&Arc<Member>| !has(homes, node) && fits(index, node);
        generations.fleet.up().filter(free).cloned().collect()
    };
    // Where nothing is lost there is no need to try links that were missing before.
    let idle = |homes: &Homes, index: usize| match judge.is_barred(deployment, index, sick) {
        true => None,
        false => free(homes, index).into_iter().find(|node| !judge.has_missed(homes, index, node)),
    };
    let suspect = |node: &Arc<Member>| sick.iter().any(|sick| Arc::ptr_eq(&sick.node, node));
    let lost: Vec<usize> = (0..homes.len()).filter(|&index| homes[index].is_empty()).collect();
    if lost.is_empty() {
        let wanted = generations.setup.wanted(&deployment.pipeline);
        if !sick.is_empty() {
            spread_out(deployment, &wanted, &mut homes, idle);
            // One that is not reached gets no requests. Any other draws them as long as it is there, and answers none.
            let draws = sick.iter().any(|sick| !sick.is_unreached());
            return Plan::Move(homes, if draws { Before::IsLost } else { Before::Finishes });
        }
        if active.age() <= SETTLED {
            return Plan::Whole;
        }
        return match spread_out(deployment, &wanted, &mut homes, idle) {
            true => Plan::Move(homes, Before::Finishes),
            false => Plan::Whole,
        };
    }
    for &index in &lost {
        let Some(lost) = Loss::of(deployment, index, sick) else { continue };
        if let Some(reason) = judge.spent(deployment, index, sick) {
            return Plan::Stuck(reason);
        }
        let spares = free(&homes, index);
        let other = spares.iter().find(|node| !suspect(node) && !judge.has_missed(&homes, index, node));
        if let Some(node) = other.or_else(|| spares.first()) {
            homes[index].push(Arc::clone(node));
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
    fn of(deployment: &Deployment, index: usize, sick: &[Sick]) -> Option<Self> {
        let of_one = |node: &Arc<Member>| {
            if let Some(Sick { since, cause, .. }) = sick.iter().find(|sick| sick.is(index, node)) {
                return Some(Self { since: *since, certainty: Certainty::Certain, what: cause.clone() });
            }
            let Down { since, cause, certainty } = node.down()?;
            let what = format!("its node \"{}\" does not answer ({cause})", node.name());
            Some(Self { since, certainty, what })
        };
        let all: Vec<Self> = deployment.nodes_of(index).map(of_one).collect::<Option<_>>()?;
        let is_certain = all.iter().all(|loss| loss.certainty == Certainty::Certain);
        Some(Self {
            since: all.iter().map(|loss| loss.since).max()?,
            certainty: if is_certain { Certainty::Certain } else { Certainty::Late },
            what: all.into_iter().map(|loss| loss.what).collect::<Vec<_>>().join(", "),
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

/// What came of an attempt.
enum Moved {
    All,
    /// Something else is being changed, or was.
    Nothing,
    /// Nodes that are to work together do not reach each other.
    Apart(Vec<Sick>),
}

async fn mend(
    generations: &Arc<Generations>,
    active: &Arc<Running>,
    (homes, before): (&Homes, Before),
    Found { judge, sick }: &Found<'_>,
) -> Result<Moved> {
    let _change = match before {
        Before::IsLost => generations.change_now().await,
        Before::Finishes => match generations.try_change() {
            Some(change) if generations.canary().is_none() => change,
            _ => return Ok(Moved::Nothing),
        },
    };
    if generations.active().is_none_or(|now| !Arc::ptr_eq(&now, active)) {
        // The change that was made meanwhile is another state of things.
        return Ok(Moved::Nothing);
    }
    for Sick { index, node, cause, .. } in *sick {
        tracing::warn!(stage = index, node = node.name(), cause, "the stage has to leave its node");
    }
    for (stage, node) in moved(&active.deployment.homes(), homes) {
        let from: Vec<String> = active.deployment.nodes_of(stage).map(|node| node.name()).collect();
        tracing::warn!(stage, from = from.join(", "), to = node.name(), "moving a stage");
    }
    let (next, tentative) = generations.prepare_on_living(&active.deployment.pipeline, homes).await?;
    if before == Before::Finishes {
        tokio::time::sleep(TRIAL).await;
        let apart = judge.sick(&next.deployment, next.age(), Duration::ZERO);
        if let Some(Sick { cause, .. }) = apart.first() {
            tracing::warn!(cause, "a stage stays where it is");
            return Ok(Moved::Apart(apart));
        }
    }
    generations.commit(&next, Some(tentative), before).context("cannot go over to the moved stages")?;
    Ok(Moved::All)
}
