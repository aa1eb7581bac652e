//! The dispatcher's admin port.

use super::schema::{array, boolean, count, described, digest, nullable, number, object, reference, string};
use super::{PATH, description, guarded, metrics, ok, open};
use serde_json::{Map, Value, json};

const ABOUT: &str =
    "What a dispatcher has deployed, where, and how it fares. Inferences are asked for on another port.";

/// The description of the admin port.
pub fn document() -> Value {
    let mut paths = Map::new();
    let mut add = |path: &str, item: Value| paths.insert(path.to_owned(), item);
    add(PATH, description());
    add("/healthz", json!({ "get": open("healthz", "Whether the process runs", ok("It does.", "Status"), &[]) }));
    let ready = open("readyz", "Whether the chain is up", ok("Both its ends are connected.", "Status"), &[503]);
    add("/readyz", json!({ "get": ready }));
    add("/metrics", json!({ "get": guarded("metrics", "Counters", metrics(), &[]) }));
    let pipelines = ok("Generations, nodes, counters.", "Pipelines");
    add("/v1/pipelines", json!({ "get": guarded("pipelines", "What is deployed", pipelines, &[]) }));
    super::document("defer-host dispatcher", ABOUT, paths, "admin", schemas())
}

fn schemas() -> Value {
    json!({
        "Status": object([("status", string())]),
        "Placed": object([
            ("stage", count()),
            ("node", string()),
            ("url", string()),
            ("relay", string()),
            ("digest", digest()),
            ("codec", string()),
        ]),
        "Generation": object([
            ("generation", count()),
            ("state", json!({ "type": "string", "enum": ["active", "canary", "draining"] })),
            ("stages", array(reference("Placed"))),
            ("counters", reference("Answers")),
        ]),
        "Answers": object([
            ("answered", count()),
            ("failed", count()),
            ("pending", count()),
            ("latency", reference("Timings")),
        ]),
        "KnownNode": object([
            ("name", string()),
            ("url", string()),
            ("up", boolean()),
            ("failure", described(nullable(string()), "Why it is thought to be gone.")),
        ]),
        "Timings": object([("count", count()), ("sum_us", number()), ("median_us", number()), ("max_us", number())]),
        "Counters": object([
            ("accepted", count()),
            ("answered", count()),
            ("failed", count()),
            ("refused", count()),
            ("pending", count()),
            ("latency", reference("Timings")),
        ]),
        "Pipeline": object([
            ("name", string()),
            ("generations", described(array(reference("Generation")), "The active one first.")),
            ("nodes", described(array(reference("KnownNode")), "In use and spare.")),
            ("dispatcher", object([("name", string()), ("incarnation", count())])),
            ("up", boolean()),
            ("counters", reference("Counters")),
        ]),
        "Pipelines": object([("pipelines", array(reference("Pipeline")))]),
    })
}
