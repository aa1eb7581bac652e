//! Python with pip: it fetches from PyPI, where it knows this machine's proxies, mirrors and certificates.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use super::{Item, Machine, Need, Task, command};

/// The one in the PATH.
pub const PYTHON: &str = "python3";

/// Pip that says little and asks nothing.
pub const PIP: [&str; 5] = ["-m", "pip", "-qq", "--no-input", "--disable-pip-version-check"];

/// What an environment holds once all of it is installed.
const MARK: &str = "installed";

/// Debian ships the interpreter, pip and what venv needs in packages of their own.
const LOOK: &str = "\
import sys
try:
    import ensurepip, pip, venv
except ImportError as missing:
    sys.exit(missing)
print('%d.%d.%d' % sys.version_info[:3], 'with pip', pip.__version__)
";

/// numpy 2.2 is the last for Python 3.10.
pub const NUMPY: [&str; 2] = ["numpy==2.2.6; python_version < '3.11'", "numpy==2.4.6; python_version >= '3.11'"];

/// Packages of the index in a virtual environment of their own, in the cache.
pub struct Environment {
    /// Its folder in the cache.
    pub folder: &'static str,
    pub requirements: &'static [&'static str],
    /// Modules that must load once all is installed, as `import` takes them.
    pub imports: &'static str,
}

impl Environment {
    /// Its interpreter, if all is installed.
    pub fn find(&self, machine: &Machine) -> Result<String> {
        let home = self.home(machine);
        let installed = fs::read_to_string(home.join(MARK)).unwrap_or_default();
        // The interpreter is a link, which dangles once its Python is gone.
        if installed != self.mark() || !home.join("bin/python").exists() {
            bail!("not all of {} in {}", self.requirements.join(", "), home.display());
        }
        Ok(home.join("bin/python").display().to_string())
    }

    pub fn install(&self, machine: &Machine) -> Result<()> {
        let home = self.home(machine);
        command::run(Command::new(PYTHON).args(["-m", "venv", "--clear"]).arg(&home))?;
        let interpreter = home.join("bin/python");
        command::run(
            Command::new(&interpreter).args(PIP).args(["install", "--only-binary=:all:"]).args(self.requirements),
        )
        .context("cannot install; check the network, or the index and proxy that pip is set up with")?;
        command::run(Command::new(&interpreter).args(["-c", &format!("import {}", self.imports)]))?;
        // Last: a virtual environment that was interrupted half-way has no mark.
        let mark = home.join(MARK);
        fs::write(&mark, self.mark()).with_context(|| format!("cannot write {}", mark.display()))
    }

    fn home(&self, machine: &Machine) -> PathBuf {
        machine.cache.join(self.folder)
    }

    fn mark(&self) -> String {
        self.requirements.join("\n")
    }
}

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
            _ => Need::Required,
        }
    }
}
