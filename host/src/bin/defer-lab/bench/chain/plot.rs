//! Plots of a run, as SVG: throughput over nodes, throughput over link rates, and where the time of each stage goes.

use super::report::{Row, StageTime};
use anyhow::{Context as _, Result};
use plotters::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const SIZE: (u32, u32) = (860, 480);
const FONT: (&str, i32) = ("sans-serif", 15);
const TITLE: (&str, i32) = ("sans-serif", 19);
/// Distinct for people who tell colours apart less well (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// Lines of a plot by their names: points in order.
type Lines = BTreeMap<String, Vec<(f64, f64)>>;

/// Writes what `rows` have points for into `dir`.
pub fn write(dir: &Path, model: &str, rows: &[Row]) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut over_nodes = Lines::new();
    let mut over_rates = Lines::new();
    for row in rows {
        let codec = row.codec.as_deref().map(|codec| format!(", {codec}")).unwrap_or_default();
        let name = format!("{} {}{codec}", row.system, row.engine);
        let rate = row.link_mbit.map(|mbit| format!(" at {mbit} Mbit/s")).unwrap_or_default();
        if let Some(times) = row.vs_single {
            over_nodes.entry(format!("{name}{rate}")).or_default().push((f64::from(row.nodes), times));
        }
        if let Some(mbit) = row.link_mbit {
            let name = format!("{name}, {} nodes", row.nodes);
            over_rates.entry(name).or_default().push((f64::from(mbit), row.throughput_rps));
        }
    }
    if let Some(most) = rows.iter().map(|row| row.nodes).max() {
        over_nodes.insert("as many times as nodes".to_owned(), vec![(1.0, 1.0), (f64::from(most), f64::from(most))]);
    }
    let title = format!("{model}: throughput over one node's, by nodes");
    lines(&dir.join(format!("{model}-nodes.svg")), &title, "nodes", "times one node alone", over_nodes)?;
    let title = format!("{model}: throughput by link rate");
    lines(&dir.join(format!("{model}-links.svg")), &title, "link, Mbit/s", "inferences per second", over_rates)?;
    for row in rows.iter().filter(|row| row.stage_times.len() > 1) {
        let (rate, codec) = (row.link_mbit.unwrap_or_default(), row.codec.as_deref().unwrap_or("raw"));
        let codec: String = codec.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let file = format!("{model}-stages-{}-{}-{rate}-{codec}.svg", row.engine, row.nodes);
        let title = format!("{model}, {}: time per stage, {codec} at {rate} Mbit/s", row.engine);
        stages(&dir.join(file), &title, &row.stage_times, row.cpu)?;
    }
    Ok(())
}

/// One line per name; nothing where no line has two points.
fn lines(file: &Path, title: &str, x: &str, y: &str, mut all: Lines) -> Result<()> {
    all.retain(|_, points| {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points.first().map(|p| p.0) != points.last().map(|p| p.0)
    });
    if all.is_empty() {
        return Ok(());
    }
    let points = || all.values().flatten();
    let widest = points().map(|p| p.0).fold(1.0, f64::max);
    let highest = points().map(|p| p.1).fold(0.0, f64::max) * 1.05;
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, TITLE)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..widest * 1.02, 0.0..highest)?;
    chart.configure_mesh().x_desc(x).y_desc(y).max_light_lines(0).label_style(FONT).axis_desc_style(FONT).draw()?;
    for (index, (name, points)) in all.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let dots = points.iter().map(|&p| Circle::new(p, 4, colour.filled()));
        chart.draw_series(dots)?;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(FONT)
        .draw()?;
    root.present().with_context(|| format!("cannot write {}", file.display()))
}

/// A part of a stage's time, and its name.
type Part = (&'static str, fn(&StageTime) -> f64);

/// Decode, compute and encode of each stage, one on the other.
fn stages(file: &Path, title: &str, stages: &[StageTime], cpu: f64) -> Result<()> {
    let parts: [Part; 3] = [("decode", |s| s.decode_ms), ("compute", |s| s.compute_ms), ("encode", |s| s.encode_ms)];
    let highest = stages.iter().map(|s| s.decode_ms + s.compute_ms + s.encode_ms).fold(0.0, f64::max) * 1.15;
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, TITLE)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(-0.5..stages.len() as f64 - 0.5, 0.0..highest.max(1e-3))?;
    let axis = format!("ms by the clock, on {cpu} of a CPU");
    chart
        .configure_mesh()
        .disable_x_mesh()
        .max_light_lines(0)
        .x_labels(stages.len())
        .x_label_formatter(&|x| format!("{x:.0}"))
        .x_desc("stage")
        .y_desc(axis)
        .label_style(FONT)
        .axis_desc_style(FONT)
        .draw()?;
    let mut base = vec![0.0; stages.len()];
    for ((name, of), colour) in parts.into_iter().zip(COLOURS) {
        let bars: Vec<_> = stages
            .iter()
            .zip(&mut base)
            .enumerate()
            .map(|(index, (stage, base))| {
                let (from, to) = (*base, *base + of(stage));
                *base = to;
                Rectangle::new([(index as f64 - 0.35, from), (index as f64 + 0.35, to)], colour.filled())
            })
            .collect();
        chart
            .draw_series(bars)?
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .label_font(FONT)
        .draw()?;
    root.present().with_context(|| format!("cannot write {}", file.display()))
}
