//! Which engine was found fastest for which artifact, on disk, so that it is measured once.

use crate::artifact::Digest;
use crate::durable;
use crate::engine::Engine;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Artifacts that are remembered; the oldest go first.
const ARTIFACTS: usize = 1024;

/// What a choice holds for: with another processor, other engines or other threads, another engine may be the fastest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Setting {
    cpu: Option<String>,
    threads: usize,
    /// Names and versions.
    engines: Vec<(String, String)>,
}

impl Setting {
    pub fn of(cpu: Option<String>, threads: usize, engines: [&dyn Engine; 2]) -> Self {
        let engines = engines.map(|engine| (engine.name().to_owned(), engine.version())).to_vec();
        Self { cpu, threads, engines }
    }
}

/// Choices of engines.
#[derive(Debug)]
pub struct Choices {
    path: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    setting: Setting,
    /// The oldest first.
    chosen: VecDeque<(Digest, String)>,
}

impl Choices {
    /// Those of `state_dir` that hold for `setting`; none where they cannot be read.
    pub(super) fn open(state_dir: &Path, setting: Setting) -> Self {
        let path = state_dir.join("engines.json");
        let read: Option<Kept> = fs::read(&path).ok().and_then(|json| {
            let warn = |error: &serde_json::Error| {
                tracing::warn!(path = %path.display(), %error, "cannot tell which engines were chosen; they are measured again");
            };
            serde_json::from_slice(&json).inspect_err(warn).ok()
        });
        let kept = read.filter(|kept| kept.setting == setting);
        Self { path, kept: Mutex::new(kept.unwrap_or_else(|| Kept { setting, chosen: VecDeque::new() })) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Name of the engine that was chosen for `artifact`.
    pub fn of(&self, artifact: &Digest) -> Option<String> {
        self.kept().chosen.iter().find(|(digest, _)| digest == artifact).map(|(_, engine)| engine.clone())
    }

    pub fn remember(&self, artifact: Digest, engine: &str) {
        let mut kept = self.kept();
        kept.chosen.retain(|(digest, _)| *digest != artifact);
        kept.chosen.push_back((artifact, engine.to_owned()));
        while kept.chosen.len() > ARTIFACTS {
            kept.chosen.pop_front();
        }
        if let Err(error) = durable::write(&self.path, &*kept) {
            tracing::warn!(path = %self.path.display(), %error, "cannot note which engine was chosen");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(cpu: &str, threads: usize) -> Setting {
        let engines = vec![("onnxruntime".to_owned(), "1.22".to_owned()), ("tract".to_owned(), "0.22".to_owned())];
        Setting { cpu: Some(cpu.to_owned()), threads, engines }
    }

    fn digest(n: usize) -> Digest {
        format!("{n:064x}").parse().unwrap()
    }

    #[test]
    fn a_choice_outlives_the_process_but_not_a_change_of_what_it_was_measured_on() {
        let folder = tempfile::tempdir().unwrap();
        let choices = Choices::open(folder.path(), setting("Pi 4", 4));
        assert_eq!(choices.of(&digest(1)), None);
        choices.remember(digest(1), "onnxruntime");
        choices.remember(digest(1), "tract");
        choices.remember(digest(2), "onnxruntime");
        let again = Choices::open(folder.path(), setting("Pi 4", 4));
        assert_eq!(again.of(&digest(1)).as_deref(), Some("tract"));
        assert_eq!(again.of(&digest(2)).as_deref(), Some("onnxruntime"));
        for other in [setting("Pi 5", 4), setting("Pi 4", 1)] {
            assert_eq!(Choices::open(folder.path(), other).of(&digest(1)), None);
        }
    }

    #[test]
    fn a_torn_file_is_none_and_the_oldest_choices_go() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("engines.json"), b"{\"setting\":").unwrap();
        let choices = Choices::open(folder.path(), setting("Pi 4", 4));
        for n in 0..=ARTIFACTS {
            choices.kept().chosen.push_back((digest(n), "tract".to_owned()));
        }
        choices.remember(digest(7), "onnxruntime");
        assert_eq!(choices.kept().chosen.len(), ARTIFACTS);
        assert_eq!((choices.of(&digest(0)), choices.of(&digest(7)).as_deref()), (None, Some("onnxruntime")));
    }
}
