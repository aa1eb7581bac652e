//! What a chain is compared with: one node alone, as many with the whole network each, and other systems.

use super::group::Group;
use super::peers;
use super::report::Row;
use super::systems::Bench;
use crate::bench::alone::Alone;
use crate::cluster::Process;
use crate::step::Step;
use anyhow::{Context as _, Result};
use rustix::fs::{Advice, fadvise};
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A program that imports large libraries, with a share of a CPU, takes its time.
const ALONE_UP: Duration = Duration::from_secs(300);

impl Bench<'_> {
    /// One node with the whole network: the engine in a loop.
    pub(super) async fn alone(&mut self, engine: &str) -> Result<()> {
        let commands = [self.alone_command(engine, 0)?];
        self.rival(&format!("{engine} alone"), self.row("engine-alone", 1), engine, &commands).await
    }

    /// As many nodes, each with the whole network.
    pub(super) async fn replicas(&mut self, engine: &str, nodes: u8) -> Result<()> {
        let commands = (0..nodes).map(|index| self.alone_command(engine, index)).collect::<Result<Vec<_>>>()?;
        let row = Row { replicas: nodes, ..self.row("replicas", nodes) };
        self.rival(&format!("{engine}, {nodes} replicas"), row, engine, &commands).await
    }

    pub(super) async fn onnxruntime_alone(&mut self) -> Result<()> {
        let command = peers::onnxruntime(self.folder.path(), &self.subject, self.args.seconds)?;
        let row = self.row("onnxruntime-alone", 1);
        self.rival("ONNX Runtime in Python alone", row, "onnxruntime", &[command]).await
    }

    /// Runs `commands` and makes a row of what they print.
    async fn rival(&mut self, about: &str, row: Row, engine: &str, commands: &[Vec<OsString>]) -> Result<()> {
        let step = Step::spinner(about);
        match (self.run_alone(commands).await, self.args.memory_mb) {
            (Ok(alone), _) => {
                let row = alone_row(row, engine, &alone);
                step.done(&format!("{about}: {:.2} per second", row.throughput_rps));
                self.rows.push(row);
            }
            // The kernel ends what needs more than its group may have: a result too.
            (Err(error), Some(mb)) => step.done(&format!("{about} did not run within {mb} MiB: {error:#}")),
            (Err(error), None) => return Err(error),
        }
        Ok(())
    }

    pub(super) async fn defer_method(&mut self) -> Result<()> {
        let args = self.args;
        // What its own engine does alone, to which its rows are related: one node, on an unshaped link.
        self.defer_method_once(1, None, "raw").await?;
        for &nodes in args.nodes.iter().filter(|nodes| **nodes > 1) {
            for &mbit in &args.link_mbit {
                for codec in ["zfp+lz4", "zfp3d+lz4", "raw"] {
                    self.defer_method_once(nodes, Some(mbit), codec).await?;
                }
            }
        }
        Ok(())
    }

    async fn defer_method_once(&mut self, nodes: u8, link_mbit: Option<u32>, codec: &str) -> Result<()> {
        let rate = link_mbit.map_or_else(|| "no limit".to_owned(), |mbit| format!("{mbit} Mbit/s"));
        let about = format!("DEFER's method, {nodes} nodes, {rate}, {codec}");
        let step = Step::spinner(&about);
        let mut hosts = Vec::new();
        for index in 0..nodes {
            hosts.push(self.bed.host(&format!("defer-{index}"), link_mbit, self.share())?);
        }
        let run = peers::defer_method(self.folder.path(), &hosts, self.args, codec).await?;
        let row = Row { link_mbit, stages: nodes, ..run.row(self.row("defer-method", nodes)) };
        step.done(&format!("{about}: {:.2} per second", row.throughput_rps));
        self.rows.push(row);
        Ok(())
    }

    /// Folder of the network as one stage.
    pub(super) fn whole(&self, engine: &str) -> PathBuf {
        self.folder.path().join(format!("{engine}-whole"))
    }

    fn alone_command(&self, engine: &str, index: u8) -> Result<Vec<OsString>> {
        let exe = std::env::current_exe().context("cannot tell where this program is")?;
        let whole = self.whole(engine);
        let pipeline = match self.args.memory_mb {
            Some(_) => own_copy(&whole, &self.folder.path().join(format!("{engine}-whole-{index}")))?,
            None => whole,
        };
        let seconds = self.args.seconds.to_string();
        let flags = ["bench", "alone", "--model", &self.subject.argument, "--engine", engine, "--seconds", &seconds];
        let mut command: Vec<OsString> = std::iter::once(exe.into()).chain(flags.map(OsString::from)).collect();
        command.extend(["--pipeline".into(), pipeline.into()]);
        Ok(command)
    }

    /// Runs each of `commands` in a group of its own, all at once, and reads what they print.
    async fn run_alone(&self, commands: &[Vec<OsString>]) -> Result<Vec<Alone>> {
        let mut running = Vec::new();
        for (index, command) in commands.iter().enumerate() {
            let group = Group::new(&self.bed.name_of(&format!("alone-{index}")), self.share())?;
            let mut line = group.enter();
            line.extend_from_slice(command);
            running.push((Process::spawn_as(&format!("alone {index}"), Path::new("sh"), &line, &[])?, group));
        }
        let mut results = Vec::new();
        let limit = ALONE_UP + Duration::from_secs_f64(self.args.seconds);
        for (process, _group) in &mut running {
            results.push(peers::result(process, limit).await?);
        }
        Ok(results)
    }
}

/// Copies the files of `from` into `to`, unless that was done before, and has the kernel forget what they hold: pages of files
/// count as the memory of the group that reads them first, which must be the one that is measured, and no other's.
fn own_copy(from: &Path, to: &Path) -> Result<PathBuf> {
    let about = || format!("cannot copy {} to {}", from.display(), to.display());
    fs::create_dir_all(to).with_context(about)?;
    for entry in fs::read_dir(from).with_context(about)? {
        let entry = entry.with_context(about)?;
        let copy = to.join(entry.file_name());
        if !copy.exists() {
            fs::copy(entry.path(), &copy).with_context(about)?;
        }
        let file = File::open(&copy).with_context(about)?;
        file.sync_all().with_context(about)?;
        fadvise(&file, 0, None, Advice::DontNeed).with_context(about)?;
    }
    Ok(to.to_owned())
}

fn alone_row(row: Row, engine: &str, alone: &[Alone]) -> Row {
    let most = |of: fn(&Alone) -> f64| alone.iter().map(of).fold(0.0, f64::max);
    Row {
        engine: engine.to_owned(),
        stages: 1,
        throughput_rps: alone.iter().map(|one| one.inferences as f64 / one.seconds).sum(),
        cpu_ms_per_inference_max_node: most(|one| one.cpu_ms_per_inference),
        p50_ms: most(|one| one.p50_ms),
        p99_ms: most(|one| one.p99_ms),
        peak_memory_mb: most(|one| one.peak_memory_mb),
        major_faults_per_inference: most(|one| one.major_faults_per_inference),
        ..row
    }
}
