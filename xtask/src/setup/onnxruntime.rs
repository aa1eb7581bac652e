//! The onnxruntime library, out of the PyPI wheel, into the cache, where `defer-host` looks for it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
};

use anyhow::{Context, Result, bail};

use super::{Item, Machine, Need, Task, command, python};
use crate::cross::AARCH64;

pub const VERSION: &str = "1.24.4";

/// The library is the same in every Python's wheel; naming one makes pip's choice independent of this machine's Python.
const WHEEL_PYTHON: &str = "3.12";

/// Copies the library and its licences out of the wheel in argv[1] into argv[2], if its SHA-256 is argv[4].
const EXTRACT: &str = "\
import glob, hashlib, os, sys, zipfile
folder, out, member, want = sys.argv[1:]
with zipfile.ZipFile(glob.glob(os.path.join(folder, '*.whl'))[0]) as wheel:
    data = wheel.read(member)
    got = hashlib.sha256(data).hexdigest()
    if got != want:
        sys.exit(f'{member} has SHA-256 {got}, expected {want}')
    files = {'libonnxruntime.so': data}
    for name in ('LICENSE', 'ThirdPartyNotices.txt'):
        files[name] = wheel.read('onnxruntime/' + name)
for name, data in files.items():
    with open(os.path.join(out, name), 'wb') as file:
        file.write(data)
";

/// A wheel's platform and the digest of the library in it.
#[derive(Debug)]
struct Build {
    platform: &'static str,
    sha256: &'static str,
}

fn build_for(arch: &str) -> Option<Build> {
    match arch {
        "x86_64" => Some(Build {
            platform: "manylinux_2_28_x86_64",
            sha256: "2d518e11c7767f9fdc4413bdbeb45acf30db504ff76a82fc19d9238a3f9f6c24",
        }),
        "aarch64" => Some(Build {
            platform: "manylinux_2_28_aarch64",
            sha256: "f373ae5fd4d878ed17ebea26e5480bd3d0a15e3bd6bc94b878e6c1b73998d22a",
        }),
        _ => None,
    }
}

/// For this machine's architecture.
pub struct Onnxruntime;

/// For aarch64, on a machine that is none: what runs in emulation loads it.
pub struct ForAarch64;

impl Item for ForAarch64 {
    fn name(&self) -> &'static str {
        "for aarch64"
    }

    fn find(&self, machine: &Machine) -> Result<String> {
        let library = folder_for(machine, "aarch64").join("libonnxruntime.so");
        if !library.is_file() {
            bail!("no onnxruntime {VERSION} for aarch64 in the cache");
        }
        Ok(library.display().to_string())
    }

    fn install(&self, machine: &mut Machine) -> Result<()> {
        install("aarch64", &folder_for(machine, "aarch64"))
    }

    fn need(&self, task: Task) -> Need {
        match task {
            Task::Test => Need::Required,
            Task::Cross(cross) | Task::Mixed(cross) if *cross == AARCH64 => Need::Required,
            Task::Run | Task::Compare | Task::Bed | Task::Peers | Task::Cross(_) | Task::Mixed(_) => Need::Unused,
        }
    }
}

impl Item for Onnxruntime {
    fn name(&self) -> &'static str {
        "onnxruntime"
    }

    fn find(&self, machine: &Machine) -> Result<String> {
        // The user's own library comes before the cache's, here as in `defer-host`.
        if let Some(own) = env::var_os("ORT_DYLIB_PATH").filter(|path| Path::new(path).is_file()) {
            return Ok(format!("{} (ORT_DYLIB_PATH)", own.display()));
        }
        let library = folder(machine).join("libonnxruntime.so");
        if !library.is_file() {
            bail!("no onnxruntime {VERSION} in the cache");
        }
        Ok(library.display().to_string())
    }

    fn install(&self, machine: &mut Machine) -> Result<()> {
        install(env::consts::ARCH, &folder(machine))
    }

    fn need(&self, _: Task) -> Need {
        Need::Required
    }
}

fn folder(machine: &Machine) -> PathBuf {
    machine.cache.join("onnxruntime").join(VERSION)
}

/// Whether there is a library for `arch`.
pub fn exists_for(arch: &str) -> bool {
    build_for(arch).is_some()
}

/// Where the library for `arch` lies; that for this machine where the engine looks.
pub fn folder_for(machine: &Machine, arch: &str) -> PathBuf {
    if arch == env::consts::ARCH {
        return folder(machine);
    }
    machine.cache.join("onnxruntime").join(arch).join(VERSION)
}

fn install(arch: &str, folder: &Path) -> Result<()> {
    let build = build_for(arch).with_context(|| {
        format!("no onnxruntime wheel is known for {arch}; set ORT_DYLIB_PATH to a library of version {VERSION}")
    })?;
    let versions = folder.parent().expect("a version lies in a folder");
    let temporary = versions.join(format!(".{VERSION}-{}", process::id()));
    let done = fetch(&build, &temporary).and_then(|()| replace(&temporary, folder));
    // Gone when it was renamed; half a library when something failed.
    let _ = fs::remove_dir_all(&temporary);
    done
}

fn fetch(build: &Build, temporary: &Path) -> Result<()> {
    let wheel = temporary.join("wheel");
    fs::create_dir_all(&wheel).with_context(|| format!("cannot create {}", wheel.display()))?;
    command::run(
        Command::new(python::PYTHON)
            .args(python::PIP)
            .args(["download", "--no-deps", "--only-binary=:all:"])
            .args(["--implementation", "cp", "--python-version", WHEEL_PYTHON])
            .args(["--platform", build.platform, "--dest"])
            .arg(&wheel)
            .arg(format!("onnxruntime=={VERSION}")),
    )
    .context("cannot download onnxruntime; check the network, or the index and proxy that pip is set up with")?;
    command::run(
        Command::new(python::PYTHON)
            .args(["-c", EXTRACT])
            .args([&wheel, &temporary.to_path_buf()])
            .arg(format!("onnxruntime/capi/libonnxruntime.so.{VERSION}"))
            .arg(build.sha256),
    )
    .context("cannot take the library out of the wheel")?;
    fs::remove_dir_all(&wheel).with_context(|| format!("cannot remove {}", wheel.display()))
}

/// As a whole or not at all, so that nobody loads half a library.
fn replace(temporary: &Path, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::rename(temporary, folder).with_context(|| format!("cannot create {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_supported_architecture_has_its_own_wheel_and_digest() {
        for arch in ["x86_64", "aarch64"] {
            let build = build_for(arch).unwrap();
            assert!(build.platform.ends_with(arch), "{build:?}");
            assert_eq!(build.sha256.len(), 64, "{build:?}");
        }
        assert!(build_for("riscv64").is_none());
    }
}
