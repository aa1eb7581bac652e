use super::*;

/// A directory tree with the given files, removed when dropped.
struct Tree(PathBuf);

impl Tree {
    fn with(name: &str, files: &[&str]) -> Self {
        let root = env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()));
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        fs::create_dir_all(&root).unwrap();
        Self(root)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const LINKERS: [&str; 2] = ["lib/rustlib/some-host/bin/wasm-component-ld", "lib/rustlib/some-host/bin/gcc-ld/wasm-ld"];
const STD: &str = "lib/rustlib/wasm32-unknown-unknown/lib/libcore.rlib";
const SOURCE: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";

#[test]
fn an_installed_target_comes_before_the_distributions_rust() {
    let active = Tree::with("target", &[LINKERS[0], LINKERS[1], STD, SOURCE]);
    let system = Tree::with("target-usr", &[SOURCE]);
    let found = choose(&active.0, &system.0, |_| Some((1, 96))).unwrap();
    assert_eq!(found.rustc, active.0.join("bin/rustc"));
    assert!(!found.build_std);
}

#[test]
fn a_toolchain_with_its_source_builds_the_standard_library() {
    let active = Tree::with("source", &[LINKERS[0], LINKERS[1], SOURCE]);
    let system = Tree::with("source-usr", &[SOURCE]);
    let found = choose(&active.0, &system.0, |_| Some((1, 96))).unwrap();
    assert_eq!(found.rustc, active.0.join("bin/rustc"));
    assert!(found.build_std);
}

#[test]
fn the_distributions_rust_uses_the_active_toolchains_linkers() {
    let active = Tree::with("system", &LINKERS);
    let system = Tree::with("system-usr", &[SOURCE]);
    let found = choose(&active.0, &system.0, |_| Some((1, 95))).unwrap();
    assert_eq!(found.rustc, system.0.join("bin/rustc"));
    assert!(found.build_std);
    assert_eq!(found.component_ld, active.0.join(LINKERS[0]));
    assert_eq!(found.wasm_ld, active.0.join(LINKERS[1]));
}

#[test]
fn what_is_missing_is_named() {
    let nothing = Tree::with("nothing", &[]);
    let linkers = Tree::with("linkers", &LINKERS);
    let old = Tree::with("old", &[SOURCE]);
    let cases = [
        (&nothing, &old, Some((1, 96)), "wasm-component-ld"),
        (&linkers, &nothing, Some((1, 96)), TARGET),
        (&linkers, &old, Some((1, 63)), TARGET),
        (&linkers, &old, None, TARGET),
    ];
    for (active, system, version, named) in cases {
        let message = choose(&active.0, &system.0, |_| version).unwrap_err();
        assert!(message.contains(named), "{message}");
    }
}

#[test]
fn versions_are_read_from_rustcs_own_words() {
    let cases = [
        ("rustc 1.96.0 (ac68faa20 2026-05-25)", Some((1, 96))),
        ("rustc 1.98.0-nightly (0a1b2c3d4 2026-07-01)", Some((1, 98))),
        ("rustc", None),
        ("", None),
    ];
    for (text, version) in cases {
        assert_eq!(parse_rust_version(text), version, "{text}");
    }
}
