//! The dispatcher's admin port.

use super::schema::{array, boolean, count, described, digest, nullable, number, object, reference, string};
use super::{NO_BODY_404, PATH, description, guarded, in_path, metrics, ok, open};
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
    add("/v1/artifacts/{digest}", artifacts());
    add("/v1/pipelines/{pipeline}/deploy", deploy());
    let promoted = ok("All requests go to it.", "RolledOut");
    let promote = guarded("promote", "Ends a trial in favour of the new generation", promoted, &[400, 404, 409, 422]);
    add("/v1/pipelines/{pipeline}/promote", json!({ "parameters": [of_pipeline()], "post": promote }));
    let aborted = ok("The old generation has all requests.", "Aborted");
    let abort = guarded("abort", "Ends a trial in favour of the old generation", aborted, &[400, 404, 409]);
    add("/v1/pipelines/{pipeline}/abort", json!({ "parameters": [of_pipeline()], "post": abort }));
    super::document("defer-host dispatcher", ABOUT, paths, "admin", schemas())
}

fn of_pipeline() -> Value {
    in_path("pipeline", "The pipeline's name.", json!({ "type": "string", "minLength": 1 }))
}

fn artifacts() -> Value {
    let here = json!({ "200": { "description": "It is here." } });
    let mut has = guarded("hasArtifact", "Whether an artifact is here", here, &[400, NO_BODY_404]);
    // Answers to HEAD have no body, whatever they say.
    for status in ["400", "401"] {
        has["responses"][status] = json!({ "description": "As with PUT, without the body." });
    }
    let stored = ok("Stored. Its bytes are what its name says.", "Stored");
    let mut put = guarded("putArtifact", "Stores an artifact to deploy", stored, &[400, 408, 413, 500, 507]);
    let bytes = json!({ "application/octet-stream": { "schema": { "description": "A stage: a .wasm file." } } });
    put["requestBody"] = json!({ "required": true, "content": bytes });
    json!({ "parameters": [in_path("digest", "SHA-256 of the artifact.", digest())], "head": has, "put": put })
}

fn deploy() -> Value {
    let done = ok("It is active, or on trial.", "RolledOut");
    let refusals = [400, 404, 408, 409, 413, 422, 500, 503, 507];
    let mut post = guarded("deploy", "Replaces the pipeline while requests flow", done, &refusals);
    let file = json!({ "application/json": { "schema": { "type": "object", "description": "pipeline.json" } } });
    post["requestBody"] = json!({ "required": true, "content": file });
    let query = |name: &str, what: &str, schema: Value| json!({ "name": name, "in": "query", "description": what, "schema": schema });
    let share = json!({ "type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1 });
    post["parameters"] = json!([
        query("canary", "Send this part of the requests to it, until it is promoted or aborted.", share),
        query("stop_first", "Drop the old one before the new one is loaded.", boolean()),
    ]);
    json!({ "parameters": [of_pipeline()], "post": post })
}

fn schemas() -> Value {
    json!({
        "Stored": object([("digest", digest())]),
        "RolledOut": object([
            ("generation", count()),
            ("state", json!({ "type": "string", "enum": ["active", "canary"] })),
            ("first_seq", described(count(), "The first request that may be its own.")),
            ("previous_generation", described(nullable(count()), "The one that was active before.")),
        ]),
        "Aborted": object([("generation", count()), ("state", string())]),
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
            ("codec_in", described(string(), "Of the latest request on its way to the first stage.")),
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
