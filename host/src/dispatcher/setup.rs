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
    /// `pipeline` as this dispatcher runs it. What was said of stages by their number holds for pipelines with as many.
    pub fn adjusted(&self, pipeline: Pipeline) -> Pipeline {
        let mut pipeline = self.rounding.of(pipeline);
        if pipeline.stages.len() == self.given.len() {
            for (&index, &replicas) in &self.replicas {
                pipeline.stages[index].replicas = Some(replicas);
            }
        }
        pipeline
    }
}
