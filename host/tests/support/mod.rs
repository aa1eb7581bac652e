//! What the tests with real processes share.
#![allow(dead_code)] // each test program uses a part of it

#[path = "../../src/bin/defer-lab/cluster.rs"]
pub mod cluster;
#[path = "../../src/bin/defer-lab/soak/gate.rs"]
pub mod gate;
#[path = "../../../xtask/src/outer_build.rs"]
pub mod outer_build;

pub mod chain;
pub mod emulated;
pub mod guests;
pub mod hand;
pub mod hostile;
pub mod http;
pub mod networks;
pub mod raw;
pub mod trial;
pub mod watch;
pub mod wire;

use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

/// The program under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_defer-host");

/// Far longer than anything takes: a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Runs one command to its end.
pub fn run(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).output().expect("the program starts")
}

/// Sends a signal to the process `pid`.
pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process's id");
    kill_process(pid, signal).expect("it is there");
}

/// Standard error of a command that has ended.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An empty folder under cargo's for tests, by a name that no other test uses.
pub fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("cargo's folder for tests can be written");
    folder
}

/// Asks again and again until there is an answer.
pub fn poll<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "{what} did not come about in {} s", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(20));
    }
}
