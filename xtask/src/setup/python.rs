//! Python with pip: it fetches from PyPI, where it knows this machine's proxies, mirrors and certificates.

use std::process::Command;

use anyhow::{Context, Result};

use super::{Item, Machine, Need, Task, command};

/// The one in the PATH.
pub const PYTHON: &str = "python3";

/// Pip that says little and asks nothing.
pub const PIP: [&str; 5] = ["-m", "pip", "-qq", "--no-input", "--disable-pip-version-check"];

/// Debian ships the interpreter, pip and what venv needs in packages of their own.
const LOOK: &str = "\
import sys
try:
    import ensurepip, pip, venv
except ImportError as missing:
    sys.exit(missing)
print('%d.%d.%d' % sys.version_info[:3], 'with pip', pip.__version__)
";

pub struct Python;

impl Item for Python {
    fn name(&self) -> &'static str {
        "Python"
    }

    fn find(&self, _: &Machine) -> Result<String> {
        command::run(Command::new(PYTHON).args(["-c", LOOK]))
            .map(|version| version.trim().to_owned())
            .context("no Python 3 with pip and venv")
    }

    fn install(&self, machine: &mut Machine) -> Result<()> {
        machine.apt_install(&["python3", "python3-pip", "python3-venv"])
    }

    fn need(&self, task: Task) -> Need {
        match task {
            // Only models that come from PyPI, and the onnxruntime library when it is not in the cache yet.
            Task::Run => Need::Useful,
            Task::Test => Need::Required,
        }
    }
}
