//! What the `build-stages` command takes.

use super::profile::LOSSLESS;
use super::{BuildError, calibrate};
use crate::accuracy::Budget;
use crate::engine::Choice;
use crate::relay::Codec;
use clap::Args;
use defer_partition::cluster::Cluster;
use defer_partition::command::{Goal, Sharing};
use defer_partition::dims::parse_dim;
use defer_partition::plan::{self, Objective, Replicas};
use std::path::{Path, PathBuf};

/// Cuts a network into stages: writes DIR/pipeline.json and DIR/stage-<i>.wasm
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  defer-host build-stages --model resnet50 --stages 8
      a network of the catalogue, cut where the slowest stage is fastest
  defer-host build-stages --model net.onnx --stages 3 --out dist/net --dim width=320
      a file, profiled with inputs of that width; stages take any width
  defer-host build-stages --model resnet50 --cut add_3_relu,add_7_relu
      three stages, cut after these tensors
  defer-host build-stages --model resnet50 --cluster cluster.toml
      as many stages as are best for these machines, each for one or several; dispatch --cluster puts them there
  defer-host build-stages --model ocr-rec --stages 4 --allow-lossy top1-agreement=0.999
      hops may also use lossy codecs, those with which hardly a character is read otherwise")]
pub struct BuildArgs {
    /// Path of an .onnx file, or a name of the catalogue
    #[arg(long, value_name = "MODEL")]
    pub model: String,

    /// Number of stages; cuts go where the slowest stage is fastest. With --cluster, at most so many
    #[arg(long, value_name = "N")]
    pub stages: Option<usize>,

    /// Machines to cut for (cluster.toml, see defer-host cluster): their speeds, memory and links decide on cuts, codecs, and
    /// which stage goes where. Speeds are relative to this machine
    #[arg(long, value_name = "FILE", conflicts_with = "cuts")]
    pub cluster: Option<PathBuf>,

    /// Codecs that the hops of a plan for --cluster may use [default: whichever lossless ones are worth it, and with
    /// --allow-lossy lossy ones]
    #[arg(long = "codec", value_name = "C,…", value_delimiter = ',', requires = "cluster", value_parser = str::parse::<Codec>)]
    pub codecs: Vec<Codec>,

    /// What a plan for --cluster is to be good at
    #[arg(long, value_name = "WHAT", default_value = "throughput", requires = "cluster")]
    pub objective: Goal,

    /// Whether a plan for --cluster may have a stage on several nodes, up to whole copies of the network
    #[arg(long, value_name = "WHETHER", default_value = "auto", requires = "cluster")]
    pub replicas: Sharing,

    /// Folder to write; dist/<model> by default
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Cuts after these tensors, in the network's order, instead of planning
    #[arg(long = "cut", value_name = "T1,T2,…", value_delimiter = ',')]
    pub cuts: Vec<String>,

    /// Size to profile an open dimension with; stages take any size there. May be repeated
    #[arg(long = "dim", value_name = "NAME=SIZE", value_parser = parse_dim)]
    pub dims: Vec<(String, usize)>,

    /// How far answers may be from the uncut network's so that hops may use lossy codecs: max-relative-error=X, the largest
    /// difference over each output tensor's largest magnitude, or top1-agreement=Y, the least share of positions (along the
    /// last dimension of outputs) whose largest element is the same. Calibrated on the catalogue's samples, else on random
    /// inputs, such that larger errors would do (see margin in pipeline.json); without, hops are lossless
    #[arg(long, value_name = "BUDGET")]
    pub allow_lossy: Option<Budget>,

    /// Threads that the engine profiles with
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,

    /// Inference engine to profile with: onnxruntime, tract, or auto: onnxruntime where its library loads, else tract
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub engine: Choice,

    /// onnxruntime's shared library, if not where setup puts it
    #[arg(long, value_name = "FILE")]
    pub ort_lib: Option<PathBuf>,

    /// Also says what each plan came to when its stages were timed
    #[arg(long)]
    pub verbose: bool,

    /// Prints one JSON document instead of a table
    #[arg(long)]
    pub json: bool,
}

/// What to build.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// Path of an `.onnx` file, or a name of the catalogue.
    pub model: String,
    /// Number of stages; may be left out where there are `cuts`.
    pub stages: Option<usize>,
    /// Folder to write; `dist/<model>` by default.
    pub out: Option<PathBuf>,
    /// Tensors to cut after, in the network's order; none to let the planner choose.
    pub cuts: Vec<String>,
    /// Sizes of open dimensions while profiling.
    pub dims: Vec<(String, usize)>,
    /// Threads of the engine; 0 counts as 1.
    pub threads: usize,
    /// What lossy codecs may do to the answers; none are allowed without.
    pub allow_lossy: Option<Budget>,
    /// Machines to cut for.
    pub cluster: Option<Cluster>,
    /// What a plan for them is to be good at.
    pub objective: Objective,
    /// Codecs that it may use; none to leave that open.
    pub codecs: Vec<Codec>,
    /// Whether it may have a stage on several nodes.
    pub replicas: Replicas,
}

impl TryFrom<&BuildArgs> for BuildOptions {
    type Error = BuildError;

