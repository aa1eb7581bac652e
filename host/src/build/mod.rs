//! From a model file to stages on disk: read, fold, learn what crosses cuts, time, plan, slice, pack.
//!
//! Everything that is measured is measured on the engine that will run the stages, with the network's own activations.

mod activations;
mod args;
mod bars;
mod batch;
mod calibrate;
mod dependent;
mod diagnose;
mod error;
mod inputs;
mod measured;
mod pack;
mod prepare;
mod profile;
mod progress;
mod report;
mod room;
mod scratch;
mod shapes;
mod write;

pub use activations::{Activations, activations};
pub use args::{BuildArgs, BuildOptions};
pub use bars::{Bars, Details};
pub use calibrate::{Found, HopAccuracy};
pub use error::BuildError;
pub use inputs::random as random_inputs;
pub use measured::{ProfileArgs, run as run_profile};
pub use prepare::fold_constants;
pub use profile::QUANTILE as PROFILE_QUANTILE;
pub use progress::{Phase, Progress};

use crate::accuracy::Budget;
use crate::engine::{self, Engine, Model, Named, Options, Session};
use crate::pipeline::{Calibration, Pipeline};
use anyhow::Context;
use defer_partition::cluster::Cluster;
use defer_partition::cut::crossings;
use defer_partition::plan::{Placement, PlanError};
use defer_partition::{Atoms, Network, Partition};
use prepare::Prepared;
use profile::Profiler;
use room::Fitting;
use scratch::{Bench, Scratch};
use shapes::Trace;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The guest component, the same for every stage.
pub const GUEST: &[u8] = include_bytes!(env!("STAGE_GUEST_WASM"));

/// A pipeline on disk.
#[derive(Clone, Debug)]
pub struct Built {
    /// Folder that holds it.
    pub folder: PathBuf,
    pub pipeline: Pipeline,
    /// Time of the uncut network.
    pub whole_ms: f64,
    /// Fusion groups of each stage.
    pub groups: Vec<usize>,
    /// Bytes that left each stage when the network was profiled.
    pub leaving_bytes: Vec<u64>,
    /// What lossy codecs do to the answers, where a budget allows some.
    pub lossy: Option<Found>,
    /// The plan, and the cluster that it is for, where it was cut for one.
    pub placed: Option<(Placement, Cluster)>,
}

/// Does what the `build-stages` command was asked: progress on stderr, a table or one JSON document on stdout.
///
/// # Errors
/// [`UsageError`] where [`BuildError::is_usage`], for exit status 2; anything else for exit status 1.
pub fn run(args: BuildArgs) -> anyhow::Result<()> {
    let bars = Bars::new(if args.verbose { Details::Shown } else { Details::Hidden });
    let build = || {
        let engine = engine::open(args.engine, args.ort_lib.clone())?;
        build(&BuildOptions::try_from(&args)?, engine.as_ref(), &bars)
    };
    let built = build().map_err(BuildError::for_a_command)?;
    bars.clear();
    let text = if args.json { built.json() } else { built.table() };
    crate::stdout::write(&text).context("cannot write the report")
}

/// The uncut network, as it is in its file, nothing folded: what the chain of stages is compared with.
pub fn load_whole(path: &Path, engine: &dyn Engine, options: Options) -> Result<Box<dyn Session>, BuildError> {
    let bytes = std::fs::read(path).map_err(|cause| BuildError::Read { path: path.to_owned(), cause })?;
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    Ok(engine.load(Model { bytes: &bytes, weights_folder: Some(folder) }, options)?)
}

/// Inputs to calibrate with, and where they are from.
type Requests = (Calibration, Vec<Vec<Named>>);

/// A network that was looked at: read, folded, and run to learn what crosses its cuts.
struct Study {
    prepared: Prepared,
    atoms: Atoms,
    /// Cuts that the user asked for, after groups.
    cuts: Option<Vec<usize>>,
    /// What lossy codecs may do to answers, where they may, and the inputs to find out with.
    calibration: Option<(Budget, Requests)>,
    session: Options,
    scratch: Scratch,
    trace: Trace,
}

impl Study {
    /// Looks at a network that shall be cut into `stages`; `folder` is where to work.
    fn new(
        options: &BuildOptions,
        stages: usize,
        engine: &dyn Engine,
        folder: impl FnOnce(&Prepared) -> PathBuf,
        progress: &dyn Progress,
    ) -> Result<Self, BuildError> {
        let session = Options::new(options.threads.max(1));
        let mut prepared = prepare::prepare(options, engine, session, progress)?;
        let network = &prepared.network;
        let mut atoms = Atoms::new(network);
        let mut cuts = None;
        if !options.cuts.is_empty() {
            let (split, partition, warnings) = Partition::at_tensors(network, &atoms, &options.cuts)?;
            warnings.iter().for_each(|warning| progress.warning(&warning.to_string()));
            atoms = split;
            cuts = Some(ends(&partition));
        }
        match atoms.atoms.len() {
            _ if stages == 0 => return Err(PlanError::NoStages.into()),
            groups if stages > groups => return Err(PlanError::TooManyStages { stages, atoms: groups }.into()),
            _ => {}
        }
        let request = inputs::real(network.inputs(), prepared.entry, &options.dims)?;
        let calibration = match options.allow_lossy {
            Some(budget) => {
                Some((budget, inputs::calibration(network.inputs(), prepared.entry, &options.dims, &request)?))
            }
            None => None,
        };
        let scratch = Scratch::new(&folder(&prepared))?;
        let bench = Bench { engine, options: session, scratch: &scratch };
        let trace = |network: &Network, atoms: &Atoms| {
            let crossing: BTreeSet<&str> = crossings(network, atoms).into_iter().flatten().collect();
            shapes::trace(&bench, network, &crossing, request.clone(), progress)
        };
        let mut seen = trace(network, &atoms)?;
        if let Some(cuts) = &cuts {
            check_cuts(network, &atoms, &seen, cuts, &options.cuts)?;
        }
        if let Some(cluster) = &options.cluster {
            let fitting = Fitting { cluster, wish: options.wish() };
            let look = &mut |network: &Network| {
                let atoms = Atoms::new(network);
                trace(network, &atoms).map(|trace| (atoms, trace))
            };
            if let Some(split) = fitting.split(&mut prepared.network, (&atoms, &seen), look, progress)? {
                (atoms, seen) = split;
            }
        }
        Ok(Self { prepared, atoms, cuts, calibration, session, scratch, trace: seen })
    }
}

