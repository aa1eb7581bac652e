//! What `build-stages` prints.

use super::{Built, Found};
use crate::accuracy::Budget;
use crate::pipeline::{AccuracyRef, Calibration, Pipeline};
use crate::stdout;
use defer_partition::TensorInfo;
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// So many names of tensors fit a row; the rest is counted.
const NAMED: usize = 2;

#[derive(Serialize)]
struct Document<'a> {
    folder: &'a Path,
    #[serde(flatten)]
    pipeline: &'a Pipeline,
}

impl Built {
    /// One JSON document: what `pipeline.json` holds, and the folder.
    pub fn json(&self) -> String {
        let document = Document { folder: &self.folder, pipeline: &self.pipeline };
        let text = serde_json::to_string_pretty(&document).expect("a pipeline has text keys and finite numbers");
        text + "\n"
    }

    /// A table for a person, a row per stage.
    pub fn table(&self) -> String {
        let header =
            ["stage", "groups", "weights", "predicted", "relay", "out", "sha256", "file", "tensors that leave"];
        let mut rows = vec![header.map(str::to_owned)];
        for (index, stage) in self.pipeline.stages.iter().enumerate() {
            let mut leaving: Vec<&TensorInfo> = stage.outputs.iter().chain(&stage.forwards).collect();
            leaving.sort_by(|a, b| a.name.cmp(&b.name));
            rows.push([
                index.to_string(),
                self.groups.get(index).copied().unwrap_or_default().to_string(),
                bytes(stage.weights_bytes),
                format!("{:.2} ms", stage.predicted_ms),
                format!("{:.2} ms", stage.decode_ms.unwrap_or_default() + stage.encode_ms.unwrap_or_default()),
                bytes(self.leaving_bytes.get(index).copied().unwrap_or_default()),
                stage.digest.short(),
                stage.file.clone(),
                names(&leaving),
            ]);
        }
        let Pipeline { name, stages, plan, .. } = &self.pipeline;
        let plural = if stages.len() == 1 { "" } else { "s" };
        let mut text = format!("{name}: {} stage{plural} in {}\n\n", stages.len(), self.folder.display());
        stdout::align(&mut text, &rows, &[6, 7, 8]);
        if self.placed.is_none() {
            let even = plan.lower_bound_ms / plan.bottleneck_ms.max(f64::MIN_POSITIVE) * 100.0;
            let _ = writeln!(
                text,
                "\nslowest stage {:.2} ms with what the relay takes; no {} stage{plural} of this network can be below {:.2} ms ({even:.0} %)",
                plan.bottleneck_ms,
                stages.len(),
                plan.lower_bound_ms
            );
        }
        let together: f64 = stages.iter().map(|stage| stage.predicted_ms).sum();
        let (whole, share) = (self.whole_ms, together / self.whole_ms.max(f64::MIN_POSITIVE));
        let _ = writeln!(text, "all stages together {together:.2} ms, {share:.2} × the uncut network's {whole:.2} ms");
        if let Some(found) = &self.lossy {
            lossy(&mut text, found);
        }
        if let Some((placement, cluster)) = &self.placed {
            let _ = write!(text, "\n{}", defer_partition::command::report(name, cluster, placement));
        }
        text
    }
}

/// What was found about lossy codecs: a row per hop, the last one being that to the dispatcher.
fn lossy(text: &mut String, found: &Found) {
    let AccuracyRef { budget, calibrated_with, inputs, positions, margin, measured, lossless } = found.accuracy;
    let of = match calibrated_with {
        Calibration::Samples => "sample",
        Calibration::Random => "random",
    };
    let plural = if inputs == 1 { "" } else { "s" };
    let _ = writeln!(text, "\nlossy codecs within {budget}, calibrated with {inputs} {of} input{plural}\n");
    let header = ["hop", "made", "lossless", "lossy", "error alone", "allowed besides lossless codecs"];
    let mut rows = vec![header.map(str::to_owned)];
    for (index, hop) in found.hops.iter().enumerate() {
        let last = index + 1 == found.hops.len();
        let codecs: Vec<String> = hop.codecs.iter().map(ToString::to_string).collect();
        rows.push([
            if last { format!("{index} → out") } else { format!("{index} → {}", index + 1) },
            bytes(hop.raw_bytes),
            bytes(hop.lossless_bytes),
            hop.lossy_bytes.map_or_else(|| "–".to_owned(), bytes),
            if codecs.is_empty() { "–".to_owned() } else { format!("{:.1e}", hop.error) },
            if codecs.is_empty() { "none".to_owned() } else { codecs.join(", ") },
        ]);
    }
    stdout::align(text, &rows, &[5]);
    let figure = |figure: Option<f64>| {
        figure.map_or_else(
            || "no number".to_owned(),
            |figure| match budget {
                Budget::MaxRelativeError(_) => format!("a largest relative error of {figure:.1e}"),
                Budget::Top1Agreement(_) => format!("an agreement of {figure:.5} over {positions} positions"),
            },
        )
    };
    let lossless = figure(lossless);
    let _ = match found.hops.iter().all(|hop| hop.codecs.is_empty()) {
        true => writeln!(
            text,
            "\nno lossy codec keeps to the budget and saves bytes: the pipeline is lossless ({lossless})"
        ),
        false => writeln!(
            text,
            "\nwith the most lossy ones on all hops at once {} (lossless {lossless}); errors {margin} times as large \
             would keep to the budget",
            figure(measured)
        ),
    };
    if let Some(shown) = budget.beyond_sample(positions) {
        let _ = writeln!(
            text,
            "{positions} positions are too few to show {budget}: even if all agree, they show {shown:.4} at most (with 95 % confidence)"
        );
    }
}

fn names(tensors: &[&TensorInfo]) -> String {
    let named = tensors.iter().take(NAMED).map(|tensor| tensor.to_string());
    let mut text = named.collect::<Vec<_>>().join(", ");
    if tensors.len() > NAMED {
        let _ = write!(text, " and {} more", tensors.len() - NAMED);
    }
    text
}

fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        _ => format!("{:.1} MB", count as f64 / 1e6),
    }
}
