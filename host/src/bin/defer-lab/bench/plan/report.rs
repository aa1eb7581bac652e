//! What `bench plan` prints.

use super::{GOAL, PUBLISHED_ALL, PUBLISHED_RESNET50, Row};
use crate::table::{Side, table};

pub fn placements(rows: &[Row]) -> String {
    let cut = rows.iter().filter(|row| row.part == "placement" && row.cut_trials > 0);
    let cells: Vec<[String; 12]> = cut
        .map(|row| {
            [
                row.model.clone(),
                row.size.to_owned(),
                row.memory_mb.to_string(),
                row.nodes.to_string(),
                row.method.to_owned(),
                number(row.ratio_mean),
                number(row.ratio_max),
                number(row.least_ratio_mean),
                number(Some(row.bottleneck_s)),
                number(row.published_bottleneck_s),
                format!("{:.2}", row.stages),
                row.optimal_share.map_or_else(String::new, |share| format!("{:.0} %", share * 100.0)),
            ]
        })
        .collect();
    let header = [
        ("network", Side::Left),
        ("bytes", Side::Left),
        ("MB", Side::Right),
        ("nodes", Side::Right),
        ("method", Side::Left),
        ("over bound", Side::Right),
        ("worst", Side::Right),
        ("least possible", Side::Right),
        ("bottleneck s", Side::Right),
        ("published", Side::Right),
        ("stages", Side::Right),
        ("proved", Side::Right),
    ];
    table(header, &cells)
}

/// Methods, as they stand in each row.
const METHODS: [&str; 4] = ["planner", "greedy", "min-sum path", "random"];

/// Means over the settings that were cut, and what stands in the planner's way.
pub fn summary(rows: &[Row]) -> String {
    let cut: Vec<&Row> =
        rows.iter().filter(|row| row.part == "placement" && row.cut_trials > 0 && !row.repeated).collect();
    if cut.is_empty() {
        return "nothing was cut\n".to_owned();
    }
    let mut models: Vec<&str> = cut.iter().map(|row| row.model.as_str()).collect();
    models.dedup();
    let mut cells: Vec<[String; 9]> = Vec::new();
    for model in models.iter().copied().map(Some).chain([None]) {
        let rows: Vec<&Row> = cut.iter().copied().filter(|row| model.is_none_or(|model| row.model == model)).collect();
        let [planner, greedy, min_sum, random] = METHODS.map(|method| mean(&rows, method, |row| row.ratio_mean));
        let proved = mean(&rows, METHODS[0], |row| row.optimal_share).map(|share| share * 100.0);
        let published = match model {
            None => Some(PUBLISHED_ALL),
            Some(model) => (model == "resnet50").then_some(PUBLISHED_RESNET50),
        };
        let trials: u32 = rows.iter().filter(|row| row.method == METHODS[0]).map(|row| row.found).sum();
        cells.push([
            model.unwrap_or("all").to_owned(),
            trials.to_string(),
            number(planner),
            number(mean(&rows, METHODS[0], |row| row.least_ratio_mean)),
            proved.map_or_else(String::new, |percent| format!("{percent:.1} %")),
            number(published),
            number(greedy),
            number(min_sum),
            number(random),
        ]);
    }
    let header = [
        ("over bound, mean", Side::Left),
        ("trials cut", Side::Right),
        ("planner", Side::Right),
        ("least possible", Side::Right),
        ("proved", Side::Right),
        ("published", Side::Right),
        ("greedy", Side::Right),
        ("min-sum path", Side::Right),
        ("random", Side::Right),
    ];
    let mut text = table(header, &cells);
    let uncut = || rows.iter().filter(|row| row.part == "placement" && row.cut_trials == 0);
    let mut never: Vec<&str> = uncut().map(|row| row.model.as_str()).filter(|model| !models.contains(model)).collect();
    never.dedup();
    if !never.is_empty() {
        text += &format!("never cut: {}\n", never.join(", "));
    }
    if mean(&cut, METHODS[0], |row| row.ratio_mean).is_some_and(|ratio| ratio > GOAL) {
        text += &format!(
            "above the goal of {GOAL}: the bound takes the fastest link for each hop, and a node has it to one other only; no plan has less than \"least possible\"\n"
        );
    }
    text
}

/// Over the trials in which the method found a way.
fn mean(rows: &[&Row], method: &str, of: fn(&Row) -> Option<f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for row in rows.iter().filter(|row| row.method == method) {
        if let Some(value) = of(row) {
            sum += value * f64::from(row.found);
            count += f64::from(row.found);
        }
    }
    (count > 0.0).then(|| sum / count)
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| format!("{value:.3}"))
}

pub fn times(rows: &[Row]) -> String {
    let cells: Vec<[String; 7]> = rows
        .iter()
        .filter(|row| row.part == "planning")
        .map(|row| {
            [
                row.model.clone(),
                row.atoms.to_string(),
                row.nodes.to_string(),
                row.method.to_owned(),
                row.planning_ms.map_or_else(String::new, |ms| format!("{ms:.0}")),
                format!("{:.0}", row.stages),
                row.gap.map_or_else(String::new, |gap| format!("{:.2} %", gap * 100.0)),
            ]
        })
        .collect();
    let header = [
        ("network", Side::Left),
        ("atoms", Side::Right),
        ("nodes, unequal", Side::Right),
        ("method", Side::Left),
        ("planning ms", Side::Right),
        ("stages", Side::Right),
        ("gap", Side::Right),
    ];
    table(header, &cells)
}
