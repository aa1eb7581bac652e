//! Answers as `.npy` files.

use super::inputs::Prepared;
use super::npy;
use super::wire::Outputs;
use anyhow::Context;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Most characters of a name that go into a file's name: two of them, a number and an extension stay below the 255
/// bytes that file systems allow.
const LONGEST_NAME: usize = 100;

/// Writes every output of every answer to `dir/<stem>.<output>.npy`; the files of each request.
pub(super) fn outputs(
    dir: &Path,
    prepared: &[Prepared],
    answers: &[Result<Outputs, String>],
) -> anyhow::Result<Vec<Vec<PathBuf>>> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut taken = HashSet::new();
    let mut files = Vec::new();
    for (request, answer) in prepared.iter().zip(answers) {
        let mut written = Vec::new();
        for (name, tensor) in answer.iter().flatten() {
            let path = dir.join(unique(&request.stem, name, &mut taken));
            npy::write(&path, tensor).with_context(|| format!("cannot write {}", path.display()))?;
            written.push(path);
        }
        files.push(written);
    }
    Ok(files)
}

/// A file name that no other output has in this run.
fn unique(stem: &str, output: &str, taken: &mut HashSet<String>) -> String {
    let base = format!("{}.{}", sanitised(stem), sanitised(output));
    let candidates = std::iter::once(format!("{base}.npy")).chain((2..).map(|n| format!("{base}-{n}.npy")));
    let name = candidates.into_iter().find(|name| !taken.contains(name)).expect("numbers do not end");
    taken.insert(name.clone());
    name
}

/// Names of tensors may hold anything, slashes and `..` included; those of files here are letters, digits, `.-_`.
fn sanitised(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let text: String = name.chars().take(LONGEST_NAME).map(plain).collect();
    match text.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None if text.is_empty() => "_".into(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_from_a_network_stays_in_the_directory() {
        let mut taken = HashSet::new();
        let names = [("a", "y"), ("a", "y"), ("../x", "/etc/passwd"), ("", "."), ("é b", "softmax:0")];
        let files = names.map(|(stem, output)| unique(stem, output, &mut taken));
        assert_eq!(files, ["a.y.npy", "a.y-2.npy", "_._x._etc_passwd.npy", "_._.npy", "__b.softmax_0.npy"]);
        assert!(unique(&"s".repeat(999), &"o".repeat(999), &mut taken).len() < 255);
    }
}
