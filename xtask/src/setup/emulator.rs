//! What runs aarch64 programs on this machine: an emulator, and the C and C++ libraries that they load.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use super::{Item, Machine, Need, Task, command};
use crate::cross::AARCH64;

/// Where Debian puts libraries of that architecture, side by side with this machine's own. Those of the cross compiler
/// (`/usr/aarch64-linux-gnu`) are not for running: with both in reach a program mixes two C libraries and hangs.
const LIBRARIES: [&str; 2] = ["/lib/ld-linux-aarch64.so.1", "/usr/lib/aarch64-linux-gnu/libstdc++.so.6"];

pub struct Emulator;

impl Item for Emulator {
    fn name(&self) -> &'static str {
        "emulator"
    }

    fn find(&self, _: &Machine) -> Result<String> {
        let version = command::run(Command::new(AARCH64.emulator).arg("--version"))?;
        if let Some(library) = LIBRARIES.iter().find(|library| !Path::new(library).exists()) {
            bail!("no {library}");
        }
        Ok(version.lines().next().unwrap_or(AARCH64.emulator).to_owned())
    }

    fn install(&self, machine: &mut Machine) -> Result<()> {
        machine.apt_install_of("arm64", &["qemu-user-static", "libc6:arm64", "libstdc++6:arm64"])
    }

    fn need(&self, task: Task) -> Need {
        match task {
            Task::Test | Task::Mixed => Need::Required,
            Task::Run | Task::Compare | Task::Bed | Task::Peers | Task::Cross | Task::CrossArmv7 => Need::Unused,
        }
    }
}
