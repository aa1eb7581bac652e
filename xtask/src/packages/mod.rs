//! `cargo xtask dist`: packages of `defer-host` for one architecture.

mod contents;
mod glibc;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    cross::{AARCH64, ARMV7, Cross},
    setup::{self, Machine, command, onnxruntime},
    workspace::{cargo, root, seconds, target_dir},
};
use contents::Engine;

/// Builds defer-host for an architecture: a .tar.gz, a .deb, their SHA-256 and a bill of materials.
///
/// The programs run on Debian 12, Ubuntu 22.04 and Raspberry Pi OS (bookworm): the newest glibc that they ask for is checked.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask dist
  cargo xtask dist --all                                       every architecture, one after another
  cargo xtask dist --target aarch64-unknown-linux-gnu --out packages
  cargo xtask dist --target armv7-unknown-linux-gnueabihf      32-bit ARM: computes with tract, as there is no onnxruntime")]
pub struct Args {
    /// x86_64-unknown-linux-gnu, aarch64-unknown-linux-gnu or armv7-unknown-linux-gnueabihf [default: this machine's]
    #[arg(long, value_name = "T", value_parser = target)]
    target: Option<Target>,
    /// For all of these, one after another: on x86-64
    #[arg(long, conflicts_with = "target")]
    all: bool,
    /// Where the packages go [default: dist/packages]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The profile of what is packaged (`Cargo.toml`): smaller than `release`, and slower to build.
const PROFILE: &str = "dist";

/// An architecture that packages are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target {
    arch: &'static str,
    triple: &'static str,
    debian: &'static str,
    /// How it is built on other machines.
    cross: Option<&'static Cross>,
}

const TARGETS: [Target; 3] = [
    Target { arch: "x86_64", triple: "x86_64-unknown-linux-gnu", debian: "amd64", cross: None },
    Target { arch: "aarch64", triple: AARCH64.triple, debian: AARCH64.debian, cross: Some(&AARCH64) },
    Target { arch: "arm", triple: ARMV7.triple, debian: ARMV7.debian, cross: Some(&ARMV7) },
];

impl Target {
    /// How it is built on this machine: `None` as anything else is.
    fn cross_here(self) -> Result<Option<&'static Cross>> {
        match self.cross {
            _ if self.arch == env::consts::ARCH => Ok(None),
            None => bail!("{} is built on a machine of that kind only", self.triple),
            cross => Ok(cross),
        }
    }

    fn engine(self) -> Engine {
        if onnxruntime::exists_for(self.arch) { Engine::Onnxruntime } else { Engine::Tract }
    }
}

