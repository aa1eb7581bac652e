//! What a soak came to: the account of all requests, recovery after each fault, throughput around each swap.

use super::book::Counts;
use super::deeds::Done;
use super::schedule::{Event, Planned};
use crate::bench::machine::Machine;
use crate::table::{Side, table};
use anyhow::{Context as _, Result};
use plotters::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// The plot of a swap: so many columns of this width each, the swap in the middle.
const COLUMN: Duration = Duration::from_millis(200);
const COLUMNS: u32 = 20;
/// What steady throughput is measured in, before a swap.
const STEADY: Duration = Duration::from_millis(2000);
const SECOND: Duration = Duration::from_secs(1);
/// A fault's effect is looked for until so long after its end.
const AFTERMATH: Duration = Duration::from_secs(3);

#[derive(Debug, Serialize)]
pub struct Swap {
    pub at_s: f64,
    pub steady_rps: f64,
    /// In the second around the moment in which it was done, over steady state.
    pub throughput_ratio: f64,
    #[serde(skip)]
    columns: Vec<f64>,
}

#[derive(Debug, Serialize)]
pub struct Fault {
    pub at_s: f64,
    pub what: String,
    /// The longest time without a right answer from the last one before it on.
    pub recovery_ms: f64,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub bench: &'static str,
    pub machine: Machine,
    pub seed: u64,
    pub minutes: f64,
    pub answered: u64,
    pub refused: u64,
    /// By status, or how else.
    pub refused_by: BTreeMap<String, u64>,
    pub wrong: u64,
    pub duplicate: u64,
    pub mixed: u64,
    pub lost: u64,
    /// Requests whose clients did not wait.
    pub left: u64,
    pub faults: usize,
    pub longest_gap_ms: f64,
    /// Changes of what runs that were made, of whatever kind.
    pub changes: usize,
    /// Stage swaps that were made.
    pub swaps: usize,
    /// Of those with nothing else around.
    pub worst_swap_throughput_ratio: Option<f64>,
    pub recoveries: Vec<Fault>,
    pub swap_ratios: Vec<Swap>,
    pub findings: Vec<String>,
}

impl Report {
    pub fn new(seed: u64, length: Duration, done: &[Done], mut counts: Counts) -> Self {
        counts.answers.sort_unstable();
        let answers = &counts.answers;
        let gap = |from: Duration, to: Duration| {
            let begin = answers.partition_point(|at| *at < from).saturating_sub(1);
            let end = answers.partition_point(|at| *at < to).saturating_add(1).min(answers.len());
            let gaps = answers.get(begin..end).unwrap_or_default().windows(2).map(|pair| pair[1] - pair[0]);
            gaps.max().unwrap_or_default().as_secs_f64() * 1e3
        };
        let faults: Vec<&Done> = done.iter().filter(|done| done.event.is_fault()).collect();
        let skipped = |done: &&&Done| !done.outcome.starts_with("skipped");
        let recoveries = faults.iter().filter(skipped).map(|done| Fault {
            at_s: done.from.as_secs_f64(),
            what: done.event.to_string(),
            recovery_ms: gap(done.from, done.to + AFTERMATH),
        });
        let recoveries: Vec<Fault> = recoveries.collect();
        let swaps: Vec<&Done> = done.iter().filter(|done| done.event == Event::Swap && done.changed).collect();
        let rate = |from: Duration, to: Duration| {
            let count = answers.partition_point(|at| *at < to) - answers.partition_point(|at| *at < from);
            count as f64 / (to - from).as_secs_f64()
        };
        let swap_ratios: Vec<Swap> = swaps
            .iter()
            .map(|done| {
                let steady_rps = rate(done.from.saturating_sub(STEADY), done.from);
                let around = rate(done.to.saturating_sub(SECOND / 2), done.to + SECOND / 2);
                let start = done.to.saturating_sub(COLUMN * (COLUMNS / 2));
                let column = |i: u32| rate(start + COLUMN * i, start + COLUMN * (i + 1));
                Swap {
                    at_s: done.to.as_secs_f64(),
                    steady_rps,
                    throughput_ratio: around / steady_rps.max(1e-9),
                    columns: (0..COLUMNS).map(column).collect(),
                }
            })
            .collect();
        let worst = swap_ratios.iter().map(|swap| swap.throughput_ratio).min_by(f64::total_cmp);
        Self {
            bench: "soak",
            machine: Machine::this(),
            seed,
            minutes: length.as_secs_f64() / 60.0,
            answered: counts.answered,
            refused: counts.refused.values().sum(),
            refused_by: counts.refused,
            wrong: counts.wrong,
            duplicate: counts.duplicate,
            mixed: counts.mixed,
            lost: counts.lost,
            left: counts.left,
            faults: recoveries.len(),
            longest_gap_ms: gap(Duration::ZERO, Duration::MAX),
            changes: done.iter().filter(|done| done.changed).count(),
            swaps: swaps.len(),
            worst_swap_throughput_ratio: worst,
            recoveries,
            swap_ratios,
            findings: counts.findings,
        }
    }

