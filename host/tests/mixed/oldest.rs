//! The oldest processors that programs run on: what they lack is not used, in no codec, no engine, and no component's code.
#![cfg(target_arch = "x86_64")]

use crate::chain::answers_as_uncut;
use crate::support::chain::{Chain, Node};
use crate::support::emulated::OLDEST_X86;
use crate::support::folder;
use crate::support::networks::cut;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};

#[test]
fn a_chain_computes_without_the_vectors_of_newer_processors_on_either_engine() {
    let Some(entry) = crate::chain::network() else { return };
    let staged = cut("ocr-cls", &folder("oldest-ocr-cls"), 2, &[]).unwrap();
    let folder = folder("oldest-chain");
    let node = |name, engine| Node::start_oldest(&folder, name, &["--engine", engine]);
    let chain = Chain::over(vec![node("n0", "onnxruntime"), node("n1", "tract")], &staged, &[]);
    answers_as_uncut(&chain, &staged, entry);
}

/// Compiles a few additions with `flags`, and runs them in emulation.
fn run_there(folder: &Path, name: &str, flags: &[&str]) -> ExitStatus {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/sum.c");
    let program = folder.join(name);
    let compiled = Command::new("cc").args(flags).arg("-o").arg(&program).arg(source).status();
    assert!(compiled.expect("a C compiler links Rust programs too").success());
    let [emulator, flags @ ..] = OLDEST_X86;
    Command::new(emulator).args(flags).arg(program).status().expect("`cargo xtask setup` has installed the emulator")
}

/// Else the test above would prove nothing.
#[test]
fn the_emulated_processor_does_stop_at_what_it_lacks() {
    let folder = folder("oldest-control");
    let with = |name, flag| run_there(&folder, name, &["-O3", flag]);
    assert_eq!(with("v2", "-march=x86-64-v2").code(), Some(0));
    assert_eq!(with("v3", "-march=x86-64-v3").signal(), Some(libc::SIGILL));
}
