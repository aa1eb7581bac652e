//! What is inside the program: a CycloneDX document for machines, and the licences for people.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    setup::{command, onnxruntime},
    workspace::cargo,
};

/// What computes in a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// onnxruntime's library beside the program, and tract in it.
    Onnxruntime,
    /// tract alone: there is no such library.
    Tract,
}

/// Writes `sbom.cdx.json` and `THIRD-PARTY.txt` into `folder`; the number of crates.
pub fn write(triple: &str, engine: Engine, folder: &Path) -> Result<usize> {
    let metadata = metadata(triple)?;
    let inside = inside(&metadata).context("cargo metadata lists no defer-host")?;
    let packages: Vec<&Value> = list(&metadata["packages"])
        .iter()
        .filter(|package| package["id"].as_str().is_some_and(|id| inside.contains(id)) && !package["source"].is_null())
        .collect();
    fs::write(folder.join("sbom.cdx.json"), format!("{:#}\n", document(&packages, engine)))?;
    fs::write(folder.join("THIRD-PARTY.txt"), licences(&packages))?;
    Ok(packages.len())
}

fn metadata(triple: &str) -> Result<Value> {
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", triple];
    serde_json::from_str(&command::run(&mut cargo(&arguments))?).context("cargo metadata gave no JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Ids of all packages that `defer-host` is linked of: nothing of tests, build scripts and macros.
fn inside(metadata: &Value) -> Option<BTreeSet<&str>> {
    let nodes = list(&metadata["resolve"]["nodes"]);
    let node = |id: &str| nodes.iter().find(|node| node["id"] == id);
    let packages = list(&metadata["packages"]);
    let macros: BTreeSet<&str> =
        packages.iter().filter(|package| is_macro(package)).filter_map(|package| package["id"].as_str()).collect();
    let root = packages.iter().find(|package| package["name"] == "defer-host")?["id"].as_str()?;
    let mut found = BTreeSet::from([root]);
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        for dependency in list(&node(id)?["deps"]) {
            let linked = list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
            let id = dependency["pkg"].as_str()?;
            if linked && !macros.contains(id) && found.insert(id) {
                open.push(id);
            }
        }
    }
    Some(found)
}

fn is_macro(package: &Value) -> bool {
    list(&package["targets"]).iter().any(|target| list(&target["kind"]).iter().any(|kind| kind == "proc-macro"))
}

fn document(packages: &[&Value], engine: Engine) -> Value {
    let component = |package: &&Value| {
        let (name, version) = (&package["name"], &package["version"]);
        let purl = format!("pkg:cargo/{}@{}", name.as_str().unwrap_or(""), version.as_str().unwrap_or(""));
        let licences = match package["license"].as_str() {
            Some(licence) => json!([{"expression": licence.replace('/', " OR ")}]),
            None => json!([]),
        };
        json!({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl, "licenses": licences})
    };
    let purl = format!("pkg:pypi/onnxruntime@{}", onnxruntime::VERSION);
    let runtime = json!({
        "type": "library", "bom-ref": purl, "name": "onnxruntime", "version": onnxruntime::VERSION, "purl": purl,
        "licenses": [{"expression": "MIT"}],
    });
    let library = (engine == Engine::Onnxruntime).then_some(runtime);
    let components: Vec<Value> = packages.iter().map(component).chain(library).collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {
            "type": "application", "name": "defer-host", "version": env!("CARGO_PKG_VERSION"),
            "licenses": [{"expression": "MIT OR Apache-2.0"}],
        }},
        "components": components,
    })
}

/// Each crate with its licence, and the texts that it brings.
fn licences(packages: &[&Value]) -> String {
    let mut text =
        "Crates that defer-host is built of, and their licences. onnxruntime's are in files of their own.\n".to_owned();
    for package in packages {
        let field = |name: &str| package[name].as_str().unwrap_or("").to_owned();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n\n==== {} {}\n{}\n{}\n",
            field("name"),
            field("version"),
            field("license"),
            field("repository")
        );
        let folder = Path::new(package["manifest_path"].as_str().unwrap_or("")).parent().unwrap_or(Path::new(""));
        for file in licence_files(folder) {
            text.push_str(&fs::read_to_string(&file).map(|licence| format!("\n{licence}")).unwrap_or_default());
        }
    }
    text
}

/// In a crate's folder, and one below, where C libraries that a crate brings keep theirs.
fn licence_files(folder: &Path) -> Vec<PathBuf> {
    let inside = |folder: &Path| -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path()).collect();
        files.sort();
        files
    };
    let (folders, files): (Vec<_>, Vec<_>) = inside(folder).into_iter().partition(|path| path.is_dir());
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        path.is_file() && ["LICEN", "COPYING", "NOTICE"].iter().any(|word| name.starts_with(word))
    };
    files.into_iter().chain(folders.iter().flat_map(|folder| inside(folder))).filter(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_of_a_c_library_inside_a_crate_are_found() {
        let metadata = metadata("x86_64-unknown-linux-gnu").unwrap();
        let zfp = list(&metadata["packages"]).iter().find(|package| package["name"] == "zfp-sys").unwrap();
        let text = licences(&[zfp]);
        assert!(text.contains("==== zfp-sys ") && text.contains("Lawrence Livermore National Security"), "{text}");
    }

    #[test]
    fn only_what_is_linked_counts() {
        let dep = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [
                {"name": "defer-host", "id": "host", "targets": [{"kind": ["lib"]}, {"kind": ["bin"]}]},
                {"name": "macro", "id": "macro", "targets": [{"kind": ["proc-macro"]}]},
            ],
            "resolve": {"nodes": [
                {"id": "host", "deps": [dep("a", Value::Null), dep("test", json!("dev")), dep("tool", json!("build"))]},
                {"id": "a", "deps": [dep("b", Value::Null), dep("macro", Value::Null)]},
                {"id": "b", "deps": []},
                {"id": "macro", "deps": [dep("parser", Value::Null)]},
            ]},
        });
        assert_eq!(inside(&metadata).unwrap(), BTreeSet::from(["a", "b", "host"]));
    }
}
