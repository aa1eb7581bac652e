//! Programs that set-up runs: their output is shown only when they fail.

use std::{
    io::ErrorKind,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Lines of a failed program's output that the error repeats.
const TAIL: usize = 6;

/// How often a program with a time limit is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Runs it to its end and returns its stdout; an error holds the last lines that it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let name = name(command);
    let output = command.stdin(Stdio::null()).output().map_err(|error| absent(error, &name))?;
    judge(&name, &output)
}

/// The same, but it is ended after `limit`. For programs that print less than a pipe holds (64 KiB).
pub fn run_within(limit: Duration, command: &mut Command) -> Result<String> {
    let name = name(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| absent(error, &name))?;
    let end = Instant::now() + limit;
    while child.try_wait().with_context(|| name.clone())?.is_none() {
        if Instant::now() >= end {
            child.kill().with_context(|| format!("cannot stop {name}"))?;
            child.wait().with_context(|| name.clone())?;
            bail!("{name} did not finish within {} s", limit.as_secs());
        }
        thread::sleep(POLL);
    }
    let output = child.wait_with_output().with_context(|| name.clone())?;
    judge(&name, &output)
}

fn judge(name: &str, output: &Output) -> Result<String> {
    if !output.status.success() {
        let said = tail(&output.stderr).or_else(|| tail(&output.stdout));
        let said = said.map_or(String::new(), |said| format!(": {said}"));
        bail!("{name} failed ({}){said}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn absent(error: std::io::Error, name: &str) -> anyhow::Error {
    match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!("{name} is not installed"),
        _ => anyhow::Error::new(error).context(format!("cannot run {name}")),
    }
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// The last lines, without blank ones.
fn tail(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(TAIL)..)?;
    (!last.is_empty()).then(|| last.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut sh = Command::new("sh");
        sh.args(["-c", script]);
        sh
    }

    #[test]
    fn a_failure_repeats_the_end_of_what_was_printed() {
        let error = run(&mut shell("seq 100 >&2; exit 3")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("95\n96\n97\n98\n99\n100"), "{text}");
        assert!(!text.contains("94"), "{text}");
        assert!(text.contains('3'), "{text}");
    }

    #[test]
    fn a_program_that_hangs_is_ended_in_time() {
        let started = Instant::now();
        let limit = Duration::from_millis(200);
        let error = run_within(limit, &mut shell("exec sleep 60")).unwrap_err();
        assert!(error.to_string().contains("did not finish"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(30));
        assert_eq!(run_within(limit, &mut shell("echo ok")).unwrap(), "ok\n");
    }

    #[test]
    fn an_absent_program_is_named() {
        let error = run(&mut Command::new("no-such-program")).unwrap_err();
        assert_eq!(error.to_string(), "no-such-program is not installed");
    }
}
