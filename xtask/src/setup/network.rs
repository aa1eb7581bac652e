//! What the test bed of `bench chain` is made with: namespaces, virtual links and their rates.

use std::{env, process::Command};

use anyhow::Result;

use super::{Item, Machine, Need, Task, command};

pub struct Network;

impl Item for Network {
    fn name(&self) -> &'static str {
        "network tools"
    }

    fn find(&self, _: &Machine) -> Result<String> {
        // Some are for administrators, in folders that not everybody has in the path.
        let mut path = env::var_os("PATH").unwrap_or_default();
        path.push(":/usr/sbin:/sbin");
        let version = command::run(Command::new("ip").arg("-Version").env("PATH", &path))?;
        command::run(Command::new("tc").arg("-Version").env("PATH", &path))?;
        command::run(Command::new("nsenter").arg("--version").env("PATH", &path))?;
        Ok(version.trim().to_owned())
    }

    fn on_demand(&self) -> bool {
        true
    }

    fn install(&self, machine: &mut Machine) -> Result<()> {
        machine.apt_install(&["iproute2", "util-linux"])
    }

    fn need(&self, task: Task) -> Need {
        match task {
            Task::Run | Task::Compare | Task::Cross(_) | Task::Mixed(_) => Need::Unused,
            // Nodes that are found in a network of the test's own.
            Task::Test => Need::Useful,
            Task::Bed | Task::Peers => Need::Required,
        }
    }
}
