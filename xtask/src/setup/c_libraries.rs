//! What builds the C and C++ libraries among the dependencies (zfp): a C++ compiler, CMake, and libclang, which reads their headers.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use super::{Item, Machine, Need, Task, command};

/// Folders in which the linker, and so libclang's loader, looks; Debian keeps libclang in one of LLVM's own.
const LIBRARY_DIRS: [&str; 5] =
    ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];

pub struct CLibraries;

impl Item for CLibraries {
    fn name(&self) -> &'static str {
        "C library tools"
    }

    fn find(&self, _: &Machine) -> Result<String> {
        command::run(Command::new("c++").arg("--version"))?;
        let cmake = command::run(Command::new("cmake").arg("--version"))?;
        if !has_libclang() {
            bail!("libclang is not installed");
        }
        Ok(format!("{}, libclang", cmake.lines().next().unwrap_or("cmake")))
    }

    fn install(&self, machine: &mut Machine) -> Result<()> {
        machine.apt_install(&["g++", "cmake", "make", "libclang-dev"])
    }

    fn need(&self, _: Task) -> Need {
        Need::Required
    }
}

fn has_libclang() -> bool {
    if let Some(path) = std::env::var_os("LIBCLANG_PATH") {
        return Path::new(&path).exists();
    }
    let llvm = fs::read_dir("/usr/lib").context("no /usr/lib").into_iter().flatten().flatten();
    let llvm = llvm
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("llvm")));
    LIBRARY_DIRS.iter().map(|dir| Path::new(dir).to_owned()).chain(llvm.map(|dir| dir.join("lib"))).any(|dir| {
        fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libclang.so") || name.starts_with("libclang-") && name.contains(".so")
        })
    })
}
