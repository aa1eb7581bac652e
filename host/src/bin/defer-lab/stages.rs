//! Cuts the network, by `defer-host build-stages` in a process of its own.

use crate::subject::Subject;
use crate::usage;
use anyhow::{Context as _, Result, bail};
use defer_host::accuracy::Budget;
use defer_host::pipeline::Pipeline;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How often the process is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes `count` stages of `subject`, cut for `engine`, with `lossy` codecs within a budget, to `folder`; its progress bars appear on this process's stderr.
pub async fn build(
    binary: &Path,
    subject: &Subject,
    (count, engine): (usize, &str),
    dims: &[(String, usize)],
    lossy: Option<Budget>,
    folder: &Path,
) -> Result<Pipeline> {
    let mut flags: Vec<OsString> = vec!["--stages".into(), count.to_string().into()];
    for (name, size) in dims {
        flags.extend(["--dim".into(), format!("{name}={size}").into()]);
    }
    if let Some(budget) = lossy {
        flags.extend(["--allow-lossy".into(), budget.to_string().into()]);
    }
    run(binary, subject, engine, &flags, folder).await
}

/// Cuts as `flags` of `build-stages` say.
pub async fn run(
    binary: &Path,
    subject: &Subject,
    engine: &str,
    flags: &[OsString],
    folder: &Path,
) -> Result<Pipeline> {
    let started = Instant::now();
    let mut command = Command::new(binary);
    command.args(["build-stages", "--model", &subject.argument]).args(flags);
    command.args(["--engine", engine, "--out"]).arg(folder);
    // Its table is left out: what it expects of the stages is no news beside what is measured soon.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
    let mut child = Running(child);
    let status = loop {
        match child.0.try_wait()? {
            Some(status) => break status,
            None => tokio::time::sleep(POLL).await,
        }
    };
    match status.code() {
        Some(0) => {}
        Some(2) => return Err(usage("build-stages refused this, see above")),
        _ => bail!("build-stages failed ({status}), see above"),
    }
    let pipeline = Pipeline::read(folder).context("build-stages wrote something else than a pipeline")?;
    eprintln!(
        "{} stages cut; the slowest is expected to take {:.1} ms ({:.1} s)",
        pipeline.stages.len(),
        pipeline.plan.bottleneck_ms,
        started.elapsed().as_secs_f64()
    );
    Ok(pipeline)
}
