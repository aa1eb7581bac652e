//! Mutated inputs by the thousand at everything that reads bytes from outside: no panic, no memory beyond a bound, and
//! the promises that the targets (`fuzz/targets`) state.
//!
//! `DEFER_FUZZ_RUNS` sets the number of inputs per target, `DEFER_FUZZ_FIRST` the number of the first, each of which is
//! the same everywhere. `DEFER_FUZZ_CORPUS` writes the seeds into a folder, for libFuzzer.
#![allow(clippy::unwrap_used)] // tests, and functions that only tests call

mod memory;
mod mutate;
mod seeds;
#[path = "../../fuzz/targets/mod.rs"]
mod targets;

use defer_partition::testing::Random;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs};
use targets::{Target, Verdict};

/// Enough to notice what is badly wrong, in a few seconds; a release gets 100,000.
const RUNS: u64 = 4000;
/// Of all inputs, at least one in so many must be read to its end, or the mutations stay at the door.
const TAKEN: u64 = 50;
/// No input of a few KiB takes so long, even on a machine with other work.
const SLOW: Duration = Duration::from_secs(20);

fn setting(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[derive(Default)]
struct Seen {
    inputs: u64,
    taken: u64,
    most: usize,
    slowest: Duration,
}

impl Seen {
    /// Runs one input, which is kept in a file if it breaks a promise.
    fn judge(&mut self, target: &Target, bytes: &[u8], what: &str) {
        let started = Instant::now();
        let run = || catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
        let (verdict, most) = memory::most_during(run);
        let time = started.elapsed();
        let bound = (target.memory)(bytes.len());
        if verdict.is_err() || most > bound || time > SLOW {
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}", target.name));
            fs::write(&file, bytes).unwrap();
            panic!(
                "{what} of target {} ({} bytes, kept in {}) took {most} bytes of memory (bound {bound}) and {time:?}{}",
                target.name,
                bytes.len(),
                file.display(),
                if verdict.is_err() { ", and panicked" } else { "" }
            );
        }
        self.inputs += 1;
        self.taken += u64::from(verdict.is_ok_and(|verdict| verdict == Verdict::Taken));
        self.most = self.most.max(most);
        self.slowest = self.slowest.max(time);
    }
}

fn fuzz(name: &str, seeds: Vec<Vec<u8>>) {
    let target = targets::ALL.iter().find(|target| target.name == name).unwrap();
    if let Some(folder) = env::var_os("DEFER_FUZZ_CORPUS") {
        let folder = PathBuf::from(folder).join(name);
        fs::create_dir_all(&folder).unwrap();
        seeds.iter().enumerate().for_each(|(at, seed)| fs::write(folder.join(format!("seed-{at}")), seed).unwrap());
    }
    let mut seen = Seen::default();
    // The first run of anything sets up what stays.
    let _ = catch_unwind(|| (target.run)(&[]));
    for seed in &seeds {
        assert_eq!((target.run)(seed), Verdict::Taken, "{name}: a seed is good");
        seen.judge(target, seed, "a seed");
    }
    let first = setting("DEFER_FUZZ_FIRST", 0);
    for run in first..first + setting("DEFER_FUZZ_RUNS", RUNS) {
        let mut random = Random::new(run);
        let seed = &seeds[random.below(seeds.len())];
        let other = &seeds[random.below(seeds.len())];
        let bytes = mutate::mutate(name, &mut random, seed, other);
        seen.judge(target, &bytes, &format!("input {run}"));
    }
    let Seen { inputs, taken, most, slowest } = seen;
    println!("{name}: {inputs} inputs, {taken} taken, at most {most} bytes of memory, at most {slowest:?}");
    assert!(taken * TAKEN >= inputs, "{name}: only {taken} of {inputs} inputs got anywhere");
}

#[test]
fn any_bytes_on_a_relay_connection_are_frames_or_an_error() {
    fuzz("frame", seeds::frames());
}

#[test]
fn any_file_is_refused_or_a_stage_that_names_nothing_outside_it() {
    fuzz("artifact", seeds::artifacts());
}

#[test]
fn any_onnx_file_is_refused_or_cut_into_slices_that_are_networks() {
    fuzz("onnx", seeds::models());
}

#[test]
fn any_request_body_is_refused_or_holds_the_models_inputs() {
    fuzz("oip", seeds::requests());
}

#[test]
fn any_encoding_is_refused_or_a_whole_tensor_and_any_tensor_comes_back() {
    fuzz("codec", seeds::encodings());
}

/// Inputs that broke a promise once.
#[test]
fn what_was_found_stays_mended() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/found");
    for target in &targets::ALL {
        let Ok(files) = fs::read_dir(folder.join(target.name)) else { continue };
        for file in files.map(|file| file.unwrap().path()) {
            Seen::default().judge(target, &fs::read(&file).unwrap(), &file.display().to_string());
        }
    }
}
