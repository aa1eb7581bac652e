//! What the demo prints at the end.

use super::whole::Whole;
use crate::compare::difference;
use crate::stats::StageStats;
use crate::subject::Subject;
use crate::table::{Side, table};
use anyhow::{Context as _, Result, bail};
use defer_host::client::Load;
use defer_host::engine::Named;
use defer_host::pipeline::Pipeline;
use defer_models::Processor;
use std::fmt;
use std::time::Duration;

/// Results this far apart, relative to the tensor's largest value, are not those of one network: engines add up in
/// another order once a network is cut, which makes some 1e-6.
const LIMIT: f64 = 1e-3;
const MIB: f64 = (1u64 << 20) as f64;

pub struct Report<'a> {
    subject: &'a Subject,
    pipeline: &'a Pipeline,
    stages: &'a [StageStats],
    requests: Vec<Compared>,
    chain: Speed,
    whole: Speed,
    /// Requests that were under way at once in the chain.
    concurrency: u16,
    cores: usize,
}

/// Both answers to one request.
struct Compared {
    label: String,
    printed: Option<&'static str>,
    whole: String,
    chain: String,
    difference: f64,
}

/// How fast many requests were answered.
struct Speed {
    requests: usize,
    per_second: f64,
    median: Duration,
}

impl Speed {
    fn new(mut latencies: Vec<Duration>, elapsed: Duration) -> Self {
        latencies.sort_unstable();
        Self {
            requests: latencies.len(),
            per_second: latencies.len() as f64 / elapsed.as_secs_f64(),
            median: latencies.get(latencies.len() / 2).copied().unwrap_or_default(),
        }
    }
}

impl<'a> Report<'a> {
    /// # Errors
    /// When an answer is missing or is not of the network's tensors.
    pub fn new(
        subject: &'a Subject,
        pipeline: &'a Pipeline,
        stages: &'a [StageStats],
        load: Load,
        whole: &Whole,
        concurrency: u16,
        cores: usize,
    ) -> Result<Self> {
        let mut requests = Vec::with_capacity(subject.requests.len());
        for ((request, chain), whole) in subject.requests.iter().zip(load.answers).zip(&whole.answers) {
            let about = || format!("comparing the answers to \"{}\"", request.label);
            let chain = chain.map_err(|error| anyhow::anyhow!(error)).with_context(about)?;
            requests.push(Compared {
                label: request.label.clone(),
                printed: request.printed.filter(|_| subject.reads_text()),
                difference: difference(whole, &chain).with_context(about)?,
                whole: said(subject.processor.as_ref(), whole).with_context(about)?,
                chain: said(subject.processor.as_ref(), &chain).with_context(about)?,
            });
        }
        Ok(Self {
            subject,
            pipeline,
            stages,
            requests,
            chain: Speed::new(load.latencies, load.elapsed),
            whole: Speed::new(whole.latencies.clone(), whole.latencies.iter().sum()),
            concurrency,
            cores,
        })
    }

    fn largest(&self) -> f64 {
        self.requests.iter().map(|request| request.difference).fold(0.0, f64::max)
    }

    /// Whether the chain computed what the uncut network does.
    pub fn verdict(&self) -> Result<()> {
        if let Some(other) = self.requests.iter().find(|request| request.whole != request.chain) {
            bail!("the chain says {} of \"{}\", the uncut network {}", other.chain, other.label, other.whole);
        }
        let largest = self.largest();
        if largest > LIMIT {
            bail!("the chain's results differ from the uncut network's by {largest:.1e}; {LIMIT:.0e} is the limit");
        }
        Ok(())
    }
}

/// What the outputs say, without how sure the network is: that differs in the last digits.
fn said(processor: Option<&Processor>, outputs: &[Named]) -> Result<String> {
    let Some(processor) = processor else {
        let shapes = outputs.iter().map(|(name, tensor)| format!("{name} {}{:?}", tensor.dtype, tensor.shape));
        return Ok(shapes.collect::<Vec<_>>().join(", "));
    };
    Ok(processor.answer(outputs)?.gist())
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.answers(f)?;
        self.work(f)?;
        self.speed(f)
    }
}