    fn try_from(args: &BuildArgs) -> Result<Self, BuildError> {
        let BuildArgs { model, stages, out, cuts, dims, threads, allow_lossy, codecs, .. } = args.clone();
        if let (Some(lossy), None) = (codecs.iter().find(|codec| codec.is_lossy()), allow_lossy) {
            return Err(BuildError::Lossy { codec: lossy.to_string() });
        }
        let cluster = args.cluster.as_deref().map(Cluster::read).transpose()?;
        let (objective, replicas) = (args.objective.into(), args.replicas.into());
        Ok(Self { model, stages, out, cuts, dims, threads, allow_lossy, cluster, objective, codecs, replicas })
    }
}

/// How many stages there will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Exactly(usize),
    /// As many as are best, up to a number where one was given.
    UpTo(Option<usize>),
}

impl Count {
    /// The fewest that there may be.
    pub fn least(self) -> usize {
        match self {
            Self::Exactly(stages) => stages,
            Self::UpTo(limit) => limit.unwrap_or(1).min(1),
        }
    }

    /// The most that there may be on `cluster`.
    pub fn about(self, cluster: &Cluster) -> usize {
        match self {
            Self::Exactly(stages) => stages,
            Self::UpTo(limit) => limit.unwrap_or(usize::MAX).min(cluster.nodes.len()).max(1),
        }
    }
}

impl BuildOptions {
    /// The folder of the network `name`.
    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.out.clone().unwrap_or_else(|| Path::new("dist").join(name))
    }

    /// How many stages there will be.
    pub(super) fn count(&self) -> Result<Count, BuildError> {
        let made = self.cuts.len() + 1;
        match self.stages {
            limit if self.cluster.is_some() => Ok(Count::UpTo(limit)),
            None if self.cuts.is_empty() => Err(BuildError::NoStages),
            Some(stages) if !self.cuts.is_empty() && stages != made => {
                Err(BuildError::Contradiction { cuts: self.cuts.len(), made, stages })
            }
            Some(stages) => Ok(Count::Exactly(stages)),
            None => Ok(Count::Exactly(made)),
        }
    }

    /// What is asked of a planner for clusters.
    pub(super) fn wish(&self) -> plan::Options {
        let codecs = self.codecs.iter().map(ToString::to_string).collect();
        plan::Options {
            objective: self.objective,
            max_stages: self.stages,
            replicas: self.replicas,
            codecs: (!self.codecs.is_empty()).then_some(codecs),
            ..plan::Options::default()
        }
    }

    /// Codecs to measure: those that a plan may choose from, raw first.
    pub(super) fn measured(&self) -> Vec<Codec> {
        match (&self.cluster, self.allow_lossy) {
            (None, _) => vec![Codec::Raw],
            (Some(_), _) if !self.codecs.is_empty() => {
                let named = self.codecs.iter().copied().filter(|codec| *codec != Codec::Raw);
                std::iter::once(Codec::Raw).chain(named).collect()
            }
            (Some(_), None) => LOSSLESS.to_vec(),
            (Some(_), Some(_)) => LOSSLESS.into_iter().chain(calibrate::ladder()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        build: BuildArgs,
    }

    fn options(flags: &[&str]) -> BuildOptions {
        let args = ["build-stages", "--model", "m"].iter().chain(flags);
        BuildOptions::try_from(&Command::try_parse_from(args).unwrap().build).unwrap()
    }

    #[test]
    fn stages_come_from_a_number_or_from_cuts_that_agree_with_it() {
        for (flags, want) in [
            (&["--stages", "4"][..], Ok(4)),
            (&["--cut", "a,b"], Ok(3)),
            (&["--cut", "a", "--cut", "b", "--stages", "3"], Ok(3)),
            (&["--cut", "a", "--stages", "3"], Err("name 2 tensors")),
            (&[], Err("--stages N")),
        ] {
            let got = options(flags).count();
            match (got, want) {
                (Ok(got), Ok(want)) => assert_eq!(got, Count::Exactly(want), "{flags:?}"),
                (Err(error), Err(want)) => {
                    assert!(error.is_usage() && error.to_string().contains(want), "{flags:?}: {error}");
                }
                (got, _) => panic!("{flags:?}: {got:?}"),
            }
        }
    }

    #[test]
    fn dimensions_are_named_sizes() {
        assert_eq!(options(&["--dim", "W=320", "--dim", "x.1=7"]).dims, [("W".into(), 320), ("x.1".into(), 7)]);
        assert!(Command::try_parse_from(["b", "--model", "m", "--dim", "W=0"]).is_err());
        assert!(Command::try_parse_from(["b", "--model", "m", "--engine", "abacus"]).is_err());
    }

    #[test]
    fn a_budget_is_one_of_two_kinds() {
        let parse = |budget| Command::try_parse_from(["b", "--model", "m", "--allow-lossy", budget]);
        let budget = parse("max-relative-error=0.01").ok().and_then(|command| command.build.allow_lossy);
        assert_eq!(budget, Some(Budget::MaxRelativeError(0.01)));
        for (budget, cure) in [
            ("0.01", "max-relative-error=X"),
            ("psnr=30", "top1-agreement=Y"),
            ("top1-agreement=2", "at most 1"),
            ("max-relative-error=0", "above 0"),
        ] {
            let error = parse(budget).err().expect("it is refused");
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(cure), "{budget}: {error}");
        }
    }
}
