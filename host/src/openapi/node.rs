//! A node's REST port.

use super::schema::{array, count, described, digest, nullable, number, object, reference, string, with_optional};
use super::{NO_BODY_404, PATH, description, guarded, in_path, metrics, ok, open};
use serde_json::{Map, Value, json};

const ABOUT: &str = "A node runs stages of pipelines: it stores their artifacts, and prepares and drops generations as \
    a dispatcher asks it to. Tensors travel over the relay, which is no HTTP.";

/// The description of a node's port.
pub fn document() -> Value {
    let mut paths = Map::new();
    let mut add = |path: &str, item: Value| paths.insert(path.to_owned(), item);
    add(PATH, description());
    add("/healthz", json!({ "get": open("healthz", "Whether the process runs", ok("It does.", "Health"), &[]) }));
    let ready = ok("Every assigned stage is loaded and warmed up.", "Ready");
    add("/readyz", json!({ "get": open("readyz", "Whether the node takes work", ready, &[503]) }));
    let relay = open("relay", "Where the node's relay is", ok("Told without the token.", "Relay"), &[]);
    add("/v1/relay", json!({ "get": relay }));
    add("/metrics", json!({ "get": guarded("metrics", "Counters", metrics(), &[]) }));
    let node = guarded("node", "What this node is", ok("Name, hardware, engines, addresses.", "Node"), &[]);
    add("/v1/node", json!({ "get": node }));
    let stages = guarded("stages", "What this node runs", ok("Every slot.", "Stages"), &[]);
    add("/v1/stages", json!({ "get": stages }));
    add("/v1/stages/{pipeline}/{index}", swap());
    add("/v1/stages/{pipeline}/{index}/rollback", roll_back());
    let pulse = ok("It lives, and which swaps wait for their dispatcher.", "Pulse");
    let mut pulse = guarded("pulse", "A dispatcher's heartbeat", pulse, &[400]);
    let incarnation = "Whose heartbeat it is: only its own swaps are told, and wait on.";
    pulse["parameters"] = json!([in_query("incarnation", incarnation)]);
    add("/v1/pulse", json!({ "get": pulse }));
    add("/v1/candidates/{candidate}", candidates());
    add("/v1/artifacts/{digest}", artifacts());
    add("/v1/pipelines/{pipeline}/generations/{generation}", generations());
    let speed = ok("What this node can do.", "Means");
    let mut speed = guarded("probeSpeed", "Computes a standard network for about 2.5 s", speed, &[409, 500]);
    speed["description"] =
        "Nothing else is measured on this node meanwhile; what it serves goes on, more slowly.".into();
    add("/v1/probe/speed", json!({ "post": speed }));
    add("/v1/probe/link", json!({ "post": link() }));
    super::document("defer-host node", ABOUT, paths, "node", schemas())
}

fn link() -> Value {
    let path = ok("What the link can do in that direction.", "Path");
    let mut post =
        guarded("probeLink", "Sends frames to another relay for about a second", path, &[400, 408, 409, 502]);
    let target = json!({ "application/json": { "schema": reference("Target") } });
    post["requestBody"] = json!({ "required": true, "content": target });
    post
}

fn artifacts() -> Value {
    let here = json!({ "200": { "description": "It is here, and verified." } });
    let mut has = guarded("hasArtifact", "Whether an artifact is here", here, &[400, NO_BODY_404]);
    // Answers to HEAD have no body, whatever they say.
    for status in ["400", "401"] {
        has["responses"][status] = json!({ "description": "As with PUT, without the body." });
    }
    let stored = ok("Stored. Its bytes are what its name says.", "Stored");
    let mut put = guarded("putArtifact", "Stores an artifact", stored, &[400, 408, 413, 500, 507]);
    let bytes = json!({ "application/octet-stream": { "schema": { "description": "A stage: a .wasm file." } } });
    put["requestBody"] = json!({ "required": true, "content": bytes });
    let name = in_path("digest", "SHA-256 of the artifact.", digest());
    let content = json!({ "application/wasm": { "schema": { "description": "A stage: a .wasm file." } } });
    let whole = json!({ "200": { "description": "The artifact.", "content": content } });
    let get = guarded("getArtifact", "An artifact's bytes", whole, &[400, 404, 500]);
    json!({ "parameters": [name], "get": get, "head": has, "put": put })
}

/// The path's parameters of a stage.
fn of_stage() -> Value {
    json!([
        in_path("pipeline", "The pipeline's name.", json!({ "type": "string", "minLength": 1 })),
        in_path("index", "The stage, from 0.", count()),
    ])
}

