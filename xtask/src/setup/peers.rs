//! What the scripts in `bench/peers/` need: TensorFlow, and the codecs of DEFER.

use anyhow::Result;

use super::{
    Item, Machine, Need, Task,
    python::{Environment, NUMPY},
};

const PEERS: Environment = Environment {
    folder: "defer-method",
    requirements: &["tensorflow-cpu==2.21.0", "zfpy==1.0.1.post0", "lz4==4.4.5", NUMPY[0], NUMPY[1]],
    imports: "numpy, tensorflow, zfpy, lz4.frame",
};

pub struct Peers;

impl Item for Peers {
    fn name(&self) -> &'static str {
        "DEFER's method"
    }

    fn find(&self, machine: &Machine) -> Result<String> {
        PEERS.find(machine)
    }

    fn install(&self, machine: &mut Machine) -> Result<()> {
        PEERS.install(machine)
    }

    fn need(&self, task: Task) -> Need {
        match task {
            Task::Run | Task::Test | Task::Compare | Task::Bed | Task::Cross(_) | Task::Mixed(_) => Need::Unused,
            Task::Peers => Need::Required,
        }
    }

    fn on_demand(&self) -> bool {
        true
    }
}
