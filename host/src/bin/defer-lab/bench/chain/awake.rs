//! Keeps this machine's processors from falling asleep. A node with a fifth of a processor computes for 2 ms in 10; where
//! nobody else does meanwhile, a virtual processor is halted, and begins again with cold caches and a slow clock: the same
//! inference then takes up to 1.3 times the CPU time (README, Predictions), and a lone node looks slower than one of eight.

use anyhow::{Context as _, Result};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Spins on every processor, whenever nobody wants it, until it is dropped.
pub struct Awake(Arc<AtomicBool>);

impl Awake {
    /// # Errors
    /// Where threads cannot be told to run only on processors that are idle: they would be in the way.
    pub fn keep() -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let awake = Self(Arc::clone(&over));
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let (over, (tell, told)) = (Arc::clone(&over), std::sync::mpsc::channel());
            let spin = move || {
                let idle = only_when_idle();
                let goes_on = idle.is_ok();
                // Whoever asked waits for it.
                let _ = tell.send(idle);
                while goes_on && !over.load(Ordering::Relaxed) {
                    (0..10_000).for_each(|_| std::hint::spin_loop());
                }
            };
            thread::Builder::new().name("awake".to_owned()).spawn(spin).context("no thread to spin on")?;
            told.recv().context("a thread ended at once")??;
        }
        Ok(awake)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Gives the calling thread the policy `SCHED_IDLE`.
fn only_when_idle() -> Result<()> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let status = Command::new("chrt").args(["--idle", "--pid", "0", &thread]).stdout(Stdio::null()).status();
    let status = status.context("cannot run chrt (package util-linux)")?;
    anyhow::ensure!(status.success(), "chrt cannot make a thread wait for an idle processor");
    Ok(())
}