/// So many times a plan is made anew because calibration has forbidden a lossy codec that it uses.
const LOSSY_PLANS: usize = 6;

/// Cuts a network into stages and writes them; the folder's earlier pipeline is replaced once all are written.
pub fn build(options: &BuildOptions, engine: &dyn Engine, progress: &dyn Progress) -> Result<Built, BuildError> {
    let stages = options.count()?;
    let folder = |prepared: &Prepared| options.folder(&prepared.name);
    let Study { prepared, atoms, cuts, calibration, session, scratch, mut trace } =
        Study::new(options, stages.least(), engine, folder, progress)?;
    let (network, folder) = (&prepared.network, folder(&prepared));
    let bench = Bench { engine, options: session, scratch: &scratch };
    let mut profiler = Profiler::new(&bench, network, &atoms, &mut trace, &options.measured(), progress)?;
    let mut wish = options.wish();
    let mut cuts = cuts;
    let mut round = 0;
    let (figures, placement, partition, pipeline, lossy) = loop {
        round += 1;
        let (figures, placement) = match (&options.cluster, stages) {
            (Some(cluster), _) => {
                if round == 1 {
                    profiler.survey(stages.about(cluster))?;
                }
                profiler.place(cluster, &wish).map(|(figures, placement)| (figures, Some(placement)))?
            }
            (None, stages) => (profiler.figures(stages.least(), cuts.take())?, None),
        };
        let partition = Partition::new(network, &atoms, &figures.cuts)?;
        let trace = profiler.trace();
        let mut pipeline = pack::pack(&prepared, &partition, trace, &figures, placement.as_ref(), &scratch, progress)?;
        let lossy = match &calibration {
            Some((budget, requests)) => {
                let found = calibrate::calibrate(*budget, &bench, &prepared, &pipeline, requests.clone(), progress)?;
                found.record(&mut pipeline);
                Some(found)
            }
            None => None,
        };
        let keeps = |profiler: &mut Profiler<'_, '_>| match (&placement, &lossy) {
            (Some(placement), Some(found)) => {
                let hops = placement.stages.iter().zip(&found.hops);
                // Every hop is to be heard of, not only up to the first that breaks the budget.
                hops.fold(true, |all, (stage, hop)| profiler.allow(stage, &hop.harmless) && all)
            }
            _ => true,
        };
        if keeps(&mut profiler) {
            break (figures, placement, partition, pipeline, lossy);
        }
        progress.detail("the plan uses lossy codecs that break the budget; planning without them");
        if round == LOSSY_PLANS {
            // The lossless ones alone; raw, where only lossy ones were named.
            let lossless: Vec<String> =
                options.measured().iter().filter(|codec| !codec.is_lossy()).map(ToString::to_string).collect();
            wish.codecs = Some(lossless);
        }
    };
    drop(profiler);
    write::publish(&scratch, &folder, &pipeline)?;
    let bytes = |name: &&str| trace.tensors.get(*name).map_or(0, |tensor| tensor.data.len() as u64);
    Ok(Built {
        folder,
        pipeline,
        whole_ms: figures.whole_ms,
        groups: partition.stages.iter().map(|stage| stage.atoms.len()).collect(),
        leaving_bytes: partition.stages.iter().map(|stage| stage.leaving().iter().map(bytes).sum()).collect(),
        lossy,
        placed: placement.zip(options.cluster.clone()),
    })
}

/// The last fusion group of each stage but the last.
fn ends(partition: &Partition) -> Vec<usize> {
    let (_, stages) = partition.stages.split_last().expect("a partition has a stage");
    stages.iter().map(|stage| stage.atoms.end - 1).collect()
}

/// Refuses a cut that something crosses which cannot be carried.
fn check_cuts(
    network: &Network,
    atoms: &Atoms,
    trace: &Trace,
    cuts: &[usize],
    tensors: &[String],
) -> Result<(), BuildError> {
    let obstacles = profile::obstacles(network, atoms, trace);
    for (&cut, tensor) in cuts.iter().zip(tensors) {
        if let Some(crossing) = obstacles[cut] {
            let cause = trace.stuck.get(crossing).cloned().unwrap_or_default();
            return Err(BuildError::Stuck { tensor: tensor.clone(), crossing: crossing.to_owned(), cause });
        }
    }
    Ok(())
}
