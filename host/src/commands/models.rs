//! `defer-host models`: the networks known by name.

use crate::stdout;
use anyhow::Result;
use clap::Args;
use defer_models::{Cache, Entry, Input, catalogue};
use serde_json::{Value, json};

const MEGA: f64 = 1e6;

/// Lists the networks known by name: origin, digest, licence, inputs, whether trained.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  defer-host models
  defer-host models --json

--model takes any of the names, or the path of an .onnx file. What is not in the cache yet is fetched when it is first
used; its digest is checked at every use. Nothing is fetched by this command.")]
pub struct ModelsArgs {
    /// One JSON document on stdout
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn models(args: &ModelsArgs) -> Result<()> {
    let cache = Cache::from_env()?;
    let text = if args.json {
        let models: Vec<Value> = catalogue().iter().map(|entry| document(entry, &cache)).collect();
        serde_json::to_string_pretty(&json!({ "models": models }))? + "\n"
    } else {
        table(&cache) + &details(&cache)
    };
    Ok(stdout::write(&text)?)
}

/// A paragraph per network: where it comes from and what it takes.
fn details(cache: &Cache) -> String {
    let mut text = String::new();
    for entry in catalogue() {
        text += &format!("\n{}: {}\n", entry.name, entry.summary);
        text += &format!("  origin   {}\n  sha256   {}\n", entry.origin(), entry.sha256);
        text += &format!("  licence  {}; {}\n", entry.licence, entry.attribution);
        for input in entry.inputs {
            text += &format!("  input    {}\n", described(input));
        }
    }
    text + &format!("\ncache: {}\n", cache.root().join("models").display())
}

fn document(entry: &Entry, cache: &Cache) -> Value {
    let cached = entry.cached(cache);
    let inputs = entry.inputs.iter();
    json!({
        "name": entry.name,
        "summary": entry.summary,
        "task": entry.task.name(),
        "origin": entry.origin(),
        "sha256": entry.sha256,
        "licence": entry.licence,
        "attribution": entry.attribution,
        "trained": entry.trained,
        "inputs": inputs
            .map(|input| json!({ "name": input.name, "datatype": input.dtype.name(), "shape": input.shape }))
            .collect::<Vec<_>>(),
        "cached": cached.is_some(),
        "cached_bytes": cached,
        "file": cache.model(entry.name),
    })
}

/// One line per network: what a person chooses by.
fn table(cache: &Cache) -> String {
    let row = |[name, task, trained, inputs, cached]: [&str; 5]| {
        format!("{name:<12} {task:<17} {trained:<8} {inputs:<26} {cached:>8}\n")
    };
    let mut text = row(["model", "task", "trained", "inputs", "cached"]);
    for entry in catalogue() {
        let cached = entry.cached(cache).map_or_else(|| "no".to_owned(), |n| format!("{:.1} MB", n as f64 / MEGA));
        let inputs = match entry.inputs {
            [input] => described(input),
            several => format!("{} × {}", several.len(), several.first().map_or_else(String::new, typed)),
        };
        let trained = if entry.trained { "yes" } else { "no" };
        text += &row([entry.name, entry.task.name(), trained, &inputs, &cached]);
    }
    text
}

/// As `x FP32[?,3,48,?]`.
fn described(input: &Input) -> String {
    format!("{} {}", input.name, typed(input))
}

fn typed(input: &Input) -> String {
    let size = |&size: &i64| if size < 0 { "?".to_owned() } else { size.to_string() };
    format!("{}[{}]", input.dtype, input.shape.iter().map(size).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_network_is_listed_with_what_it_takes_and_whether_it_is_here() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let path = cache.model("vgg16");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, [0; 2_000_000]).unwrap();
        let table = table(&cache);
        assert_eq!(table.lines().count(), 1 + catalogue().len());
        let line = |name: &str| {
            let line = table.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line("vgg16"), "vgg16 classification no input FP32[?,3,224,224] 2.0 MB");
        assert_eq!(line("ocr-det"), "ocr-det text detection yes x FP32[?,3,?,?] no");
        assert_eq!(line("bert-mini"), "bert-mini token embedding no 3 × INT64[?,?] no");

        let document = document(defer_models::find("bert-mini").unwrap(), &cache);
        assert_eq!(document["inputs"][1], json!({"name": "attention_mask", "datatype": "INT64", "shape": [-1, -1]}));
        assert_eq!((&document["cached"], &document["cached_bytes"]), (&json!(false), &Value::Null));
        assert_eq!(document["sha256"].as_str().unwrap().len(), 64);
    }
}
