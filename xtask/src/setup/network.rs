//! What the test bed of `bench chain` is made with: namespaces, virtual links and their rates.

use std::process::Command;

use anyhow::Result;

use super::{Item, Machine, Need, Task, command};

pub struct Network;

impl Item for Network {
    fn name(&self) -> &'static str {
        "network tools"
    }

    fn find(&self, _: &Machine) -> Result<String> {
        let version = command::run(Command::new("ip").arg("-Version"))?;
        command::run(Command::new("tc").arg("-Version"))?;
        command::run(Command::new("nsenter").arg("--version"))?;
        Ok(version.trim().to_owned())
    }

    fn install(&self, machine: &mut Machine) -> Result<()> {
        machine.apt_install(&["iproute2", "util-linux"])
    }

    fn need(&self, task: Task) -> Need {
        match task {
            Task::Run | Task::Test | Task::Compare => Need::Unused,
            Task::Bed | Task::Peers => Need::Required,
        }
    }
}
