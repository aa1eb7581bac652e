//! This machine: the cache directory, and what may be installed with its package manager.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf, absolute},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::command;

pub struct Machine {
    /// What set-up downloads and what is made from it; absolute.
    pub cache: PathBuf,
    package_lists_are_fresh: bool,
}

impl Machine {
    pub fn from_env() -> Result<Self> {
        let cache = cache_dir(|name| env::var_os(name).filter(|value| !value.is_empty()))
            .context("no cache directory: none of DEFER_CACHE, XDG_CACHE_HOME and HOME is set; set DEFER_CACHE")?;
        Ok(Self { cache: absolute(cache).context("cannot tell where the cache is")?, package_lists_are_fresh: false })
    }

    /// Installs Debian packages; where this process may not, the error is the command to run.
    pub fn apt_install(&mut self, packages: &[&str]) -> Result<()> {
        let install = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
        if !Path::new("/usr/bin/apt-get").exists() {
            bail!("install what your system has in place of the Debian packages {}", packages.join(" "));
        }
        if !is_root() {
            bail!("as root, run: apt-get update && {install}");
        }
        let mut stale = String::new();
        if !self.package_lists_are_fresh {
            // While a mirror takes over changes, some lists of packages do not come; what is wanted may stand in the others.
            match command::run(apt_get().arg("update")) {
                Ok(_) => self.package_lists_are_fresh = true,
                Err(error) => stale = format!(" (lists of packages are missing: {error:#})"),
            }
        }
        let arguments = install.split(' ').skip(1);
        command::run(apt_get().args(arguments)).with_context(|| format!("cannot install; run: {install}{stale}"))?;
        Ok(())
    }

    /// The same, with packages of another `architecture` among them.
    pub fn apt_install_of(&mut self, architecture: &str, packages: &[&str]) -> Result<()> {
        let add = ["--add-architecture", architecture];
        if is_root() && Path::new("/usr/bin/apt-get").exists() {
            command::run(Command::new("dpkg").args(add))?;
            self.package_lists_are_fresh = false;
        }
        self.apt_install(packages).with_context(|| format!("after `dpkg {}`", add.join(" ")))
    }
}

/// `DEFER_CACHE`, else `$XDG_CACHE_HOME/defer-host` (relative ones are ignored, as its specification wants), else
/// `$HOME/.cache/defer-host`.
fn cache_dir(var: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name| var(name).map(PathBuf::from);
    path("DEFER_CACHE")
        .or_else(|| path("XDG_CACHE_HOME").filter(|dir| dir.is_absolute()).map(|dir| dir.join("defer-host")))
        .or_else(|| path("HOME").map(|home| home.join(".cache/defer-host")))
}

fn apt_get() -> Command {
    let mut apt = Command::new("/usr/bin/apt-get");
    // Another apt may be running: wait for it rather than fail.
    apt.args(["-qq", "-o", "DPkg::Lock::Timeout=300"]).env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

/// The owner of a process's directory under /proc is its effective user.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_follows_the_environment_in_order() {
        type Vars = &'static [(&'static str, &'static str)];
        let cases: [(Vars, Option<&str>); 5] = [
            (&[("DEFER_CACHE", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")], Some("/a")),
            (&[("XDG_CACHE_HOME", "/b"), ("HOME", "/c")], Some("/b/defer-host")),
            (&[("XDG_CACHE_HOME", "b"), ("HOME", "/c")], Some("/c/.cache/defer-host")),
            (&[("HOME", "/c")], Some("/c/.cache/defer-host")),
            (&[], None),
        ];
        for (vars, want) in cases {
            let found = cache_dir(|name| {
                let set = vars.iter().find(|(key, _)| *key == name);
                set.map(|(_, value)| OsString::from(value))
            });
            assert_eq!(found.as_deref(), want.map(Path::new), "{vars:?}");
        }
    }
}
