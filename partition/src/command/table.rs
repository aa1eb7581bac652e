//! A plan as text: what it promises, a table of its stages, bars of where the time goes, and the alternatives.

use crate::cluster::Cluster;
use crate::plan::{Alternative, Kind, Objective, PlacedStage, Placement};
use std::collections::BTreeSet;

/// Characters of a bar of a node's time, and of a link's.
const CPU: usize = 40;
const LINK: usize = 20;
/// Who hands requests to the first stage.
pub(super) const DISPATCHER: &str = "dispatcher →";

/// The plan of network `model` for a person.
pub fn text(model: &str, cluster: &Cluster, plan: &Placement) -> String {
    let mut text = headline(model, cluster, plan);
    text += &stages(plan);
    text += &bars(plan);
    text += &alternatives(plan);
    for said in [cut_short(plan), advice(plan), warning(plan)].into_iter().flatten() {
        text += &format!("\n{said}\n");
    }
    text
}

fn headline(model: &str, cluster: &Cluster, plan: &Placement) -> String {
    let rate = rate(plan.throughput_rps);
    let used: usize = plan.stages.iter().map(|stage| stage.nodes.len()).sum();
    let what = match plan.kind {
        Kind::Single => "the whole network on one node".to_owned(),
        Kind::Replication => format!("the whole network on each of {used} nodes"),
        Kind::Chain => format!("a chain of {} stages", plan.stages.len()),
        Kind::Mixed => format!("a chain of {} stages on {used} nodes", plan.stages.len()),
    };
    let proof = match plan.optimal {
        true => "proved the best".to_owned(),
        false => {
            format!("not proved: nothing is below {:.3} ms, {:.1} % less", plan.lower_bound_ms, 100.0 * gap(plan))
        }
    };
    format!(
        "{}: {what} ({used} of {} nodes)\n{rate} inferences per second, bottleneck {:.3} ms, latency {:.3} ms; {proof}\n\n",
        model,
        cluster.nodes.len(),
        plan.bottleneck_ms,
        plan.latency_ms,
    )
}

/// The share by which a plan could at most be better, of what it is to be good at.
fn gap(plan: &Placement) -> f64 {
    let value = match plan.objective {
        Objective::Throughput => plan.bottleneck_ms,
        Objective::Latency => plan.latency_ms,
    };
    if value > 0.0 { 1.0 - plan.lower_bound_ms / value } else { 0.0 }
}

fn rate(rps: Option<f64>) -> String {
    rps.map_or_else(|| "unlimited".to_owned(), |rps| format!("{rps:.2}"))
}

fn stages(plan: &Placement) -> String {
    let header = ["stage", "nodes", "atoms", "weights MB", "decode ms", "compute ms", "encode ms", "link ms", "codec"]
        .map(str::to_owned);
    let ms = |ms: f64| format!("{ms:.3}");
    let none = || "–".to_owned();
    let input = ms(plan.input_link_ms);
    let first = [none(), DISPATCHER.to_owned(), none(), none(), none(), none(), none(), input, none()];
    let row = |(index, stage): (usize, &PlacedStage)| {
        [
            index.to_string(),
            nodes(stage),
            format!("{}–{}", stage.atoms[0], stage.atoms[1]),
            format!("{:.2}", stage.weights_bytes as f64 / 1e6),
            ms(stage.decode_ms),
            ms(stage.compute_ms),
            ms(stage.encode_ms),
            ms(stage.link_ms),
            stage.codec_out.clone().unwrap_or_else(none),
        ]
    };
    let rows: Vec<_> = [header, first].into_iter().chain(plan.stages.iter().enumerate().map(row)).collect();
    aligned(&rows, &[1, 8])
}

/// Columns with two spaces between them, to the right but for those in `left`.
fn aligned<const N: usize>(rows: &[[String; N]], left: &[usize]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let cells = (0..N).map(|column| match left.contains(&column) {
            true => format!("  {:<width$}", row[column], width = width(column)),
            false => format!("  {:>width$}", row[column], width = width(column)),
        });
        text += cells.collect::<String>().trim_end();
        text.push('\n');
    }
    text
}

fn nodes(stage: &PlacedStage) -> String {
    match stage.nodes.as_slice() {
        [one] => one.clone(),
        [first, .., last] if stage.nodes.len() > 3 => format!("{first} … {last} ({})", stage.nodes.len()),
        few => few.join(", "),
    }
}

