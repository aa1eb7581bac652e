//! From what the user named to a prepared network.

use super::{BuildError, BuildOptions, Phase, Progress};
use crate::artifact::Digest;
use crate::buffer::Pool;
use crate::engine::{Engine, EngineError, Model, Options};
use defer_models::Entry;
use defer_partition::{Network, fold, onnx};
use prost::Message as _;
use std::fs::File;
use std::path::PathBuf;

/// A network that is ready to be cut.
pub(super) struct Prepared {
    /// Of the pipeline.
    pub name: String,
    /// The model file, and its SHA-256.
    pub file: PathBuf,
    pub digest: Digest,
    pub entry: Option<&'static Entry>,
    pub network: Network,
}

/// Finds, reads and folds the model.
pub(super) fn prepare(
    options: &BuildOptions,
    engine: &dyn Engine,
    session: Options,
    progress: &dyn Progress,
) -> Result<Prepared, BuildError> {
    progress.phase(Phase::Reading, 0);
    let model = defer_models::resolve(&options.model)?;
    check_name(&model.name)?;
    let file = model.path(&mut |line| progress.note(line))?;
    let digest =
        File::open(&file).and_then(Digest::of).map_err(|cause| BuildError::Read { path: file.clone(), cause })?;
    let proto = onnx::read(&file).map_err(|cause| BuildError::Onnx { path: file.clone(), cause })?;
    let mut network = Network::new(proto).map_err(|cause| BuildError::Graph { path: file.clone(), cause })?;

    progress.phase(Phase::Folding, 0);
    fold::fold(&mut network);
    if let Err(error) = fold_constants(&mut network, engine, session) {
        // Loading the whole network names what the engine lacks; if it lacks nothing there, constants stay computed.
        progress.note(&format!("constants are not folded: {error}"));
    }
    Ok(Prepared { name: model.name.clone(), file, digest, entry: model.entry(), network })
}

/// Computes on the engine what depends on constants only.
pub fn fold_constants(network: &mut Network, engine: &dyn Engine, options: Options) -> Result<usize, EngineError> {
    fold::fold_constants(network, &mut |model| {
        let bytes = model.encode_to_vec();
        engine.load(Model { bytes: &bytes, weights_folder: None }, options)?.run(&[], &Pool::new(0))
    })
}

/// The name becomes a folder, and a part of URLs.
fn check_name(name: &str) -> Result<(), BuildError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match !name.is_empty() && !name.starts_with('.') && name.chars().all(fits) {
        true => Ok(()),
        false => Err(BuildError::Name { name: name.to_owned() }),
    }
}
