//! The stages that were written, run one after the other in this process, their hops as on the wire.

use crate::artifact::Artifact;
use crate::buffer::Pool;
use crate::build::BuildError;
use crate::engine::{Engine, Model, Named, Options, Session};
use crate::pipeline::{Pipeline, StageRef};
use crate::relay::codec::{self, Codec};
use defer_partition::Tensor;
use std::collections::BTreeMap;
use std::path::Path;

/// Spare buffers, in bytes.
const POOL: usize = 256 << 20;

/// The tensors that are on one hop, by name, as its receiver decodes them.
pub type Crossing = BTreeMap<String, Tensor>;

pub struct Slices {
    stages: Vec<(StageRef, Box<dyn Session>)>,
    outputs: Vec<String>,
    pool: Pool,
}

impl Slices {
    /// Loads the artifacts of `pipeline`, which lie in `folder`.
    pub fn load(pipeline: &Pipeline, folder: &Path, engine: &dyn Engine, options: Options) -> Result<Self, BuildError> {
        let load = |stage: &StageRef| {
            let unreadable = |cause| BuildError::ReadBack { stage: stage.index, cause };
            let artifact = Artifact::open(&folder.join(&stage.file)).map_err(unreadable)?;
            let bytes = artifact.model().map_err(unreadable)?;
            let session = engine.load(Model { bytes: &bytes, weights_folder: Some(folder) }, options)?;
            Ok::<_, BuildError>((stage.clone(), session))
        };
        Ok(Self {
            stages: pipeline.stages.iter().map(load).collect::<Result<_, _>>()?,
            outputs: pipeline.outputs.iter().map(|output| output.name.clone()).collect(),
            pool: Pool::new(POOL),
        })
    }

    pub fn len(&self) -> usize {
        self.stages.len()
    }

    /// Computes a stage. What it makes goes over its outgoing hop by `codec`; what it forwards keeps the encoding that it was
    /// given where it was made, so that nothing is rounded twice.
    pub fn compute(&mut self, stage: usize, entering: &Crossing, codec: Codec) -> Result<Crossing, BuildError> {
        let (of, session) = &mut self.stages[stage];
        let inputs: Vec<Named> = of
            .inputs
            .iter()
            .filter_map(|input| Some((input.name.clone(), entering.get(&input.name)?.clone())))
            .collect();
        let made = session.run(&inputs, &self.pool)?;
        inputs.into_iter().for_each(|(_, tensor)| self.pool.give(tensor.data));
        let forwards = of.forwards.iter();
        let mut leaving: Crossing =
            forwards.filter_map(|forward| Some((forward.name.clone(), entering.get(&forward.name)?.clone()))).collect();
        for (name, tensor) in made {
            if of.outputs.iter().any(|output| output.name == name) {
                let (_, _, tensor) = cross(tensor, codec, &self.pool);
                leaving.insert(name, tensor);
            }
        }
        Ok(leaving)
    }

    /// What becomes of the tensors that `stage` makes, on its outgoing hop by `codec`: encoded bytes, and whether any was rounded.
    /// `leaving` holds them as they are, and the rounded ones afterwards.
    pub fn send(&self, stage: usize, leaving: &mut Crossing, codec: Codec) -> (u64, Rounded) {
        let (mut bytes, mut rounded) = (0, Rounded::No);
        for output in &self.stages[stage].0.outputs {
            let Some(tensor) = leaving.remove(&output.name) else { continue };
            let (encoded, lossy, tensor) = cross(tensor, codec, &self.pool);
            bytes += encoded;
            if lossy == Rounded::Yes {
                rounded = Rounded::Yes;
            }
            leaving.insert(output.name.clone(), tensor);
        }
        (bytes, rounded)
    }

    /// Goes on from what entered stage `from` to the network's outputs; `codecs` has one for each hop from there on, and what
    /// it lacks is raw.
    pub fn finish(&mut self, from: usize, entering: &Crossing, codecs: &[Codec]) -> Result<Vec<Named>, BuildError> {
        let mut crossing = entering.clone();
        for stage in from..self.len() {
            let codec = codecs.get(stage - from).copied().unwrap_or_default();
            let next = self.compute(stage, &crossing, codec)?;
            std::mem::replace(&mut crossing, next).into_values().for_each(|tensor| self.pool.give(tensor.data));
        }
        Ok(self.outputs(crossing))
    }

    /// The network's outputs among what left the last stage.
    pub fn outputs(&self, mut leaving: Crossing) -> Vec<Named> {
        self.outputs.iter().filter_map(|name| leaving.remove_entry(name)).collect()
    }
}

/// Whether a lossy codec was at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounded {
    No,
    Yes,
}

/// A tensor after it was encoded and decoded, and the bytes in between.
fn cross(tensor: Tensor, codec: Codec, pool: &Pool) -> (u64, Rounded, Tensor) {
    let encoded = codec::encode(tensor, codec, pool);
    let bytes = encoded.data.len() as u64;
    let rounded = if encoded.codec.is_lossy() { Rounded::Yes } else { Rounded::No };
    let decoded = codec::decode(encoded, pool).expect("what was encoded a moment ago decodes");
    (bytes, rounded, decoded)
}