    /// Whether anything was found that must not be.
    pub fn is_clean(&self) -> bool {
        self.wrong + self.duplicate + self.mixed + self.lost == 0 && self.findings.is_empty()
    }

    pub fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.machine);
        let by: Vec<String> = self.refused_by.iter().map(|(why, count)| format!("{count} {why}")).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:.1} minutes, seed {}: {} faults, {} changes of what runs ({} stage swaps)",
            self.minutes, self.seed, self.faults, self.changes, self.swaps
        );
        let _ = writeln!(
            text,
            "requests: {} answered right, {} refused ({}), {} wrong, {} duplicate, {} mixed, {} lost; {} clients left",
            self.answered,
            self.refused,
            by.join(", "),
            self.wrong,
            self.duplicate,
            self.mixed,
            self.lost,
            self.left
        );
        let _ = writeln!(text, "longest time without a right answer: {:.0} ms\n", self.longest_gap_ms);
        let header = [("at s", Side::Right), ("fault", Side::Left), ("recovery ms", Side::Right)];
        let cells =
            |fault: &Fault| [format!("{:.1}", fault.at_s), fault.what.clone(), format!("{:.0}", fault.recovery_ms)];
        text += &table(header, &self.recoveries.iter().map(cells).collect::<Vec<_>>());
        let _ = writeln!(text, "\nthroughput from 2 s before each swap to 2 s after it");
        for swap in &self.swap_ratios {
            let most = swap.columns.iter().copied().fold(1.0, f64::max);
            let bar = |rate: &f64| [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][(rate / most * 8.0).round() as usize];
            let (before, after) = swap.columns.split_at(swap.columns.len() / 2);
            let _ = writeln!(
                text,
                "{:7.1} s  {}|{}  {:.0} per second before, × {:.2} in the second around",
                swap.at_s,
                before.iter().map(bar).collect::<String>(),
                after.iter().map(bar).collect::<String>(),
                swap.steady_rps,
                swap.throughput_ratio
            );
        }
        for finding in &self.findings {
            let _ = writeln!(text, "FOUND {finding}");
        }
        text
    }
}

/// Right answers per second over time, with faults and swaps.
pub fn plot(file: &Path, report: &Report, answers: &[Duration]) -> Result<()> {
    let length = report.minutes * 60.0;
    let mut rates = vec![0.0; length.ceil() as usize + 1];
    for at in answers {
        if let Some(rate) = rates.get_mut(at.as_secs() as usize) {
            *rate += 1.0;
        }
    }
    let most = rates.iter().copied().fold(1.0, f64::max) * 1.1;
    let root = SVGBackend::new(file, (1100, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("right answers per second, seed {}", report.seed), ("sans-serif", 19))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..length, 0.0..most)?;
    chart.configure_mesh().x_desc("s; red: faults, blue: swaps").y_desc("per second").max_light_lines(0).draw()?;
    let line = |at: f64, colour: RGBColor| PathElement::new([(at, 0.0), (at, most)], colour.mix(0.4));
    chart.draw_series(report.recoveries.iter().map(|fault| line(fault.at_s, RED)))?;
    chart.draw_series(report.swap_ratios.iter().map(|swap| line(swap.at_s, BLUE)))?;
    let points = rates.iter().enumerate().map(|(second, rate)| (second as f64 + 0.5, *rate));
    chart.draw_series(LineSeries::new(points, BLACK.stroke_width(1)))?;
    root.present().with_context(|| format!("cannot write {}", file.display()))
}

/// The schedule, to be read.
pub fn schedule(planned: &[Planned]) -> String {
    planned.iter().fold(String::new(), |mut text, planned| {
        let _ = writeln!(text, "{:8.3} s  {}", planned.at.as_secs_f64(), planned.event);
        text
    })
}
