//! What crosses cuts: the whole network runs with every such tensor as an output, in several shapes.

use super::batch::Batch;
use super::inputs::{open_dims, random, resized};
use super::scratch::Bench;
use super::{BuildError, Phase, Progress, dependent, diagnose};
use crate::buffer::Pool;
use crate::engine::{EngineError, Named, Session};
use crate::relay::frame::MAX_RANK;
use defer_partition::{Network, Tensor, TensorInfo, slice};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What one real run, and more in other shapes, have shown.
pub(super) struct Trace {
    /// Every tensor that may cross a cut, network inputs and outputs among them, as the real run had it.
    pub tensors: HashMap<String, Tensor>,
    /// What is known of each: -1 where a dimension may change.
    pub infos: HashMap<String, TensorInfo>,
    /// Tensors that no frame can carry (strings, sequences, too many dimensions), and why.
    pub stuck: BTreeMap<String, String>,
    /// Whose first dimension is the batch.
    pub batch: Batch,
}

/// Sizes to try for an open dimension, in this order: some networks want multiples of something, some at least so much.
const SIZES: [fn(usize) -> usize; 5] = [|d| d * 2, |d| d + 32, |d| d + 8, |d| d + 1, |d| d * 4];

/// Runs `network` on `request`, with the tensors `crossing` as further outputs, then again in other shapes and with
/// other values.
pub(super) fn trace(
    bench: &Bench<'_>,
    network: &Network,
    crossing: &BTreeSet<&str>,
    request: Vec<Named>,
    progress: &dyn Progress,
) -> Result<Trace, BuildError> {
    let inputs = network.inputs();
    let dims = open_dims(inputs);
    progress.phase(Phase::Shapes, dims.len() + 2);
    let (mut session, results, mut stuck) = first_run(bench, network, crossing, &request)?;
    progress.step();

    let info = |(name, tensor): &Named| {
        let shape = tensor.shape.iter().map(|&dim| dim as i64).collect();
        (name.clone(), TensorInfo { name: name.clone(), dtype: tensor.dtype, shape })
    };
    let mut infos: HashMap<String, TensorInfo> = results.iter().map(info).collect();
    let mut batch = Batch::new(&results);
    let mut refused = false;
    for name in &dims {
        let mut tries = SIZES.iter().filter_map(|size| random(inputs, &resized(inputs, &request, name, size), 1));
        match tries.find_map(|other| run(session.as_mut(), &other).ok().map(|seen| (other, seen))) {
            Some((other, seen)) => {
                compare(&mut infos, &mut stuck, &seen);
                batch.observe(inputs, Some(name), (&request, &other), &seen);
            }
            None => {
                refused = true;
                progress.note(&format!(
                    "the network takes no other size of dimension \"{name}\"; shapes inside it are checked by rank only"
                ));
                infos.values_mut().for_each(open);
            }
        }
        progress.step();
    }
    // The same shapes and other values; values that the network refuses show nothing.
    if let Some(Ok(other)) = random(inputs, &resized(inputs, &request, "", |d| d), 2).map(|r| run(session.as_mut(), &r))
    {
        compare(&mut infos, &mut stuck, &other);
        batch.observe(inputs, None, (&request, &request), &other);
    }
    for name in dependent::shapes(network) {
        infos.get_mut(name).into_iter().for_each(open);
        batch.exclude(name);
    }
    if refused {
        batch.forget();
    }
    progress.step();
    let too_deep = |shape: &[i64]| {
        let cause = format!("it has {} dimensions, and a frame carries at most {MAX_RANK}", shape.len());
        (shape.len() > MAX_RANK).then_some(cause)
    };
    for input in inputs.iter().map(|input| input.info()) {
        if let Some(cause) = too_deep(&input.shape) {
            return Err(BuildError::Input { input: input.name, cause });
        }
    }
    stuck.extend(infos.iter().filter_map(|(name, info)| Some((name.clone(), too_deep(&info.shape)?))));
    if let Some((output, cause)) = stuck.iter().find(|(name, _)| network.outputs().contains(name)) {
        return Err(BuildError::Output { output: output.clone(), cause: cause.clone() });
    }

    infos.extend(inputs.iter().map(|input| (input.name.clone(), input.info())));
    let tensors = results.into_iter().chain(request).collect();
    Ok(Trace { tensors, infos, stuck, batch })
}

