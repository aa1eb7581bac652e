//! What runs another architecture's programs on this machine: an emulator, and the C and C++ libraries that they load.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use super::{Item, Machine, Need, Task, command};
use crate::cross::{AARCH64, ARMV7, Cross};

pub struct Emulator {
    cross: &'static Cross,
    name: &'static str,
    /// Where Debian puts libraries of that architecture, side by side with this machine's own. Those of the cross compiler
    /// (`/usr/aarch64-linux-gnu`) are not for running: with both in reach a program mixes two C libraries and hangs.
    libraries: [&'static str; 2],
}

pub const FOR_AARCH64: Emulator = Emulator {
    cross: &AARCH64,
    name: "emulator",
    libraries: ["/lib/ld-linux-aarch64.so.1", "/usr/lib/aarch64-linux-gnu/libstdc++.so.6"],
};

pub const FOR_ARMV7: Emulator = Emulator {
    cross: &ARMV7,
    name: "armv7 emulator",
    libraries: ["/lib/ld-linux-armhf.so.3", "/usr/lib/arm-linux-gnueabihf/libstdc++.so.6"],
};

impl Item for Emulator {
    fn name(&self) -> &'static str {
        self.name
    }

    fn find(&self, _: &Machine) -> Result<String> {
        let version = command::run(Command::new(self.cross.emulator).arg("--version"))?;
        if let Some(library) = self.libraries.iter().find(|library| !Path::new(library).exists()) {
            bail!("no {library}");
        }
        Ok(version.lines().next().unwrap_or(self.cross.emulator).to_owned())
    }

    fn install(&self, machine: &mut Machine) -> Result<()> {
        let of = self.cross.debian;
        let [c, cxx] = [format!("libc6:{of}"), format!("libstdc++6:{of}")];
        machine.apt_install_of(of, &["qemu-user-static", &c, &cxx])
    }

    fn on_demand(&self) -> bool {
        *self.cross == ARMV7
    }

    fn need(&self, task: Task) -> Need {
        match task {
            Task::Test if *self.cross == AARCH64 => Need::Required,
            Task::Mixed(cross) if self.cross == cross => Need::Required,
            _ => Need::Unused,
        }
    }
}