fn swap() -> Value {
    let swapped = ok("Requests go through the new stage.", "Swapped");
    let refusals = [400, 404, 408, 409, 413, 422, 500, 503, 504, 507];
    let mut put = guarded("swapStage", "Exchanges a stage while its pipeline runs", swapped, &refusals);
    let bytes = json!({ "application/octet-stream": { "schema": { "description": "A stage: a .wasm file." } } });
    put["requestBody"] = json!({ "required": true, "content": bytes });
    json!({ "parameters": of_stage(), "put": put })
}

fn roll_back() -> Value {
    let swapped = ok("Requests go through what ran before.", "Swapped");
    let refusals = [400, 404, 409, 422, 503, 504, 507];
    let post = guarded("rollBackStage", "Goes back to what a stage was before", swapped, &refusals);
    json!({ "parameters": of_stage(), "post": post })
}

fn candidates() -> Value {
    let heard = json!({ "204": { "description": "Heard." } });
    let refusals = [400, 408, 409, 413, 415, 422];
    let mut post = guarded("settleCandidate", "A dispatcher's word on a swap that waits for it", heard, &refusals);
    let verdict = json!({ "application/json": { "schema": reference("Verdict") } });
    post["requestBody"] = json!({ "required": true, "content": verdict });
    json!({ "parameters": [in_path("candidate", "The node's number for it.", count())], "post": post })
}

fn in_query(name: &str, what: &str) -> Value {
    json!({ "name": name, "in": "query", "description": what, "schema": count() })
}

fn generations() -> Value {
    let prepared = ok("Loaded and warmed up, or the lease renewed.", "Prepared");
    let refusals = [400, 408, 409, 422, 500, 503, 507];
    let mut put = guarded("prepare", "Prepares a generation, or renews its lease", prepared, &refusals);
    let prepare = json!({ "application/json": { "schema": reference("Prepare") } });
    put["requestBody"] = json!({ "required": true, "content": prepare });
    let dropped = json!({ "204": { "description": "Drained and dropped." } });
    let mut delete = guarded("drop", "Drains and drops a generation", dropped, &[400, 404, 409]);
    delete["parameters"] = json!([
        in_query("incarnation", "Drop it only if it belongs to this dispatcher, else 409."),
        in_query("drain_ms", "How long to wait for what is in it, 10,000 if not given."),
    ]);
    let parameters = json!([
        in_path("pipeline", "The pipeline's name.", json!({ "type": "string", "minLength": 1 })),
        in_path("generation", "Numbered upwards by the dispatcher.", count()),
    ]);
    json!({ "parameters": parameters, "put": put, "delete": delete })
}

