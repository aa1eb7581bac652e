//! How a dispatcher runs the pipelines that it is given.

use super::Rounding;
use crate::artifact::Digest;
use crate::node::generation::Owner;
use crate::pipeline::Pipeline;
use crate::relay::codec::Choice;
use std::collections::BTreeMap;

/// How generations are made.
pub struct Setup {
    pub owner: Owner,
    /// Codec of every hop, whatever the pipeline says.
    pub codec: Option<Choice>,
    /// What `--pipeline` named.
    pub given: Vec<Digest>,
    pub rounding: Rounding,
    /// On how many nodes stages run, where not as the pipeline says.
    pub replicas: BTreeMap<usize, usize>,
}

impl Setup {
    /// On how many nodes each stage of `pipeline` is to run. What was said of stages by their number holds for pipelines with
    /// as many.
    pub fn wanted(&self, pipeline: &Pipeline) -> Vec<usize> {
        let holds = pipeline.stages.len() == self.given.len();
        pipeline.wanted(if holds { &self.replicas } else { const { &BTreeMap::new() } })
    }
}
