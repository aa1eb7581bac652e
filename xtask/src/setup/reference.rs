//! ONNX Runtime as Python programs use it: what `bench engine` compares the engines with.

use anyhow::Result;

use super::{
    Item, Machine, Need, Task,
    python::{Environment, NUMPY},
};

/// The same version as the library that the engine loads.
const REFERENCE: Environment = Environment {
    folder: "reference",
    requirements: &["onnxruntime==1.24.4", NUMPY[0], NUMPY[1]],
    imports: "numpy, onnxruntime",
};

pub struct Reference;

impl Item for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn find(&self, machine: &Machine) -> Result<String> {
        REFERENCE.find(machine)
    }

    fn install(&self, machine: &mut Machine) -> Result<()> {
        REFERENCE.install(machine)
    }

    fn need(&self, task: Task) -> Need {
        match task {
            Task::Run | Task::Test | Task::Cross(_) | Task::Mixed(_) => Need::Unused,
            Task::Compare | Task::Bed | Task::Peers => Need::Required,
        }
    }
}
