//! The engine that computes a stage fastest here: both run it once it is loaded, and the choice is remembered.

use super::choices::{Choices, Setting};
use super::loaded::{LoadError, Loaded, Loader, Wish};
use super::room::Need;
use crate::artifact::Digest;
use crate::cpu;
use crate::engine::{self, Engine};
use crate::memory;
use crate::sandbox::{RunError, SandboxError};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

/// Runs of each engine that are timed. The least counts: whatever else the machine does only adds.
const RUNS: usize = 7;
/// What they may take together, beyond one of each.
const TIME: Duration = Duration::from_secs(3);
/// How much less time the rival must take: what is within the noise changes nothing.
const MARGIN: f64 = 0.95;
/// Memory that the rival may take while it loads, in halves of the weights.
const HALVES: u64 = 5;
/// What share of the time for loading the first engine may have used, for the rival to be tried: it may take longer.
const SHARE: u32 = 10;

/// Another engine that stages may run on, where it is the faster one.
#[derive(Clone)]
pub struct Rival {
    engine: Arc<dyn Engine>,
    choices: Arc<Choices>,
}

impl Rival {
    /// The rival of `chosen` on `threads` threads, whose victories are kept in `state_dir`; `None` where this process has but
    /// one engine.
    pub fn of(chosen: &dyn Engine, threads: usize, state_dir: &Path) -> Option<Self> {
        let engine = engine::other(chosen)?;
        let setting = Setting::of(cpu::model(), threads, [chosen, engine.as_ref()]);
        Some(Self { engine, choices: Arc::new(Choices::open(state_dir, setting)) })
    }

    pub fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    /// Loads an artifact on the engine that is wished for, else on the one that was found fastest before, else on the one
    /// that is found so now. `loader` is for the first engine, which is taken where there is no room or time to try both.
    pub(super) fn load(&self, loader: &Loader, wish: &Wish, digest: Digest, path: &Path) -> Result<Loaded, LoadError> {
        let on = |engine: &Arc<dyn Engine>| Loader { engine: Arc::clone(engine), rival: None, ..loader.clone() };
        let both = [on(&loader.engine), on(&self.engine)];
        let called = |name: &str| both.iter().find(|loader| loader.engine.name() == name);
        if let Some(wished) = &wish.engine {
            match called(wished) {
                Some(loader) => return loader.load_into(wish, digest, path),
                None => tracing::warn!(%digest, engine = wished, "this node lacks the engine of the stage's replicas"),
            }
        }
        if let Some(loader) = self.choices.of(&digest).as_deref().and_then(called) {
            match loader.load_into(wish, digest, path) {
                Err(error) if is_of_engine(&error) => {
                    tracing::warn!(%digest, engine = loader.engine.name(), %error, "the engine chosen before fails now");
                }
                result => return result,
            }
        }
        let [first, second] = both;
        let won = match first.load_into(wish, digest, path) {
            Ok(loaded) => return Ok(self.challenge(loaded, &second, wish, path)),
            Err(error) if is_of_engine(&error) && second.engine.name() != first.engine.name() => {
                let neither =
                    |second: LoadError| LoadError::Neither { first: Box::new(error), second: Box::new(second) };
                second.load_into(wish, digest, path).map_err(neither)?
            }
            Err(error) => return Err(error),
        };
        tracing::info!(%digest, engine = won.engine(), "only this engine computes the stage");
        Ok(won)
    }

    /// The faster of `holder` and of what `second` loads, if that can be tried.
    fn challenge(&self, holder: Loaded, second: &Loader, wish: &Wish, path: &Path) -> Loaded {
        let digest = holder.digest;
        let has_time = holder.load_time < second.limits.load_time / SHARE;
        if second.engine.name() == holder.engine() || !has_time || !has_room(&holder, wish) {
            tracing::info!(%digest, engine = holder.engine(), "no room or time to measure another engine");
            return holder;
        }
        // Should the other engine take the process along, or all the time there is, then not again.
        self.choices.remember(digest, holder.engine());
        let winner = match load_aside(second, wish, digest, path) {
            Some(Ok(rival)) => faster(holder, rival),
            Some(Err(error)) => {
                tracing::info!(%digest, engine = second.engine.name(), %error, "an engine does not compute the stage");
                holder
            }
            None => {
                tracing::info!(%digest, engine = second.engine.name(), "an engine takes too long to load the stage");
                holder
            }
        };
        self.choices.remember(digest, winner.engine());
        winner
    }
}

/// Loads on a thread of its own, which is left alone where it takes more than half of the time that there is for loading: not
/// every engine can be stopped, and what the holder has loaded must not be lost to that.
fn load_aside(loader: &Loader, wish: &Wish, digest: Digest, path: &Path) -> Option<Result<Loaded, LoadError>> {
    let (tell, told) = sync_channel(1);
    let (patience, wish, path) = (loader.limits.load_time / 2, wish.clone(), path.to_owned());
    let loader = loader.clone();
    let load = move || {
        // Nobody listens any more where it took too long.
        let _ = tell.send(loader.load_into(&wish, digest, &path));
    };
    match thread::Builder::new().name("contest".to_owned()).spawn(load) {
        Ok(_) => told.recv_timeout(patience).ok(),
        Err(error) => Some(Err(LoadError::Thread(error))),
    }
}

/// Whether another engine might do better.
fn is_of_engine(error: &LoadError) -> bool {
    matches!(error, LoadError::Sandbox(SandboxError::Engine(_)) | LoadError::WarmUp(_) | LoadError::Mismatch { .. })
}

/// Whether the rival may be loaded beside `holder`.
fn has_room(holder: &Loaded, wish: &Wish) -> bool {
    let Need { weights, activations } = Need::of(&holder.artifact.manifest);
    let loading = (weights / 2).saturating_mul(HALVES).saturating_add(activations);
    // The limit's room is what there was before the first one was loaded, the machine's what is left now.
    let beside = loading.saturating_add(weights).saturating_add(holder.prepacked_bytes());
    wish.room.is_none_or(|room| room >= beside) && memory::available().is_none_or(|free| free >= loading)
}

/// Runs both by turns.
fn faster(holder: Loaded, rival: Loaded) -> Loaded {
    let (held, tried) = match race([&holder, &rival]) {
        Ok([held, tried]) => (held, tried),
        Err((at, error)) => {
            let (winner, loser) = if at == 0 { (rival, holder) } else { (holder, rival) };
            tracing::warn!(engine = loser.engine(), %error, "an engine computes a stage once, and not again");
            return winner;
        }
    };
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (holds, tries) = (holder.engine(), rival.engine());
    let winner = if tried.as_secs_f64() < held.as_secs_f64() * MARGIN { rival } else { holder };
    tracing::info!(
        digest = %winner.digest,
        engine = winner.engine(),
        "fastest: {holds} took {:.2} ms, {tries} {:.2} ms",
        ms(held),
        ms(tried)
    );
    winner
}

/// The least time that each takes for its warm-up's inputs; an error says whose it is.
fn race(both: [&Loaded; 2]) -> Result<[Duration; 2], (usize, RunError)> {
    let end = Instant::now() + TIME;
    let mut least = [Duration::MAX; 2];
    for _ in 0..RUNS {
        for (at, loaded) in both.iter().enumerate() {
            let took = loaded.rehearse(Instant::now() + loaded.limits().engine_time).map_err(|error| (at, error))?;
            least[at] = least[at].min(took);
        }
        if Instant::now() > end {
            break;
        }
    }
    Ok(least)
}
