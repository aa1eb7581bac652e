//! The `plan` command: its flags, and what it prints. `defer-plan` and `defer-host plan` are both this.

mod svg;
mod table;

pub use table::text as report;

use crate::cluster::{Cluster, ClusterError};
use crate::plan::{NoPlan, Objective, Options, Placement, Replicas, place_noting};
use crate::profile::{Profile, ProfileError};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Plans a chain: which parts of a network run together, on which nodes, and which codec each hop uses
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  … plan --profile profile.json --cluster cluster.toml
  … plan --profile profile.json --cluster cluster.toml --objective latency --max-stages 3
  … plan --profile profile.json --cluster cluster.toml --replicas off --svg plan.svg
  … plan --profile profile.json --cluster cluster.toml --json > plan.json

A stage on a node takes (decode + compute + encode) / speed, a hop its bytes × 8 / bandwidth; the longest of them, requests
and answers on the dispatcher's link among them, is the bottleneck. A cluster file without [dispatcher] says that its
link costs nothing.

Plans without replicas for up to 8 unequal nodes, and any plan for equal ones, are proved the best. Beyond that the best
that is found within --budget-s is printed, with a bound that no plan is below.

Exit codes: 0 success, 2 wrong usage, profile or cluster file, 1 no plan is possible.")]
pub struct PlanArgs {
    /// What the network costs (profile.json)
    #[arg(long, value_name = "FILE")]
    pub profile: PathBuf,

    /// The machines (cluster.toml)
    #[arg(long, value_name = "FILE")]
    pub cluster: PathBuf,

    /// One JSON document on stdout, all else on stderr
    #[arg(long)]
    pub json: bool,

    /// What the plan is to be good at
    #[arg(long, value_name = "WHAT", default_value = "throughput")]
    pub objective: Goal,

    /// Most stages
    #[arg(long, value_name = "N")]
    pub max_stages: Option<usize>,

    /// Whether a stage may run on several nodes, up to whole copies of the network
    #[arg(long, value_name = "WHETHER", default_value = "auto")]
    pub replicas: Sharing,

    /// Codecs that hops may use, of those in the profile [default: all]
    #[arg(long = "codec", value_name = "C1,C2,…", value_delimiter = ',')]
    pub codecs: Vec<String>,

    /// Seconds to look for a plan where not all can be looked at
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    pub budget_s: Duration,

    /// The same seed gives the same plan, unless the clock ends the search (it says so then)
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Draws where the time goes, and the alternatives
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// Tells on stderr how the plan was found
    #[arg(long)]
    pub verbose: bool,
}

/// `--objective`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Goal {
    /// Most inferences per second
    Throughput,
    /// Least time for one inference
    Latency,
}

/// `--replicas`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sharing {
    /// One node per stage
    Off,
    /// As many as is best
    Auto,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum PlanCommandError {
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("{0}{hint}", hint = splitting(.0))]
    NoPlan(NoPlan),
    #[error("cannot write {path}: {cause}", path = path.display())]
    Write { path: PathBuf, cause: std::io::Error },
}

// Not as its source: what it says is said already.
impl From<NoPlan> for PlanCommandError {
    fn from(error: NoPlan) -> Self {
        Self::NoPlan(error)
    }
}

impl PlanCommandError {
    /// Whether it is for exit status 2: wrong usage or configuration.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Profile(_) | Self::Cluster(_) => true,
            Self::NoPlan(error) => error.is_usage(),
            Self::Write { .. } => false,
        }
    }
}

/// What this command cannot do about a layer that is too large, and another one can.
fn splitting(error: &NoPlan) -> &'static str {
    match error {
        NoPlan::Memory { part_too_large: true, .. } => {
            "; or cut with build-stages --cluster, which splits a matrix product or convolution that no node has room for"
        }
        _ => "",
    }
}

impl From<Goal> for Objective {
    fn from(goal: Goal) -> Self {
        match goal {
            Goal::Throughput => Self::Throughput,
            Goal::Latency => Self::Latency,
        }
    }
}

impl From<Sharing> for Replicas {
    fn from(sharing: Sharing) -> Self {
        match sharing {
            Sharing::Off => Self::Off,
            Sharing::Auto => Self::Auto,
        }
    }
}

impl PlanArgs {
    fn options(&self) -> Options {
        Options {
            objective: self.objective.into(),
            max_stages: self.max_stages,
            replicas: self.replicas.into(),
            budget: self.budget_s,
            deadline: Some(self.budget_s),
            seed: self.seed,
            codecs: (!self.codecs.is_empty()).then(|| self.codecs.clone()),
        }
    }
}

/// Plans, draws if asked to, and gives what belongs on stdout. `note` gets what `--verbose` shows, line by line.
pub fn run(args: &PlanArgs, note: &dyn Fn(&str)) -> Result<String, PlanCommandError> {
    let profile = Profile::read(&args.profile)?;
    let cluster = Cluster::read(&args.cluster)?;
    let silent = |_: &str| {};
    let note = if args.verbose { note } else { &silent };
    let plan = place_noting(&profile, &cluster, &args.options(), note)?;
    if let Some(path) = &args.svg {
        let drawing = svg::draw(&profile.model, &plan);
        std::fs::write(path, drawing).map_err(|cause| PlanCommandError::Write { path: path.clone(), cause })?;
    }
    Ok(match args.json {
        true => json(&plan),
        false => report(&profile.model, &cluster, &plan),
    })
}

fn json(plan: &Placement) -> String {
    // No map has keys that are not strings, and nothing else fails.
    serde_json::to_string_pretty(plan).expect("a plan is plain data") + "\n"
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "give a number of seconds".to_owned())?;
    match seconds > 0.0 {
        true => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        false => Err("give a number above 0".to_owned()),
    }
}
