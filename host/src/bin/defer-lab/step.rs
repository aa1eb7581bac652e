//! One step of a longer task, on stderr: a bar or a spinner on a terminal, and one line when it is done.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(120);

pub struct Step {
    bar: ProgressBar,
    started: Instant,
}

impl Step {
    /// A step of unknown length.
    pub fn spinner(title: &str) -> Self {
        Self::new(ProgressBar::no_length(), "{spinner} {msg} {elapsed}", title)
    }

    /// A step of `steps` parts.
    pub fn bar(title: &str, steps: u64) -> Self {
        Self::new(ProgressBar::new(steps), "{msg:28} [{bar:30}] {pos}/{len}", title)
    }

    /// A step that shows its progress itself.
    pub fn quiet() -> Self {
        Self { bar: ProgressBar::hidden(), started: Instant::now() }
    }

    fn new(bar: ProgressBar, template: &str, title: &str) -> Self {
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(title.to_owned());
        bar.enable_steady_tick(TICK);
        Self { bar, started: Instant::now() }
    }

    /// For work on another thread to count its parts on.
    pub fn handle(&self) -> ProgressBar {
        self.bar.clone()
    }

    pub fn inc(&self) {
        self.bar.inc(1);
    }

    /// Something that a person may want to know, in one line.
    pub fn note(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Says what has come of it, and how long it took.
    pub fn done(self, what: &str) {
        self.bar.finish_and_clear();
        eprintln!("{what} ({:.1} s)", self.started.elapsed().as_secs_f64());
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