impl Report<'_> {
    fn answers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Subject { name, entry, .. } = self.subject;
        let count = self.pipeline.stages.len();
        match entry {
            Some(entry) => writeln!(f, "\n{name}: {}\n{}; {}\n", entry.summary, entry.licence, entry.attribution)?,
            None => writeln!(f, "\n{name}: {}, with random inputs\n", self.subject.file.display())?,
        }
        let chain = format!("chain of {count}");
        let difference = |request: &Compared| format!("{:.1e}", request.difference);
        if self.subject.reads_text() {
            let header = [
                ("picture", Side::Left),
                ("printed in it", Side::Left),
                ("whole network reads", Side::Left),
                (chain.as_str(), Side::Left),
                ("largest difference", Side::Right),
            ];
            let printed = |request: &Compared| request.printed.map_or_else(String::new, |text| format!("\"{text}\""));
            let rows = self.requests.iter().map(|request| {
                let Compared { label, whole, chain, .. } = request;
                [label.clone(), printed(request), whole.clone(), chain.clone(), difference(request)]
            });
            f.write_str(&table(header, &rows.collect::<Vec<_>>()))?;
        } else {
            let header = [
                ("input", Side::Left),
                ("whole network", Side::Left),
                (chain.as_str(), Side::Left),
                ("largest difference", Side::Right),
            ];
            let rows = self.requests.iter().map(|request| {
                let Compared { label, whole, chain, .. } = request;
                [label.clone(), whole.clone(), chain.clone(), difference(request)]
            });
            f.write_str(&table(header, &rows.collect::<Vec<_>>()))?;
        }
        let largest = self.largest();
        match self.verdict() {
            Ok(()) => writeln!(
                f,
                "equal: the same answers, and no value further off than {largest:.1e} of its tensor's largest \
                 (limit {LIMIT:.0e})"
            ),
            Err(error) => writeln!(f, "NOT EQUAL: {error}"),
        }
    }

    fn work(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let right = |title| (title, Side::Right);
        let header = [
            right("stage"),
            ("node", Side::Left),
            right("weights MB"),
            right("compute ms"),
            right("decode µs"),
            right("encode µs"),
            right("sandbox µs"),
            right("in kB"),
            right("out kB"),
            ("codec", Side::Left),
            right("resident MiB"),
            ("engine", Side::Left),
        ];
        let rows = self.stages.iter().map(|StageStats { node, stage }| {
            let counters = &stage.counters;
            let per_request =
                |bytes: u64| format!("{:.1}", bytes as f64 / 1e3 / counters.frames_received.max(1) as f64);
            let us = |us: f64| format!("{us:.0}");
            [
                stage.index.to_string(),
                node.name.clone(),
                format!("{:.2}", stage.weights_bytes as f64 / 1e6),
                format!("{:.2}", counters.compute.median_us / 1e3),
                us(counters.decode.median_us),
                us(counters.encode.median_us),
                us(counters.sandbox.median_us),
                per_request(counters.bytes_in),
                per_request(counters.bytes_out),
                stage.codec.clone(),
                format!("{:.0}", node.memory.resident_bytes as f64 / MIB),
                stage.engine.clone(),
            ]
        });
        writeln!(f, "\n{}times are medians, bytes per request", table(header, &rows.collect::<Vec<_>>()))
    }

    fn speed(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = |title| (title, Side::Left);
        let header = [
            left(""),
            ("requests", Side::Right),
            left("under way"),
            ("per second", Side::Right),
            ("median ms", Side::Right),
        ];
        let row = |title: String, under_way: String, speed: &Speed| {
            let ms = speed.median.as_secs_f64() * 1e3;
            [title, speed.requests.to_string(), under_way, format!("{:.1}", speed.per_second), format!("{ms:.1}")]
        };
        let count = self.pipeline.stages.len();
        let cores = if self.cores == 1 { "1 core".to_owned() } else { format!("{} cores", self.cores) };
        let rows = [
            row("whole network".to_owned(), "1 at a time".to_owned(), &self.whole),
            row(format!("chain of {count}"), format!("{} at once", self.concurrency), &self.chain),
        ];
        writeln!(f, "\n{}", table(header, &rows).trim_end())?;
        let slowest = self.stages.iter().map(|stats| stats.stage.counters.compute.median_us / 1e3).fold(0.0, f64::max);
        writeln!(
            f,
            "all of it ran on this machine's {cores}: first the chain's processes, sharing them, then the whole \
             network.\nThe two rates are no measure of what more machines give (and beside other programs, more \
             processes get more of\na machine); on machines of their own the slowest stage, {slowest:.1} ms here, sets \
             the chain's pace."
        )
    }
}
