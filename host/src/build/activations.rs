//! What crosses a network's cuts, without times: for planners that look at links and memory alone.

use super::scratch::{Bench, Scratch};
use super::{BuildError, BuildOptions, inputs, prepare, profile, shapes};
use crate::engine::{Engine, Options};
use defer_partition::Atoms;
use defer_partition::cut::crossings;
use std::collections::BTreeSet;
use std::path::Path;

/// Sizes of a network's parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activations {
    /// Name and bytes of the weights of each fusion group.
    pub atoms: Vec<(String, u64)>,
    /// Groups after which a cut may come, with bytes and elements of what crosses it.
    pub cuts: Vec<(usize, u64, u64)>,
}

/// Runs `model` on sample inputs, and says how large everything is. Works in a folder inside `scratch`.
pub fn activations(model: &str, engine: &dyn Engine, scratch: &Path) -> Result<Activations, BuildError> {
    let options = BuildOptions { model: model.to_owned(), ..BuildOptions::default() };
    let session = Options::new(1);
    let prepared = prepare::prepare(&options, engine, session, &())?;
    let network = &prepared.network;
    let atoms = Atoms::new(network);
    let request = inputs::real(network.inputs(), prepared.entry, &options.dims)?;
    let scratch = Scratch::new(scratch)?;
    let bench = Bench { engine, options: session, scratch: &scratch };
    let crossing = crossings(network, &atoms);
    let all: BTreeSet<&str> = crossing.iter().flatten().copied().collect();
    let trace = shapes::trace(&bench, network, &all, request, &())?;
    let obstacles = profile::obstacles(network, &atoms, &trace);
    let cut = |(after, names): (usize, &Vec<&str>)| {
        let tensors = || names.iter().filter_map(|name| trace.tensors.get(*name));
        let bytes = tensors().map(|tensor| tensor.data.len() as u64).sum();
        let elements = tensors().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum();
        obstacles[after].is_none().then_some((after, bytes, elements))
    };
    let cuts = crossing.iter().enumerate().filter_map(cut).collect();
    Ok(Activations { atoms: atoms.atoms.into_iter().map(|atom| (atom.name, atom.weights_bytes)).collect(), cuts })
}
