//! The C compiler that rustc links with, and that some crates' C files are compiled with.

use std::process::Command;

use anyhow::Result;

use super::{Item, Machine, Need, Task, command};

pub struct CLinker;

impl Item for CLinker {
    fn name(&self) -> &'static str {
        "C compiler"
    }

    fn find(&self, _: &Machine) -> Result<String> {
        let version = command::run(Command::new("cc").arg("--version"))?;
        Ok(version.lines().next().unwrap_or("cc").to_owned())
    }

    fn install(&self, machine: &mut Machine) -> Result<()> {
        machine.apt_install(&["gcc", "libc6-dev"])
    }

    fn need(&self, _: Task) -> Need {
        Need::Required
    }
}
