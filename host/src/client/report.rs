//! What `infer` prints.

use super::InferArgs;
use super::inputs::Prepared;
use super::load::Load;
use super::wire::Outputs;
use crate::oip::json as tensor_json;
use anyhow::bail;
use defer_models::Processor;
use defer_partition::Tensor;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Tensors of up to this many elements are printed with their values.
const FEW: usize = 16;

/// The JSON document of `--json`, and what the text is made from.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    url: String,
    model: String,
    concurrency: u16,
    /// Requests sent, answered and not.
    requests: u64,
    succeeded: u64,
    failed: u64,
    /// Attempts made again because the server asked for it.
    retries: u64,
    duration_s: f64,
    /// Answered requests per second.
    throughput_rps: f64,
    /// Of answered requests, waits between attempts included; absent when there are none.
    latency_ms: Option<Latency>,
    /// Failed requests by kind.
    failures: BTreeMap<String, Failures>,
    /// The first answer to each distinct request.
    answers: Vec<Answer>,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Failures {
    count: u64,
    example: String,
}

#[derive(Debug, Serialize)]
struct Answer {
    input: String,
    /// What the outputs say, for a model of the catalogue; see [`structured`].
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<Value>,
    /// The same for a person.
    #[serde(skip)]
    said: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    outputs: Vec<Output>,
}

#[derive(Debug, Serialize)]
struct Output {
    name: String,
    datatype: String,
    shape: Vec<usize>,
    /// The values, where they are few and JSON can carry them.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

impl Report {
    pub(super) fn new(
        args: &InferArgs,
        prepared: &[Prepared],
        load: Load,
        processor: Option<&Processor>,
        saved: &[Vec<PathBuf>],
    ) -> Self {
        let failed = load.failed();
        let succeeded = load.latencies.len() as u64;
        let duration_s = load.elapsed.as_secs_f64();
        let none = Vec::new();
        let answers = prepared
            .iter()
            .zip(load.answers)
            .enumerate()
            .map(|(i, (request, answer))| answer_of(request, answer, processor, saved.get(i).unwrap_or(&none)));
        Self {
            url: args.url.clone(),
            model: args.model.clone(),
            concurrency: args.concurrency,
            requests: succeeded + failed,
            succeeded,
            failed,
            retries: load.retries,
            duration_s,
            throughput_rps: if duration_s > 0.0 { succeeded as f64 / duration_s } else { 0.0 },
            latency_ms: latency(load.latencies),
            answers: answers.collect(),
            failures: load
                .failures
                .into_iter()
                .map(|(kind, f)| (kind, Failures { count: f.count, example: f.example }))
                .collect(),
        }
    }

    /// One JSON document and a line's end.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string(self)? + "\n")
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        for answer in &self.answers {
            match (&answer.said, &answer.error) {
                (Some(said), _) => writeln!(out, "{}: {said}", answer.input)?,
                (None, Some(error)) => writeln!(out, "{}: failed: {error}", answer.input)?,
                (None, None) => writeln!(out, "{}:", answer.input)?,
            }
            for Output { name, datatype, shape, data, file } in &answer.outputs {
                // A sentence that was read says it all; its scores go to files only.
                if answer.said.is_some() && file.is_none() {
                    continue;
                }
                write!(out, "  {name} {datatype}{shape:?}")?;
                if let Some(data) = data {
                    write!(out, " {data}")?;
                }
                match file {
                    Some(file) => writeln!(out, " -> {file}")?,
                    None => writeln!(out)?,
                }
            }
        }
        writeln!(out, "\nrequests    {} answered, {} failed, {} retries", self.succeeded, self.failed, self.retries)?;
        let Self { duration_s, throughput_rps, concurrency, .. } = self;
        writeln!(out, "throughput  {throughput_rps:.2} per second, {concurrency} at once, {duration_s:.3} s")?;
        if let Some(Latency { p50, p90, p99, max }) = &self.latency_ms {
            writeln!(out, "latency     p50 {p50:.2} ms, p90 {p90:.2} ms, p99 {p99:.2} ms, max {max:.2} ms")?;
        }
        for (kind, Failures { count, example }) in &self.failures {
            writeln!(out, "failed      {count} × {kind}: {example}")?;
        }
        Ok(())
    }