/// A line per stage: its node's time out of the bottleneck's, and that of its outgoing link. First the dispatcher's link.
fn bars(plan: &Placement) -> String {
    let whole = plan.bottleneck_ms;
    if whole <= 0.0 {
        return String::new();
    }
    let mut text = format!("\nof {whole:.3} ms   █ compute  ▓ encode  ▒ decode  ━ link  · idle\n");
    let longest = plan.stages.iter().map(|stage| nodes(stage).chars().count()).max().unwrap_or(0);
    let width = longest.max(DISPATCHER.chars().count());
    let input = bar(&[('━', plan.input_link_ms)], whole, LINK);
    text += &format!("  {:>3}  {DISPATCHER:<width$}  {:CPU$}  {input}\n", "–", "");
    for (index, stage) in plan.stages.iter().enumerate() {
        let cpu = bar(&[('█', stage.compute_ms), ('▓', stage.encode_ms), ('▒', stage.decode_ms)], whole, CPU);
        let link = bar(&[('━', stage.link_ms)], whole, LINK);
        text += &format!("  {index:>3}  {:<width$}  {cpu}  {link}\n", nodes(stage));
    }
    text
}

/// Each part as long as its sum with those before says, so that rounding does not add up; the rest idle.
fn bar(parts: &[(char, f64)], whole: f64, length: usize) -> String {
    let (mut bar, mut sum) = (String::new(), 0.0);
    let mut drawn = 0;
    for (sign, ms) in parts {
        sum += ms;
        let end = ((sum / whole * length as f64).round() as usize).clamp(drawn, length);
        bar.extend(std::iter::repeat_n(*sign, end - drawn));
        drawn = end;
    }
    bar.extend(std::iter::repeat_n('·', length - drawn));
    bar
}

pub(super) fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Single => "one node alone",
        Kind::Replication => "whole copies",
        Kind::Chain => "chain, one node per stage",
        Kind::Mixed => "chain with replicas",
    }
}

fn alternatives(plan: &Placement) -> String {
    let header = ["alternative", "per second", "bottleneck ms", "latency ms", "stages", "nodes"].map(str::to_owned);
    let row = |alternative: &Alternative| {
        let ms = |ms: Option<f64>| ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.3}"));
        let nodes: usize = alternative.stages.iter().map(|stage| stage.nodes.len()).sum();
        [
            name(alternative.kind).to_owned(),
            if alternative.impossible.is_some() { "–".to_owned() } else { rate(alternative.throughput_rps) },
            ms(alternative.bottleneck_ms),
            ms(alternative.latency_ms),
            alternative.stages.len().to_string(),
            nodes.to_string(),
        ]
    };
    let rows: Vec<_> = std::iter::once(header).chain(plan.alternatives.iter().map(row)).collect();
    let mut text = "\n".to_owned() + &aligned(&rows, &[0]);
    for alternative in &plan.alternatives {
        if let Some(why) = &alternative.impossible {
            text += &format!("  {}: impossible, {why}\n", name(alternative.kind));
        }
    }
    text
}

/// Whether a codec changes values, by its name.
fn is_lossy(codec: &str) -> bool {
    let lossless_zfp = codec == "zfp:reversible";
    !lossless_zfp && ["f16", "int8", "zfp", "constant-size"].iter().any(|name| codec.contains(name))
}

/// Answers are not changed without a word.
fn warning(plan: &Placement) -> Option<String> {
    let used = plan.stages.iter().filter_map(|stage| stage.codec_out.as_deref());
    let lossy: BTreeSet<&str> = used.filter(|codec| is_lossy(codec)).collect();
    let names = lossy.iter().copied().collect::<Vec<_>>().join(", ");
    (!lossy.is_empty()).then(|| {
        format!("Lossy codecs are among those of the profile, and used here ({names}): answers will differ a little. --codec names those that may be used.")
    })
}

fn cut_short(plan: &Placement) -> Option<String> {
    plan.cut_short.then(|| {
        "The clock ended the search (--budget-s): another run may find another plan, --seed or not.".to_owned()
    })
}

/// What a user should know who would rather not cut.
fn advice(plan: &Placement) -> Option<String> {
    let copies = plan.alternatives.iter().find(|alternative| alternative.kind == Kind::Replication)?;
    let faster = copies.bottleneck_ms? < plan.bottleneck_ms * (1.0 - 1e-9);
    let count = copies.stages.first()?.nodes.len();
    match plan.kind {
        Kind::Replication => {
            let than = if plan.optimal { "no cut is faster" } else { "that is at least as fast as any cut found" };
            Some(format!(
                "The whole network fits {count} nodes, a copy on each, and {than}: there are no hops to pay for."
            ))
        }
        _ if faster && plan.objective == Objective::Throughput => Some(format!(
            "Whole copies on {count} nodes would be faster, {} per second: --replicas auto plans them.",
            rate(copies.throughput_rps)
        )),
        _ => None,
    }
}
