//! Progress on stderr: bars for a person, lines for a log file.

use super::{Phase, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How often a bar without steps turns.
const TICK: Duration = Duration::from_millis(120);

/// One bar per phase on a terminal, one line per phase elsewhere.
#[derive(Debug)]
pub struct Bars {
    terminal: bool,
    details: Details,
    bar: Mutex<ProgressBar>,
}

/// Whether details are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Details {
    #[default]
    Hidden,
    Shown,
}

impl Default for Bars {
    fn default() -> Self {
        Self::new(Details::Hidden)
    }
}

impl Bars {
    pub fn new(details: Details) -> Self {
        Self { terminal: std::io::stderr().is_terminal(), details, bar: Mutex::new(ProgressBar::hidden()) }
    }

    /// Removes the last bar from the screen.
    pub fn clear(&self) {
        self.with(ProgressBar::finish_and_clear);
    }

    fn with<T>(&self, f: impl FnOnce(&ProgressBar) -> T) -> T {
        f(&self.bar.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn line(&self, line: &str) {
        match self.terminal {
            true => self.with(|bar| bar.suspend(|| eprintln!("{line}"))),
            false => eprintln!("{line}"),
        }
    }
}

impl Progress for Bars {
    fn phase(&self, phase: Phase, steps: usize) {
        let title = match phase {
            Phase::Reading => "reading the model",
            Phase::Folding => "folding constants",
            Phase::Shapes => "learning shapes",
            Phase::Coding => "timing codecs",
            Phase::Loading => "loading parts",
            Phase::Timing => "timing parts",
            Phase::Writing => "writing stages",
            Phase::Calibrating => "trying lossy codecs",
            Phase::Checking => "checking all hops",
        };
        if !self.terminal {
            eprintln!("{title}");
            return;
        }
        self.clear();
        let template = if steps == 0 { "{spinner} {msg}" } else { "{msg:22} [{bar:40}] {pos}/{len}" };
        let bar = match steps {
            0 => ProgressBar::no_length(),
            steps => ProgressBar::new(steps as u64),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(title);
        bar.enable_steady_tick(TICK);
        *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = bar;
    }

    fn step(&self) {
        self.with(|bar| bar.inc(1));
    }

    fn note(&self, line: &str) {
        self.line(line);
    }

    fn detail(&self, line: &str) {
        if self.details == Details::Shown {
            self.line(line);
        }
    }

    fn warning(&self, line: &str) {
        self.line(&format!("warning: {line}"));
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.clear();
    }
}