fn target(text: &str) -> Result<Target, String> {
    let known = TARGETS.map(|target| target.triple).join(", ");
    TARGETS.into_iter().find(|target| target.triple == text).ok_or_else(|| format!("there are {known}"))
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let out = args.out.clone().unwrap_or_else(|| root().join("dist/packages"));
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let out = out.canonicalize()?;
    let own = TARGETS.into_iter().find(|target| target.arch == env::consts::ARCH);
    let targets = match args.all {
        true => TARGETS.to_vec(),
        false => vec![args.target.or(own).context("name an architecture with --target")?],
    };
    // Before the first is built, which takes long.
    for target in &targets {
        setup::ensure(target.cross_here()?.map_or(setup::Task::Run, setup::Task::Cross))?;
    }
    for target in targets {
        package(target, &out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the program for `target` and writes its packages to `out`.
fn package(target: Target, out: &Path) -> Result<()> {
    let started = Instant::now();
    let program = build(target)?;
    let name = format!("defer-host-{}-{}", env!("CARGO_PKG_VERSION"), target.triple);
    let folder = out.join(&name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    strip(target, &program, &folder.join("defer-host"))?;
    let mut newest = glibc::check(&folder.join("defer-host"))?;
    if target.engine() == Engine::Onnxruntime {
        let library = onnxruntime::folder_for(&Machine::from_env()?, target.arch);
        copy(&library.join("libonnxruntime.so"), &folder)?;
        newest = newest.max(glibc::check(&folder.join("libonnxruntime.so"))?);
        fs::create_dir(folder.join("onnxruntime"))?;
        for file in ["LICENSE", "ThirdPartyNotices.txt"] {
            copy(&library.join(file), &folder.join("onnxruntime"))?;
        }
    }
    for file in ["README.md", "LICENSE-APACHE", "LICENSE-MIT", "packaging/defer-host.service"] {
        copy(&root().join(file), &folder)?;
    }
    let parts = contents::write(target.triple, target.engine(), &folder)?;
    let sbom = format!("{name}.cdx.json");
    fs::copy(folder.join("sbom.cdx.json"), out.join(&sbom)).with_context(|| format!("cannot write {sbom}"))?;

    let tar = format!("{name}.tar.gz");
    command::run(
        Command::new("tar")
            .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "-czf", &tar, &name])
            .current_dir(out),
    )?;
    let deb = debian(target, &folder, out)?;
    fs::remove_dir_all(&folder)?;
    let files = [tar, deb, sbom];
    let sums = command::run(Command::new("sha256sum").args(&files).current_dir(out))?;
    fs::write(out.join(format!("{name}.sha256")), &sums)?;
    print!("{sums}");
    eprintln!("{} in {}: glibc {newest} or newer, {parts} crates inside ({})", name, out.display(), seconds(started));
    Ok(())
}

fn build(target: Target) -> Result<PathBuf> {
    let Some(cross) = target.cross_here()? else {
        let program = ["-p", "defer-host", "--bin", "defer-host"];
        let status = cargo(&["build", "--profile", PROFILE, "--locked"]).args(program).status()?;
        if !status.success() {
            bail!("building defer-host failed, see above");
        }
        return Ok(target_dir()?.join(PROFILE).join("defer-host"));
    };
    cross.build(&root(), &target_dir()?, PROFILE, &[]).map_err(|error| anyhow!(error))
}

/// Copies the program without its symbols.
fn strip(target: Target, from: &Path, to: &Path) -> Result<()> {
    let tool = target.cross_here()?.map_or_else(|| "strip".to_owned(), |cross| format!("{}-strip", cross.tools));
    command::run(Command::new(tool).args(["--strip-all", "-o"]).arg(to).arg(from)).map(drop)
}

fn copy(file: &Path, folder: &Path) -> Result<()> {
    let name = file.file_name().context("a file has a name")?;
    fs::copy(file, folder.join(name)).with_context(|| format!("cannot copy {}", file.display())).map(drop)
}

/// Writes the .deb of what is in `folder`; its name.
fn debian(target: Target, folder: &Path, out: &Path) -> Result<String> {
    let version = env!("CARGO_PKG_VERSION");
    let tree = out.join(format!(".deb-{}", target.debian));
    let _ = fs::remove_dir_all(&tree);
    let [control, bin, library, units, documents] =
        ["DEBIAN", "usr/bin", "usr/lib/defer-host", "usr/lib/systemd/system", "usr/share/doc/defer-host"]
            .map(|part| tree.join(part));
    for folder in [&control, &bin, &library, &units, &documents] {
        fs::create_dir_all(folder)?;
    }
    // Nothing that the program itself is built of is C++.
    let mut depends = format!("libc6 (>= {}), libgcc-s1", glibc::OLDEST_SYSTEM);
    // The library lies beside the program, where it looks for it; the link leads there.
    copy(&folder.join("defer-host"), &library)?;
    if target.engine() == Engine::Onnxruntime {
        copy(&folder.join("libonnxruntime.so"), &library)?;
        for file in ["LICENSE", "ThirdPartyNotices.txt"] {
            fs::copy(folder.join("onnxruntime").join(file), documents.join(format!("onnxruntime-{file}")))?;
        }
        depends += ", libstdc++6";
    }
    std::os::unix::fs::symlink("../lib/defer-host/defer-host", bin.join("defer-host"))?;
    copy(&folder.join("defer-host.service"), &units)?;
    for file in ["README.md", "LICENSE-APACHE", "LICENSE-MIT", "THIRD-PARTY.txt", "sbom.cdx.json"] {
        copy(&folder.join(file), &documents)?;
    }
    fs::write(
        control.join("control"),
        format!(
            "Package: defer-host\nVersion: {version}\nArchitecture: {}\nMaintainer: defer-host <defer-host@localhost>\n\
             Section: science\nPriority: optional\nDepends: {depends}\n\
             Description: one neural network over many small computers\n \
             Runs stages of an ONNX network as sandboxed WebAssembly components and relays\n their results to the next machine.\n",
            target.debian,
        ),
    )?;
    let deb = format!("defer-host_{version}_{}.deb", target.debian);
    command::run(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&tree).arg(out.join(&deb)))?;
    fs::remove_dir_all(&tree)?;
    Ok(deb)
}