    /// # Errors
    /// Where a request failed.
    pub(super) fn verdict(&self) -> anyhow::Result<()> {
        if self.failed > 0 {
            let kinds: Vec<_> = self.failures.iter().map(|(kind, f)| format!("{} × {kind}", f.count)).collect();
            bail!("{} of {} requests failed: {}", self.failed, self.requests, kinds.join(", "));
        }
        if let Some(Answer { input, error: Some(error), .. }) = self.answers.iter().find(|a| a.error.is_some()) {
            bail!("{input}: {error}");
        }
        Ok(())
    }
}

fn answer_of(
    request: &Prepared,
    answer: Result<Outputs, String>,
    processor: Option<&Processor>,
    saved: &[PathBuf],
) -> Answer {
    let input = request.label.clone();
    let (outputs, error) = match answer {
        Ok(outputs) => (outputs, None),
        Err(error) => (Outputs::new(), Some(error)),
    };
    let (said, error) = match processor.filter(|_| error.is_none()).map(|p| p.answer(&outputs)) {
        Some(Ok(said)) => (Some(said), None),
        Some(Err(e)) => (None, Some(format!("the outputs cannot be read: {e}"))),
        None => (None, error),
    };
    let describe = |(i, (name, tensor)): (usize, (String, Tensor))| Output {
        name,
        datatype: tensor.dtype.to_string(),
        data: values(&tensor),
        shape: tensor.shape,
        file: saved.get(i).map(|path| path.display().to_string()),
    };
    let answer = said.as_ref().map(structured);
    let said = said.map(|s| s.to_string());
    Answer { input, answer, said, error, outputs: outputs.into_iter().enumerate().map(describe).collect() }
}

/// `{"text","confidence"}`, `{"regions":[{"left","top","right","bottom","score"}]}` in pixels of the input,
/// `{"degrees","probability"}`, `{"classes":[{"index","probability"}]}` or `{"sequences","tokens","pooled":[…]}`.
fn structured(said: &defer_models::Answer) -> Value {
    use defer_models::Answer;
    match said {
        Answer::Text { text, confidence } => json!({"text": text, "confidence": confidence}),
        Answer::Regions(regions) => {
            let regions = regions
                .iter()
                .map(|r| json!({"left": r.left, "top": r.top, "right": r.right, "bottom": r.bottom, "score": r.score}));
            json!({ "regions": regions.collect::<Vec<_>>() })
        }
        Answer::Direction { degrees, probability } => json!({"degrees": degrees, "probability": probability}),
        Answer::Classes(classes) => {
            let classes = classes.iter().map(|c| json!({"index": c.index, "probability": c.probability}));
            json!({ "classes": classes.collect::<Vec<_>>() })
        }
        Answer::Embedding { sequences, tokens, pooled } => {
            json!({"sequences": sequences, "tokens": tokens, "pooled": pooled})
        }
    }
}

fn values(tensor: &Tensor) -> Option<Value> {
    let few = tensor.data.len() <= FEW * tensor.dtype.size();
    if !few || tensor_json::not_finite(tensor).is_some() {
        return None;
    }
    let mut text = Vec::new();
    tensor_json::serialize_data(tensor, &mut serde_json::Serializer::new(&mut text)).ok()?;
    serde_json::from_slice(&text).ok()
}

fn latency(mut latencies: Vec<Duration>) -> Option<Latency> {
    latencies.sort_unstable();
    let ms = |d: &Duration| d.as_secs_f64() * 1e3;
    // The smallest value that at least this share of all do not exceed.
    let percentile = |share: usize| {
        let rank = (latencies.len() * share).div_ceil(100).max(1);
        latencies.get(rank - 1).map(ms)
    };
    Some(Latency { p50: percentile(50)?, p90: percentile(90)?, p99: percentile(99)?, max: percentile(100)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let of = |n: u64| latency((1..=n).rev().map(Duration::from_millis).collect());
        let cases = [
            (1, [1.0, 1.0, 1.0, 1.0]),
            (2, [1.0, 2.0, 2.0, 2.0]),
            (100, [50.0, 90.0, 99.0, 100.0]),
            (1000, [500.0, 900.0, 990.0, 1000.0]),
        ];
        for (n, want) in cases {
            let Latency { p50, p90, p99, max } = of(n).unwrap();
            assert_eq!([p50, p90, p99, max], want, "of {n}");
        }
        assert!(of(0).is_none());
    }
}
