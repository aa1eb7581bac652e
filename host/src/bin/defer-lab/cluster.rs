//! Real `defer-host` processes on this machine: started, waited for, stopped. No process outlives its [`Process`].
//!
//! Shared with the integration tests, which include this file by path and each use a part of it.
//!
//! Children stay in the process group of whoever starts them: Ctrl-C in a terminal reaches them too, even when this
//! process no longer can.
#![allow(dead_code)]

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Lines of a process's stderr that are kept.
const TAIL: usize = 60;
/// What a node opens, and a dispatcher.
pub const NODE_PORTS: [&str; 2] = ["rest", "relay"];
pub const DISPATCHER_PORTS: [&str; 2] = ["inference", "admin"];
/// Time for a node to be up.
pub const NODE_UP: Duration = Duration::from_secs(30);
/// Time for a dispatcher to ship and load a pipeline on a slow machine.
pub const DISPATCHER_UP: Duration = Duration::from_secs(300);
/// How long a process that was told to stop may take: more than its own default drain time.
const GRACE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(10);

/// `defer-host` beside the running program.
pub fn binary() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot tell where this program is")?;
    let binary = exe.with_file_name("defer-host");
    if !binary.is_file() {
        bail!("{} does not exist; build it with `cargo build --release -p defer-host --bins`", binary.display());
    }
    Ok(binary)
}

/// A child process. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    stdout: Receiver<String>,
    addresses: BTreeMap<String, String>,
    stderr: Arc<Mutex<VecDeque<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts `binary`; `envs` are added to this process's own environment.
    pub fn spawn<A: AsRef<OsStr>>(binary: &Path, args: &[A], envs: &[(&str, &str)]) -> Result<Self> {
        let command = args.first().map_or_else(String::new, |arg| format!(" {}", arg.as_ref().to_string_lossy()));
        let name = format!("{}{command}", binary.file_name().unwrap_or_default().to_string_lossy());
        Self::spawn_as(&name, binary, args, envs)
    }

    /// The same, for a process that messages shall call `name`.
    pub fn spawn_as<A: AsRef<OsStr>>(name: &str, binary: &Path, args: &[A], envs: &[(&str, &str)]) -> Result<Self> {
        let mut child = Command::new(binary)
            .args(args)
            .envs(envs.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let (sender, stdout) = channel();
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let tail = Arc::clone(&stderr);
        let out = child.stdout.take().expect("stdout is piped");
        let err = child.stderr.take().expect("stderr is piped");
        let readers = vec![
            // Nobody may listen any more; what the child says must be read all the same, or it blocks.
            thread::spawn(move || lines(out, |line| drop(sender.send(line)))),
            thread::spawn(move || {
                lines(err, |line| {
                    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
                    tail.push_back(line);
                    if tail.len() > TAIL {
                        tail.pop_front();
                    }
                });
            }),
        ];
        Ok(Self { name: name.to_owned(), child, stdout, addresses: BTreeMap::new(), stderr, readers })
    }

    /// Waits until the process has printed `listening <what> …` for each of `whats`.
    ///
    /// # Errors
    /// When it ends or `limit` passes before that, with the last lines of its stderr.
    pub fn wait_listening(&mut self, whats: &[&str], limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !self.is_listening(whats)? {
            if Instant::now() >= deadline {
                let (ports, limit) = (whats.join(" and "), limit.as_secs_f64());
                bail!("{} did not open {ports} within {limit} s{}", self.describe(), self.last_words());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Whether the process has printed `listening <what> …` for each of `whats` by now.
    ///
    /// # Errors
    /// When it has ended without that, with the last lines of its stderr.
    pub fn is_listening(&mut self, whats: &[&str]) -> Result<bool> {
        loop {
            if whats.iter().all(|what| self.addresses.contains_key(*what)) {
                return Ok(true);
            }
            match self.stdout.try_recv() {
                Ok(line) => {
                    let mut words = line.split_whitespace();
                    if let (Some("listening"), Some(what), Some(address)) = (words.next(), words.next(), words.next()) {
                        self.addresses.insert(what.to_owned(), address.to_owned());
                    }
                }
                Err(TryRecvError::Empty) => return Ok(false),
                Err(TryRecvError::Disconnected) => {
                    let how = self.wait_exit(GRACE).map_or_else(|| "closed its stdout".to_owned(), |s| s.to_string());
                    let ports = whats.join(" and ");
                    bail!("{} ended before it opened {ports} ({how}){}", self.describe(), self.last_words())
                }
            }
        }
    }

    /// The next line of its stdout that is no address, if it has printed one by now.
    pub fn line(&mut self) -> Option<String> {
        self.stdout.try_recv().ok().filter(|line| !line.starts_with("listening "))
    }

    /// The address that it printed for `what`: `rest` and `relay` of a node, `inference` and `admin` of a dispatcher.
    /// A URL, except for `relay`.
    pub fn address(&self, what: &str) -> &str {
        self.addresses.get(what).unwrap_or_else(|| panic!("{} printed no {what} address", self.name))
    }

    /// The last lines of its stderr.
    pub fn stderr_tail(&self) -> String {
        let tail = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().fold(String::new(), |mut text, line| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}");
            text
        })
    }

    /// Its command and process id, for messages.
    pub fn describe(&self) -> String {
        format!("{} (pid {})", self.name, self.child.id())
    }

    /// Its stderr, as the end of an error message.
    pub fn last_words(&self) -> String {
        let tail = self.stderr_tail();
        if tail.is_empty() { "; it wrote nothing to stderr".to_owned() } else { format!("; its last words:\n{tail}") }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended; `None` while it runs.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for it to end by itself, at most `limit`.
    pub fn wait_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.status() {
                Some(status) => {
                    // Its last words are then all there.
                    self.readers.drain(..).for_each(|reader| drop(reader.join()));
                    return Some(status);
                }
                None if Instant::now() >= deadline => return None,
                None => thread::sleep(POLL),
            }
        }
    }

    /// Sends SIGTERM and does not wait.
    pub fn ask_to_stop(&mut self) {
        // Only a child that was not waited for still owns its id.
        if self.status().is_none() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        }
    }

    /// Sends SIGTERM, waits, and kills it if that does not end it.
    pub fn terminate(&mut self) -> Option<ExitStatus> {
        self.ask_to_stop();
        self.wait_exit(GRACE).or_else(|| {
            self.kill();
            self.status()
        })
    }

    /// Sends SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.readers.drain(..).for_each(|reader| drop(reader.join()));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn lines(stream: impl Read, mut each: impl FnMut(String)) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        each(String::from_utf8_lossy(&line).trim_end().to_owned());
        line.clear();
    }
}

