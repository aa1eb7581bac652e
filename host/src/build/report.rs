//! What `build-stages` prints.

use super::Built;
use crate::pipeline::Pipeline;
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
        let header = ["stage", "groups", "weights", "predicted", "out", "sha256", "file", "tensors that leave"];
        let mut rows = vec![header.map(str::to_owned)];
        for (index, stage) in self.pipeline.stages.iter().enumerate() {
            let mut leaving: Vec<&TensorInfo> = stage.outputs.iter().chain(&stage.forwards).collect();
            leaving.sort_by(|a, b| a.name.cmp(&b.name));
            rows.push([
                index.to_string(),
                self.groups.get(index).copied().unwrap_or_default().to_string(),
                bytes(stage.weights_bytes),
                format!("{:.2} ms", stage.predicted_ms),
                bytes(self.leaving_bytes.get(index).copied().unwrap_or_default()),
                stage.digest.short(),
                stage.file.clone(),
                names(&leaving),
            ]);
        }
        let Pipeline { name, stages, plan, .. } = &self.pipeline;
        let plural = if stages.len() == 1 { "" } else { "s" };
        let mut text = format!("{name}: {} stage{plural} in {}\n\n", stages.len(), self.folder.display());
        align(&mut text, &rows);
        let even = plan.lower_bound_ms / plan.bottleneck_ms.max(f64::MIN_POSITIVE) * 100.0;
        let _ = writeln!(
            text,
            "\nslowest stage {:.2} ms; no {} stage{plural} of this network can be below {:.2} ms ({even:.0} %)",
            plan.bottleneck_ms,
            stages.len(),
            plan.lower_bound_ms
        );
        let together: f64 = stages.iter().map(|stage| stage.predicted_ms).sum();
        let (whole, share) = (self.whole_ms, together / self.whole_ms.max(f64::MIN_POSITIVE));
        let _ = writeln!(text, "all stages together {together:.2} ms, {share:.2} × the uncut network's {whole:.2} ms");
        text
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

/// Pads all columns but the last: numbers to the right, file names and digests to the left.
fn align(text: &mut String, rows: &[[String; 8]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            let _ = match column {
                0..=4 => write!(text, "{cell:>width$}  "),
                7 => writeln!(text, "{cell}"),
                _ => write!(text, "{cell:width$}  "),
            };
        }
    }
}

fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        _ => format!("{:.1} MB", count as f64 / 1e6),
    }
}
