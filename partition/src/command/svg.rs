//! A plan as a drawing: a bar per stage and link, and one per alternative.

use super::table::{DISPATCHER, name};
use crate::plan::Placement;

const WIDTH: f64 = 900.0;
/// Where bars begin, and how long the longest is.
const LEFT: f64 = 190.0;
const SPAN: f64 = 600.0;
const LINE: f64 = 30.0;
/// Distinct for people who tell colours apart less well (Okabe and Ito).
const PARTS: [(&str, &str); 5] =
    [("compute", "#0072b2"), ("encode", "#e69f00"), ("decode", "#009e73"), ("link", LINK), ("idle", IDLE)];
const LINK: &str = "#cc79a7";
const IDLE: &str = "#e6e6e6";

pub(super) fn draw(model: &str, plan: &Placement) -> String {
    let mut drawing = Drawing { body: String::new(), y: 34.0 };
    let rate = plan.throughput_rps.map_or_else(|| "unlimited".to_owned(), |rps| format!("{rps:.2}"));
    let proof = if plan.optimal { "proved the best" } else { "not proved the best" };
    drawing.text(20.0, 19, "start", &format!("{model}: {rate} inferences per second, {proof}"));
    drawing.line();
    let mut x = LEFT;
    for (part, colour) in PARTS {
        drawing.rect(x, 14.0, 14.0, colour);
        drawing.text(x + 20.0, 14, "start", part);
        x += 110.0;
    }
    drawing.line();
    let whole = plan.bottleneck_ms.max(f64::MIN_POSITIVE);
    drawing.text(LEFT - 10.0, 14, "end", DISPATCHER);
    drawing.text(LEFT + SPAN + 8.0, 13, "start", &format!("{:.3} ms", plan.input_link_ms));
    drawing.busy(6.0, &[(LINK, plan.input_link_ms / whole)]);
    drawing.line();
    for (index, stage) in plan.stages.iter().enumerate() {
        let nodes = match stage.nodes.len() {
            1 => stage.nodes[0].clone(),
            count => format!("{} and {} more", stage.nodes[0], count - 1),
        };
        drawing.text(LEFT - 10.0, 14, "end", &format!("{index}  {nodes}"));
        let times = [stage.compute_ms, stage.encode_ms, stage.decode_ms];
        let parts: Vec<_> = PARTS.iter().zip(times).map(|((_, colour), ms)| (*colour, ms / whole)).collect();
        drawing.busy(13.0, &parts);
        drawing.text(LEFT + SPAN + 8.0, 13, "start", &format!("{:.3} ms", stage.busy_ms()));
        drawing.y += 16.0;
        drawing.busy(6.0, &[(LINK, stage.link_ms / whole)]);
        drawing.line();
    }
    drawing.text(
        LEFT,
        13,
        "start",
        &format!("bottleneck {:.3} ms, latency {:.3} ms", plan.bottleneck_ms, plan.latency_ms),
    );
    drawing.line();
    drawing.line();
    drawing.text(20.0, 16, "start", "alternatives, inferences per second");
    drawing.line();
    let rates =
        plan.alternatives.iter().filter_map(|alternative| alternative.throughput_rps).chain(plan.throughput_rps);
    let most = rates.fold(f64::MIN_POSITIVE, f64::max);
    let mut bar = |label: &str, rps: Option<f64>, otherwise: &str, colour: &str| {
        drawing.text(LEFT - 10.0, 14, "end", label);
        let length = rps.unwrap_or(0.0) / most * SPAN;
        drawing.rect(LEFT, 16.0, length, colour);
        let said = rps.map_or_else(|| otherwise.to_owned(), |rps| format!("{rps:.2}"));
        drawing.text(LEFT + length + 8.0, 13, "start", &said);
        drawing.line();
    };
    bar("this plan", plan.throughput_rps, "unlimited", PARTS[0].1);
    for alternative in &plan.alternatives {
        let otherwise = alternative.impossible.as_deref().unwrap_or("unlimited");
        bar(name(alternative.kind), alternative.throughput_rps, otherwise, "#888888");
    }
    let height = drawing.y;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" font-family=\"sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
        drawing.body
    )
}

struct Drawing {
    body: String,
    /// The base line of what is drawn next.
    y: f64,
}

impl Drawing {
    fn line(&mut self) {
        self.y += LINE;
    }

    /// Colours and the shares that they have of the longest bar; the rest is idle.
    fn busy(&mut self, height: f64, parts: &[(&str, f64)]) {
        let mut from = LEFT;
        self.rect(from, height, SPAN, IDLE);
        for (colour, share) in parts {
            self.rect(from, height, share * SPAN, colour);
            from += share * SPAN;
        }
    }

    fn text(&mut self, x: f64, size: u32, anchor: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let y = self.y;
        self.body +=
            &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\">{text}</text>\n");
    }

    fn rect(&mut self, x: f64, height: f64, width: f64, colour: &str) {
        let y = self.y - height;
        self.body += &format!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>\n"
        );
    }
}
