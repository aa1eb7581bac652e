//! A plan as the search sees it, and what it costs.

use super::machines::Machines;
use super::model::Model;

/// A stage: where it runs, and from which point to which.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Leg {
    pub nodes: Vec<usize>,
    pub from: usize,
    pub to: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Route {
    pub legs: Vec<Leg>,
}

/// Times in ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cost {
    pub bottleneck: f64,
    pub latency: f64,
}

/// What requests and answers cost on the dispatcher's link, whatever the plan.
pub(super) fn dispatcher(model: &Model, machines: &Machines) -> Cost {
    let link = machines.dispatcher;
    let input = link.ms(model.points[0].bytes);
    let output = link.ms(model.points[model.end()].bytes);
    Cost { bottleneck: input.max(output), latency: input + output + 2.0 * link.latency_ms }
}

impl Route {
    pub fn cost(&self, model: &Model, machines: &Machines) -> Cost {
        let mut cost = dispatcher(model, machines);
        for (index, leg) in self.legs.iter().enumerate() {
            let group = machines.group(&leg.nodes);
            let work = model.work(leg.from, leg.to).total();
            cost.bottleneck = cost.bottleneck.max(work / group.speed);
            cost.latency += work * group.delay;
            if let Some(next) = self.legs.get(index + 1) {
                let hop = machines.hop(&leg.nodes, &next.nodes);
                let bytes = model.points[leg.to].bytes as f64;
                cost.bottleneck = cost.bottleneck.max(bytes * hop.ms_per_byte);
                cost.latency += hop.delay(bytes);
            }
        }
        cost
    }
}
