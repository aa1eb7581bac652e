//! A pipeline's stages in this process, loaded and called as a node does: each a component behind wasi-nn.

use super::contest::Contestant;
use anyhow::{Context as _, Result};
use cpu_time::ProcessTime;
use defer_host::buffer::Pool;
use defer_host::engine::{Engine, Named, Options};
use defer_host::node::{Loaded, Loader, TimeLimits};
use defer_host::pipeline::Pipeline;
use defer_host::sandbox::{Instance, Limits, Sandbox};
use defer_partition::Tensor;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Spare buffers, in bytes.
const POOL: usize = 256 << 20;

pub struct Stages {
    pub pipeline: Pipeline,
    stages: Vec<(Loaded, Instance)>,
    pool: Pool,
    inputs: Vec<Named>,
    /// Bytes of the tensors that pass from stage to stage, once it has run.
    pub crossing_bytes: u64,
}

impl Stages {
    /// Loads the pipeline in `folder`, to be run on `inputs`.
    pub fn load(folder: &Path, engine: &Arc<dyn Engine>, inputs: &[Named]) -> Result<Self> {
        let pipeline = Pipeline::read(folder)?;
        let pool = Pool::new(POOL);
        let loader = Loader {
            sandbox: Sandbox::new(Limits::default())?,
            engine: Arc::clone(engine),
            rival: None,
            options: Options::new(1),
            limits: TimeLimits::default(),
            pool: pool.clone(),
            max_tensor: usize::MAX,
        };
        let load = |stage: &defer_host::pipeline::StageRef| {
            let loaded = loader.load(stage.digest, &folder.join(&stage.file))?;
            let instance = loaded.instance()?;
            Ok((loaded, instance))
        };
        let stages = pipeline.stages.iter().map(load).collect::<Result<_>>()?;
        Ok(Self { pipeline, stages, pool, inputs: inputs.to_vec(), crossing_bytes: 0 })
    }

    /// Has it run on `inputs` from now on.
    pub fn set_inputs(&mut self, inputs: &[Named]) {
        self.inputs = inputs.to_vec();
    }

    /// The chain's results, and the CPU time of each stage's call, in ms.
    pub fn answer(&mut self) -> Result<(Vec<Named>, Vec<f64>)> {
        let mut tensors: HashMap<String, Tensor> =
            self.inputs.iter().map(|(name, tensor)| (name.clone(), pooled(&self.pool, tensor))).collect();
        let mut times = Vec::with_capacity(self.stages.len());
        let mut passed = Vec::with_capacity(self.stages.len());
        for (loaded, instance) in &mut self.stages {
            let manifest = &loaded.artifact.manifest;
            let mut inputs = Vec::with_capacity(manifest.inputs.len());
            for input in &manifest.inputs {
                let forwarded = manifest.forwards.iter().any(|forward| forward.name == input.name);
                let tensor = match forwarded {
                    true => tensors.get(&input.name).map(|tensor| pooled(&self.pool, tensor)),
                    false => tensors.remove(&input.name),
                };
                inputs.push((input.name.clone(), tensor.with_context(|| format!("nothing made {input}"))?));
            }
            let started = ProcessTime::now();
            let outcome = instance.run(inputs)?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
            tensors.extend(outcome.outputs);
            passed.push(tensors.values().map(|tensor| tensor.data.len() as u64).sum::<u64>());
        }
        // What leaves the last one passes to no other.
        passed.pop();
        self.crossing_bytes = passed.iter().sum();
        Ok((tensors.into_iter().collect(), times))
    }
}

impl Contestant for Stages {
    fn run(&mut self) -> Result<Vec<f64>> {
        let (results, times) = self.answer()?;
        results.into_iter().for_each(|(_, tensor)| self.pool.give(tensor.data));
        Ok(times)
    }
}

/// A copy in a buffer of the pool, where what comes from a link lies.
fn pooled(pool: &Pool, tensor: &Tensor) -> Tensor {
    let mut data = pool.take(tensor.data.len());
    data.extend_from_slice(&tensor.data);
    Tensor { dtype: tensor.dtype, shape: tensor.shape.clone(), data }
}
