//! All methods in the same trials of one setting.

use super::field::{self, Question, Size, Trial};
use super::{MEGA, PUBLISHED, PUBLISHED_RESNET50, Row, rivals};
use anyhow::{Context as _, Result};
use defer_host::build::Activations;
use defer_partition::plan::{Options, place};
use defer_partition::profile::Profile;
use defer_partition::testing::Random;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What has been asked about a network.
pub struct Model<'a> {
    name: &'a str,
    sizes: &'a Activations,
    trials: u32,
    budget: Duration,
    workers: usize,
    answers: HashMap<Question, Vec<Answer>>,
}

/// What came of a trial.
enum Answer {
    /// Memory is too small.
    Impossible,
    /// One node is enough.
    Whole,
    Cut(Found),
}

/// Bottlenecks in ms, with the number of stages.
struct Found {
    bound: f64,
    planner: (f64, usize),
    least: f64,
    optimal: bool,
    planning_ms: f64,
    greedy: Option<(f64, usize)>,
    min_sum: Option<(f64, usize)>,
    by_chance: Option<(f64, usize)>,
}

/// Sums over trials.
#[derive(Default)]
struct Sums {
    count: u32,
    ratio: f64,
    worst: f64,
    bottleneck_ms: f64,
    stages: f64,
}

impl Sums {
    fn add(&mut self, (bottleneck_ms, stages): (f64, usize), bound: f64) {
        self.count += 1;
        self.ratio += bottleneck_ms / bound;
        self.worst = self.worst.max(bottleneck_ms / bound);
        self.bottleneck_ms += bottleneck_ms;
        self.stages += stages as f64;
    }

    fn row(&self, method: &'static str, scale: f64) -> Row {
        let of = f64::from(self.count.max(1));
        let any = self.count > 0;
        Row {
            part: "placement",
            method,
            found: self.count,
            ratio_mean: any.then_some(self.ratio / of),
            ratio_max: any.then_some(self.worst),
            bottleneck_s: scale * self.bottleneck_ms / of / 1e3,
            stages: self.stages / of,
            ..Row::default()
        }
    }
}

impl<'a> Model<'a> {
    pub fn new(name: &'a str, sizes: &'a Activations, trials: u32, budget: Duration, workers: usize) -> Self {
        Self { name, sizes, trials, budget, workers, answers: HashMap::new() }
    }

    /// A row per method; the planner's alone where nothing is cut.
    pub fn compare(&mut self, size: Size, memory_mb: u64, nodes: usize) -> Result<Vec<Row>> {
        let (question, scale) = Question::of(self.sizes, size, memory_mb * MEGA, nodes);
        let repeated = self.answers.contains_key(&question);
        if !repeated {
            let answers = self.ask(question)?;
            self.answers.insert(question, answers);
        }
        let answers = &self.answers[&question];
        let possible = answers.iter().filter(|answer| !matches!(answer, Answer::Impossible)).count();
        let found =
            || answers.iter().filter_map(|answer| if let Answer::Cut(found) = answer { Some(found) } else { None });
        let cut = found().count() as u32;
        if !repeated {
            eprintln!("{} {}, {memory_mb} MB, {nodes} nodes: {possible} possible, {cut} cut", self.name, size.name());
        }
        let row = |method, of: fn(&Found) -> Option<(f64, usize)>| {
            let mut sums = Sums::default();
            found().for_each(|found| of(found).into_iter().for_each(|one| sums.add(one, found.bound)));
            sums.row(method, scale)
        };
        let mut rows = vec![row("planner", |found| Some(found.planner))];
        if cut > 0 {
            let mean = |of: fn(&Found) -> f64| Some(found().map(of).sum::<f64>() / f64::from(cut));
            rows[0].least_ratio_mean = mean(|found| found.least / found.bound);
            rows[0].optimal_share = mean(|found| f64::from(u8::from(found.optimal)));
            rows[0].planning_ms = mean(|found| found.planning_ms);
            rows.push(row("greedy", |found| found.greedy));
            rows.push(row("min-sum path", |found| found.min_sum));
            rows.push(row("random", |found| found.by_chance));
        }
        for row in &mut rows {
            row.model = self.name.to_owned();
            row.size = size.name();
            row.atoms = self.sizes.atoms.len();
            (row.nodes, row.memory_mb, row.trials) = (nodes, memory_mb, self.trials);
            (row.cut_trials, row.repeated) = (cut, repeated);
        }
        if self.name == "resnet50" && size != Size::AsIs && memory_mb == 64 {
            rows[0].published_ratio = Some(PUBLISHED_RESNET50);
            let published = PUBLISHED.iter().find(|(published, _)| *published == nodes);
            rows[0].published_bottleneck_s = published.map(|(_, seconds)| *seconds);
        }
        Ok(rows)
    }

    /// All trials, in order, whoever has worked on them.
    fn ask(&self, question: Question) -> Result<Vec<Answer>> {
        let profile = &field::profile(self.name, self.sizes, question);
        let next = &AtomicU32::new(0);
        let work = || {
            let mine =
                std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)).filter(|trial| *trial < self.trials));
            let answer = |trial| -> Result<(u32, Answer)> { Ok((trial, self.answer(profile, question, trial)?)) };
            mine.map(answer).collect::<Result<Vec<_>>>()
        };
        let shares: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.workers).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let mut all = Vec::new();
        for share in shares {
            all.extend(share?);
        }
        all.sort_by_key(|(trial, _)| *trial);
        Ok(all.into_iter().map(|(_, answer)| answer).collect())
    }

    fn answer(&self, profile: &Profile, question: Question, trial: u32) -> Result<Answer> {
        // The same places for each network and memory.
        let mut random = Random::new((question.nodes as u64) << 32 | u64::from(trial));
        let cluster = field::cluster(question, &mut random);
        let trial = Trial::new(profile, &cluster).context("the random links are links")?;
        let Some(bound) = trial.bound() else { return Ok(Answer::Impossible) };
        if bound == 0.0 {
            return Ok(Answer::Whole);
        }
        let started = Instant::now();
        let options = Options { budget: self.budget, deadline: Some(self.budget), ..Options::default() };
        let plan = place(profile, &cluster, &options)?;
        Ok(Answer::Cut(Found {
            bound,
            planning_ms: started.elapsed().as_secs_f64() * 1e3,
            planner: (plan.bottleneck_ms, plan.stages.len()),
            least: plan.lower_bound_ms.max(bound),
            optimal: plan.optimal || plan.bottleneck_ms <= bound * (1.0 + 1e-9),
            greedy: rivals::greedy(&trial),
            min_sum: rivals::min_sum(&trial),
            by_chance: rivals::random(&trial, &mut random),
        }))
    }
}