/// How to start a node.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    pub name: String,
    pub state_dir: PathBuf,
    /// Further flags of `defer-host serve`, other than its ports, name and state directory.
    pub extra_args: Vec<OsString>,
}

/// Starts a node on free loopback ports, without waiting for it.
pub fn spawn_node(binary: &Path, options: &NodeOptions) -> Result<Process> {
    let mut args: Vec<OsString> = ["serve", "--listen", "127.0.0.1:0", "--relay", "127.0.0.1:0", "--name"]
        .into_iter()
        .chain([options.name.as_str(), "--state-dir"])
        .map(OsString::from)
        .collect();
    args.push(options.state_dir.clone().into());
    args.extend_from_slice(&options.extra_args);
    let mut process = Process::spawn(binary, &args, &[])?;
    process.name = format!("node \"{}\"", options.name);
    Ok(process)
}

/// Starts a node on free loopback ports and waits until it is up.
pub fn start_node(binary: &Path, options: &NodeOptions) -> Result<Process> {
    let mut node = spawn_node(binary, options)?;
    node.wait_listening(&NODE_PORTS, NODE_UP)?;
    Ok(node)
}

/// Starts a dispatcher on free loopback ports, stage i on node i, without waiting for it.
pub fn spawn_dispatcher<A: AsRef<OsStr>>(
    binary: &Path,
    pipeline_dir: &Path,
    nodes: &[&Process],
    extra_args: &[A],
) -> Result<Process> {
    let mut args: Vec<OsString> = vec!["dispatch".into(), "--pipeline".into(), pipeline_dir.into()];
    args.extend(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--node"].map(OsString::from));
    args.extend(nodes.iter().map(|node| OsString::from(node.address("rest"))));
    args.extend(extra_args.iter().map(OsString::from));
    let mut process = Process::spawn(binary, &args, &[])?;
    process.name = "the dispatcher".to_owned();
    Ok(process)
}

/// Starts a dispatcher on free loopback ports, stage i on node i, and waits until the chain is up.
pub fn start_dispatcher<A: AsRef<OsStr>>(
    binary: &Path,
    pipeline_dir: &Path,
    nodes: &[&Process],
    extra_args: &[A],
) -> Result<Process> {
    let mut dispatcher = spawn_dispatcher(binary, pipeline_dir, nodes, extra_args)?;
    dispatcher.wait_listening(&DISPATCHER_PORTS, DISPATCHER_UP)?;
    Ok(dispatcher)
}