fn open(info: &mut TensorInfo) {
    info.shape.fill(-1);
}

/// Opens the dimensions in which `results` differ from what is known. A tensor whose rank differs is stuck.
fn compare(infos: &mut HashMap<String, TensorInfo>, stuck: &mut BTreeMap<String, String>, results: &[Named]) {
    for (name, tensor) in results {
        let Some(info) = infos.get_mut(name) else { continue };
        let (one, other) = (info.shape.len(), tensor.shape.len());
        if one != other {
            let cause = format!("it has {one} dimensions for some inputs and {other} for others");
            stuck.insert(name.clone(), cause);
            continue;
        }
        for (known, &seen) in info.shape.iter_mut().zip(&tensor.shape) {
            if *known != seen as i64 {
                *known = -1;
            }
        }
    }
}

type FirstRun = (Box<dyn Session>, Vec<Named>, BTreeMap<String, String>);

/// Loads the network with all of `crossing` as outputs that an engine can give, and runs it.
fn first_run(
    bench: &Bench<'_>,
    network: &Network,
    crossing: &BTreeSet<&str>,
    request: &[Named],
) -> Result<FirstRun, BuildError> {
    let all: Vec<&str> = crossing.iter().copied().collect();
    if let Ok((session, results)) = attempt(bench, network, &all, request)? {
        return Ok((session, results, BTreeMap::new()));
    }
    // Is it the network, or is it one of the tensors that were made outputs?
    match attempt(bench, network, &[], request)? {
        Ok(_) => {}
        Err(error @ EngineError::Load { .. }) => return Err(diagnose::refused(bench, network, error)),
        Err(EngineError::Run { cause, .. }) => {
            let shown = request.iter().map(|(name, tensor)| format!("\"{name}\" {}{:?}", tensor.dtype, tensor.shape));
            return Err(BuildError::Profile { inputs: shown.collect::<Vec<_>>().join(", "), cause });
        }
        Err(error) => return Err(error.into()),
    }
    let mut stuck = BTreeMap::new();
    find_stuck(bench, network, &all, request, &mut stuck)?;
    let rest: Vec<&str> = all.into_iter().filter(|name| !stuck.contains_key(*name)).collect();
    let (session, results) = attempt(bench, network, &rest, request)??;
    Ok((session, results, stuck))
}

/// Halves `names`, which may hold tensors that the engine cannot give as outputs, until each such tensor is alone.
fn find_stuck(
    bench: &Bench<'_>,
    network: &Network,
    names: &[&str],
    request: &[Named],
    stuck: &mut BTreeMap<String, String>,
) -> Result<(), BuildError> {
    let Err(EngineError::Run { cause, .. } | EngineError::Load { cause, .. }) =
        attempt(bench, network, names, request)?
    else {
        return Ok(());
    };
    match names {
        [] => Ok(()),
        [one] => {
            stuck.insert((*one).to_owned(), cause);
            Ok(())
        }
        _ => {
            let (first, second) = names.split_at(names.len() / 2);
            find_stuck(bench, network, first, request, stuck)?;
            find_stuck(bench, network, second, request, stuck)
        }
    }
}

type Attempt = Result<(Box<dyn Session>, Vec<Named>), EngineError>;

fn attempt(bench: &Bench<'_>, network: &Network, extra: &[&str], request: &[Named]) -> Result<Attempt, BuildError> {
    let loaded = bench.load(&slice::whole(network, extra))?;
    Ok(loaded.and_then(|mut session| {
        let results = run(session.as_mut(), request)?;
        Ok((session, results))
    }))
}

fn run(session: &mut dyn Session, request: &[Named]) -> Result<Vec<Named>, EngineError> {
    session.run(request, &Pool::new(0))
}
