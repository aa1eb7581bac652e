//! The guests under `tests/guests`, built from source when a test first asks for one.

use super::{BINARY, outer_build};
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

#[path = "../../build/guest.rs"]
mod guest;
#[path = "../../../xtask/src/wasm_toolchain.rs"]
mod wasm_toolchain;

/// The component of the guest `name`. Cargo has a lock on what it builds, so that test programs may ask at once.
pub fn hostile(name: &str) -> Vec<u8> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
        // Where the stage guest's build has its tools already: see build.rs.
        let target = Path::new(BINARY).parent().expect("a program lies in a folder").join("guests");
        let built = guest::build(&cargo, &source, &target, &["--examples"]).unwrap_or_else(|error| panic!("{error}"));
        built.join("examples")
    });
    let file = folder.join(format!("{name}.wasm"));
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
