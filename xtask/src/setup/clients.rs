//! The tests' clients of the inference API, unmodified, in a virtual environment of their own.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use super::{Item, Machine, Need, Task, command, python};

/// numpy 2.2 is the last for Python 3.10.
const REQUIREMENTS: [&str; 4] = [
    "tritonclient[http]==2.73.0",
    "schemathesis==4.32.5",
    "numpy==2.2.6; python_version < '3.11'",
    "numpy==2.4.6; python_version >= '3.11'",
];

pub struct Clients;

impl Item for Clients {
    fn name(&self) -> &'static str {
        "test clients"
    }

    fn find(&self, machine: &Machine) -> Result<String> {
        let home = home(machine);
        let installed = fs::read_to_string(marker(machine)).unwrap_or_default();
        // The interpreter is a link, which dangles once its Python is gone.
        if installed != marks() || !home.join("bin/python").exists() {
            bail!("no {} and {} in {}", REQUIREMENTS[0], REQUIREMENTS[1], home.display());
        }
        Ok(home.join("bin/python").display().to_string())
    }

    fn install(&self, machine: &mut Machine) -> Result<()> {
        let home = home(machine);
        command::run(Command::new(python::PYTHON).args(["-m", "venv", "--clear"]).arg(&home))?;
        let interpreter = home.join("bin/python");
        command::run(
            Command::new(&interpreter).args(python::PIP).args(["install", "--only-binary=:all:"]).args(REQUIREMENTS),
        )
        .context("cannot install; check the network, or the index and proxy that pip is set up with")?;
        command::run(Command::new(&interpreter).args(["-c", "import numpy, schemathesis, tritonclient.http"]))?;
        // Last: a virtual environment that was interrupted half-way has no mark.
        fs::write(marker(machine), marks()).with_context(|| format!("cannot write {}", marker(machine).display()))
    }

    fn need(&self, task: Task) -> Need {
        match task {
            Task::Run => Need::Unused,
            Task::Test => Need::Required,
        }
    }
}

fn home(machine: &Machine) -> PathBuf {
    machine.cache.join("clients")
}

fn marker(machine: &Machine) -> PathBuf {
    home(machine).join("installed")
}

fn marks() -> String {
    REQUIREMENTS.join("\n")
}
