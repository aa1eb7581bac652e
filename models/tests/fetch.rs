//! Models come into the cache whole and right, or an error says why not and what to do.

// Clippy's leave for tests does not reach the functions that they share.
#![allow(clippy::unwrap_used)]

use defer_models::{Cache, Entry, find};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn entry(name: &str) -> &'static Entry {
    find(name).unwrap()
}

/// A command that runs the real `python3` after `setting`.
fn python(dir: &Path, setting: &str, arguments: &str) -> String {
    let path = dir.join("python");
    fs::write(&path, format!("#!/bin/sh\n{setting} exec python3 {arguments} \"$@\"\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_generated_model_is_the_same_every_time_and_a_damaged_one_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(dir.path());
    let fetch = || {
        let mut lines = Vec::new();
        let path = entry("resnet50").fetch_into(&cache, "python3", &mut |line| lines.push(line.to_owned())).unwrap();
        (path, lines)
    };

    // The digest in the catalogue is that of the bytes, or this fails.
    let (path, lines) = fetch();
    assert_eq!(path, dir.path().join("models/resnet50.onnx"));
    assert_eq!(lines, ["generating resnet50"]);
    assert_eq!(fetch().1, Vec::<String>::new(), "what is there is not made again");

    let original = fs::read(&path).unwrap();
    let mut damaged = original.clone();
    damaged[50_000_000] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let (_, lines) = fetch();
    assert_eq!(lines, ["resnet50 in the cache is damaged or out of date", "generating resnet50"]);
    assert!(fs::read(&path).unwrap() == original);
    assert_eq!(entry("resnet50").cached(&cache), Some(original.len() as u64));
    assert_eq!(entry("ocr-rec").cached(&cache), None);
}

#[test]
fn a_machine_without_python_is_told_to_install_it() {
    let dir = tempfile::tempdir().unwrap();
    let error = entry("ocr-rec").fetch_into(&Cache::at(dir.path()), "/nowhere/python3", &mut |_| ()).unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with("cannot fetch model ocr-rec: cannot run /nowhere/python3: No such file"), "{error}");
    assert!(error.contains("apt-get install python3-pip"), "{error}");
}

#[test]
fn a_machine_without_pip_is_told_to_install_it() {
    let dir = tempfile::tempdir().unwrap();
    // Isolated and without site-packages, Python finds no pip.
    let python = python(dir.path(), "", "-I -S");
    let error = entry("ocr-rec").fetch_into(&Cache::at(dir.path()), &python, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("has no pip; install it (Debian: apt-get install python3-pip)"), "{error}");
}

#[test]
fn a_download_that_fails_repeats_what_pip_said_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let python = python(dir.path(), "PIP_NO_INDEX=1 PIP_FIND_LINKS=", "");
    let cache = Cache::at(dir.path().join("cache"));
    let error = entry("ocr-rec").fetch_into(&cache, &python, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("pip could not download rapidocr==3.10.0; check the network"), "{error}");
    assert!(error.contains("No matching distribution found for rapidocr==3.10.0"), "{error}");
    assert_eq!(fs::read_dir(cache.root().join("models")).unwrap().count(), 0);
}

#[test]
fn a_wheel_with_another_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let make = "import sys, zipfile
with zipfile.ZipFile(sys.argv[1], 'w') as wheel:
    wheel.writestr('rapidocr/models/PP-OCRv6_rec_small.onnx', 'other weights')
    info = 'rapidocr-3.10.0.dist-info/'
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: rapidocr\\nVersion: 3.10.0\\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(info + 'RECORD', '')";
    let wheel = dir.path().join("rapidocr-3.10.0-py3-none-any.whl");
    let made = std::process::Command::new("python3").args(["-c", make]).arg(wheel).status().unwrap();
    assert!(made.success());

    let python = python(dir.path(), &format!("PIP_NO_INDEX=1 PIP_FIND_LINKS={}", dir.path().display()), "");
    let cache = Cache::at(dir.path().join("cache"));
    let error = entry("ocr-rec").fetch_into(&cache, &python, &mut |_| ()).unwrap_err().to_string();
    // SHA-256 of "other weights": the member was found and taken out.
    let digest = "53959fa102f31e51";
    assert!(error.contains(&format!("rapidocr==3.10.0 has SHA-256 {digest}")), "{error}");
    assert_eq!(fs::read_dir(cache.root().join("models")).unwrap().count(), 0);
}
