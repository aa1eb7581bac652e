//! The tests' clients of the inference API, unmodified, in a virtual environment of their own.

use anyhow::Result;

use super::{
    Item, Machine, Need, Task,
    python::{Environment, NUMPY},
};

const CLIENTS: Environment = Environment {
    folder: "clients",
    requirements: &["tritonclient[http]==2.73.0", "schemathesis==4.32.5", NUMPY[0], NUMPY[1]],
    imports: "numpy, schemathesis, tritonclient.http",
};

pub struct Clients;

impl Item for Clients {
    fn name(&self) -> &'static str {
        "test clients"
    }

    fn find(&self, machine: &Machine) -> Result<String> {
        CLIENTS.find(machine)
    }

    fn install(&self, machine: &mut Machine) -> Result<()> {
        CLIENTS.install(machine)
    }

    fn need(&self, task: Task) -> Need {
        match task {
            Task::Run | Task::Compare | Task::Bed | Task::Peers | Task::Cross(_) | Task::Mixed(_) => Need::Unused,
            Task::Test => Need::Required,
        }
    }
}