fn schemas() -> Value {
    let codec = || described(string(), "auto, or one such as raw, lz4, sparse+shuffle-lz4 or zfp:accuracy=1e-3.");
    let lossy = || described(array(string()), "Lossy codecs, such as sparse+int8, that auto may use as well.");
    let state = json!({ "type": "string", "enum": ["prepared", "active", "draining", "failed"] });
    let owner = object([("name", string()), ("incarnation", described(count(), "Drawn anew at each start."))]);
    let engines = json!({
        "type": "object",
        "additionalProperties": { "type": "string" },
        "description": "By stage, the engine that its replicas run on: for a node that chooses between several.",
    });
    let owner = with_optional(owner, [("heir_of", described(array(count()), "Incarnations of its earlier lives."))]);
    let hop = object([("relay", described(string(), "host:port")), ("stage", count())]);
    let candidate = object([
        ("id", count()),
        ("pipeline", string()),
        ("index", count()),
        ("digest", digest()),
        ("incarnation", described(count(), "Of the dispatcher that it waits for.")),
    ]);
    let ailment = json!({ "oneOf": [
        object([("engine", object([("cause", string())]))]),
        object([("link", object([("relay", string())]))]),
    ] });
    let ailing = object([
        ("pipeline", string()),
        ("generation", count()),
        ("index", count()),
        ("ms", described(count(), "For how long.")),
        (
            "ailment",
            described(ailment, "Its engine does not compute, or it cannot reach that relay of the next stage."),
        ),
    ]);
    let switched = object([("generation", count()), ("first_seq", count())]);
    let refused = object([("status", count()), ("error", string())]);
    json!({
        "Pulse": with_optional(
            object([
                ("epoch", described(count(), "Drawn anew at each start of the node.")),
                ("draining", described(json!({ "type": "boolean" }), "Whether it is about to stop.")),
                ("candidates", array(candidate)),
            ]),
            [("ailing", described(array(ailing), "Stages that cannot work although the node lives."))],
        ),
        "Verdict": json!({ "oneOf": [
            { "const": "taken" },
            object([("switched", switched)]),
            object([("refused", refused)]),
        ] }),
        "Swapped": object([
            ("generation", described(count(), "The one that has the new stage.")),
            ("digest", digest()),
            ("previous_digest", digest()),
            ("loaded_ms", described(number(), "Loading and warming up.")),
            ("first_seq", described(count(), "The first request of that generation; 0 without a dispatcher.")),
        ]),
        "Health": object([("status", string())]),
        "Ready": object([("status", string()), ("generations", count())]),
        "Relay": object([("relay", described(string(), "host:port, or :port at this port's own address."))]),
        "Stored": object([("digest", digest())]),
        "Engine": object([
            ("name", string()),
            ("version", string()),
            ("chosen", described(json!({ "type": "boolean" }), "Whether stages run on it; of two, each on the faster one.")),
        ]),
        "Memory": object([("resident_bytes", count()), ("anonymous_bytes", count()), ("peak_bytes", count())]),
        "Node": object([
            ("name", string()),
            ("version", string()),
            ("arch", string()),
            ("cores", count()),
            ("threads", count()),
            ("memory", reference("Memory")),
            ("usable_memory_bytes", described(nullable(count()), "What stages may still take, if the system says.")),
            (
                "runtime_memory_bytes",
                described(nullable(count()), "What it took itself before its first stage, when that was loaded."),
            ),
            ("speed", described(nullable(number()), "Standard networks per second, when that was last measured.")),
            ("drift", described(nullable(number()), "That of its stage that has become slowest; null until one is known.")),
            ("abandoned_threads", described(count(), "Threads that an engine does not give back.")),
            ("engines", array(reference("Engine"))),
            ("sandbox", described(string(), "What runs components: cranelift, or pulley, an interpreter.")),
            ("protocol", described(count(), "Version of the relay's protocol.")),
            ("relay", described(string(), "Address to which the relay is bound.")),
            ("advertise", described(nullable(string()), "Where others reach the relay, if told.")),
            ("max_tensor_bytes", count()),
            ("store_limit_bytes", described(count(), "Artifacts that it keeps, and the largest that it takes.")),
            ("uptime_s", count()),
        ]),
        "Means": object([
            ("runs_per_s", described(number(), "How often it computes the standard network per second.")),
            ("memory_bytes", described(nullable(count()), "What stages may still take, if the system says.")),
            ("cores", count()),
        ]),
        "Target": object([("relay", described(string(), "host:port of the relay to send to."))]),
        "Path": object([
            ("bandwidth_bps", described(number(), "Bits per second.")),
            ("latency_ms", described(number(), "Half of the time until a frame is answered.")),
        ]),
        "Timings": object([
            ("count", count()),
            ("sum_us", number()),
            ("median_us", described(number(), "Of the latest few hundred.")),
            ("max_us", number()),
        ]),
        "Counters": object([
            ("frames_received", count()),
            ("frames_sent", count()),
            ("requests_failed", count()),
            ("bytes_in", count()),
            ("bytes_out", count()),
            ("decode", reference("Timings")),
            ("compute", reference("Timings")),
            ("sandbox", reference("Timings")),
            ("encode", reference("Timings")),
            ("link_mbit", described(nullable(number()), "Rate of the link to the next stage while it is busy.")),
            ("drift", described(nullable(number()), "Recent median compute time over an early one: 2 is twice as slow.")),
        ]),
        "Stage": object([
            ("pipeline", string()),
            ("index", count()),
            ("count", described(count(), "Stages of the whole pipeline.")),
            ("generation", count()),
            ("digest", digest()),
            ("dispatcher", string()),
            ("incarnation", described(count(), "Of the dispatcher's life that made the generation.")),
            ("engine", described(string(), "What computes it: onnxruntime or tract.")),
            ("state", state.clone()),
            ("failure", described(nullable(string()), "Why it does not compute, where it failed.")),
            ("codec", codec()),
            ("lossy", lossy()),
            ("codec_in_use", described(nullable(string()), "Of the latest frame, where the codec is auto.")),
            ("weights_bytes", count()),
            ("prepacking", described(json!({ "type": "boolean" }), "Whether the engine holds weights in its own order, too.")),
            ("loaded_ms", number()),
            ("counters", reference("Counters")),
        ]),
        "Stages": object([("stages", array(reference("Stage")))]),
        "Owner": owner,
        "Hop": hop,
        "Assignment": with_optional(object([("index", count()), ("artifact", digest())]), [
            ("next", described(array(reference("Hop")), "Where the output goes; empty for the last stage.")),
            ("codec", codec()),
            ("lossy", lossy()),
        ]),
        "Prepare": with_optional(
            object([
                ("dispatcher", reference("Owner")),
                ("lease_ms", described(count(), "How long the claim lasts without being renewed.")),
                ("stages", described(array(reference("Assignment")), "This node's.")),
            ]),
            [("engines", engines)],
        ),
        "Prepared": object([("state", state), ("generation", count()), ("stages", array(reference("Stage")))]),
    })
}
