//! The inference port: the Open Inference Protocol, version 2.

use super::schema::{array, boolean, count, described, nullable, number, object, reference, string, with_optional};
use super::{PATH, RETRY, description, guarded, in_path, ok, open};
use crate::oip::ModelMetadata;
use defer_partition::{DType, TensorInfo};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const ABOUT: &str = "Open Inference Protocol, version 2, over REST, with the extensions for binary tensor data, model \
    configuration and statistics. Bodies of inferences may be compressed both ways: Content-Encoding and \
    Accept-Encoding with gzip or deflate.";

const INFER: &str = "Tensors travel in JSON, or as raw bytes after the JSON part, whose length then stands in the \
    header Inference-Header-Content-Length. A length of 0 says that the body is the bytes of the model's only input, \
    whose shape has at most one open dimension. A request fits a model if it holds each of its inputs once, with its \
    element type and a shape that it admits; anything else is a 400.";

/// Elements that the inputs of a model may have for its example: people should be able to read it.
const EXAMPLE: usize = 64;

/// The description of an inference port that serves `models`.
pub fn document(models: &[ModelMetadata]) -> Value {
    let mut paths = Map::new();
    let mut add = |path: &str, item: Value| paths.insert(path.to_owned(), item);
    add(PATH, description());
    add("/v2", json!({ "get": guarded("server", "Name, version, extensions", ok("The server.", "Server"), &[]) }));
    let live = open("live", "Whether the server runs", ok("It does.", "Live"), &[]);
    add("/v2/health/live", json!({ "get": live }));
    let ready = open("ready", "Whether every model is ready", ok("They are.", "Ready"), &[503]);
    add("/v2/health/ready", json!({ "get": ready }));
    let stats = guarded("stats", "Statistics of all models", ok("One entry per version.", "Statistics"), &[]);
    add("/v2/models/stats", json!({ "get": stats }));
    let names = models.iter().map(|model| model.name.as_str()).collect();
    let model = in_path("model", "The model's name.", one_of(names));
    let versions = models.iter().flat_map(|model| &model.versions).map(String::as_str).collect();
    let version = in_path("version", "One of the model's versions.", one_of(versions));
    for (base, of, parameters) in [
        ("/v2/models/{model}", "", json!([model])),
        ("/v2/models/{model}/versions/{version}", "OfVersion", json!([model, version])),
    ] {
        let mut call = |path: &str, method: &str, operation: Value| {
            add(&format!("{base}{path}"), json!({ "parameters": parameters, method: operation }))
        };
        let get = |id: &str, summary: &str, schema: &str, refusals: &[u16]| {
            guarded(&format!("{id}{of}"), summary, ok(summary, schema), &[&[400, 404], refusals].concat())
        };
        call("", "get", get("model", "Inputs, outputs, versions", "Model", &[]));
        call("/ready", "get", get("modelReady", "Whether the model is ready", "ModelReady", &[503]));
        call("/config", "get", get("modelConfig", "Configuration, in Triton's form", "ModelConfig", &[]));
        call("/stats", "get", get("modelStats", "Statistics of the model", "Statistics", &[]));
        call("/infer", "post", infer(of, models));
    }
    super::document("defer-host inference", ABOUT, paths, "inference", schemas())
}

/// A name that has to be known.
fn one_of(known: BTreeSet<&str>) -> Value {
    if known.is_empty() {
        json!({ "type": "string", "minLength": 1 })
    } else {
        json!({ "type": "string", "enum": known })
    }
}

/// A request of zeros for each of `models` that takes few, by the model's name.
fn examples(models: &[ModelMetadata]) -> Map<String, Value> {
    let of_input = |info: &TensorInfo| {
        let shape: Vec<usize> = info.shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(1)).collect();
        let count = shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim)).filter(|&n| n <= EXAMPLE)?;
        let zero = if info.dtype == DType::Bool { json!(false) } else { json!(0) };
        Some((count, json!({ "name": info.name, "datatype": info.dtype, "shape": shape, "data": vec![zero; count] })))
    };
    let mut examples = Map::new();
    for model in models {
        let Some(inputs) = model.inputs.iter().map(of_input).collect::<Option<Vec<_>>>() else { continue };
        if inputs.iter().map(|(count, _)| count).sum::<usize>() <= EXAMPLE {
            let inputs: Vec<Value> = inputs.into_iter().map(|(_, input)| input).collect();
            examples.insert(model.name.clone(), json!({ "value": { "inputs": inputs } }));
        }
    }
    examples
}

fn infer(of: &str, models: &[ModelMetadata]) -> Value {
    let length = json!({ "schema": count(), "description": "Bytes of the JSON part, before compression." });
    let bytes = json!({ "schema": { "description": "A JSON part and raw tensors, or one tensor." } });
    let both = |schema: &str| json!({ "application/json": { "schema": reference(schema) }, "application/octet-stream": bytes });
    let success = json!({ "200": {
        "description": "The outputs asked for, or all.",
        "headers": { "Inference-Header-Content-Length": length },
        "content": both("InferResponse"),
    }});
    let refusals = [400, 404, 408, 413, 415, 500, RETRY, 504];
    let mut operation = guarded(&format!("infer{of}"), "Runs one inference", success, &refusals);
    operation["description"] = INFER.into();
    operation["requestBody"] = json!({ "required": true, "content": both("InferRequest") });
    let examples = examples(models);
    if !examples.is_empty() {
        operation["requestBody"]["content"]["application/json"]["examples"] = examples.into();
    }
    let header = json!({
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "required": false,
        "description": "Makes the body binary: bytes of its JSON part, before compression.",
        "schema": count(),
    });
    let key = json!({
        "name": "Idempotency-Key",
        "in": "header",
        "required": false,
        "description": "Repeated with the same key within a minute or so, the request gets the same answer and runs once.",
        "schema": { "type": "string", "pattern": "^[!-~]{1,256}$" },
    });
    operation["parameters"] = json!([header, key]);
    operation
}

fn schemas() -> Value {
    let types: Vec<&str> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
    let configured: Vec<String> = types.iter().map(|name| format!("TYPE_{name}")).collect();
    let shape = || array(json!({ "type": "integer", "minimum": 0 }));
    let open_shape = || described(array(json!({ "type": "integer", "minimum": -1 })), "-1 where it may differ.");
    let tensor = object([("name", string()), ("datatype", reference("Datatype")), ("shape", open_shape())]);
    let spent = object([("count", count()), ("ns", described(count(), "Nanoseconds, summed."))]);
    let times = ["success", "fail", "queue", "compute_input", "compute_infer", "compute_output"];
    let times = times.map(|name| (name, reference("Spent")));
    let value = json!({ "anyOf": [
        number(),
        boolean(),
        array(reference("Data")),
    ]});
    json!({
        "Datatype": { "type": "string", "enum": types },
        "Server": object([("name", string()), ("version", string()), ("extensions", array(string()))]),
        "Live": object([("live", boolean())]),
        "Ready": object([("ready", boolean())]),
        "ModelReady": object([("name", string()), ("ready", boolean())]),
        "Tensor": tensor,
        "Model": object([
            ("name", string()),
            ("versions", described(array(string()), "Oldest first; the last answers where none is named.")),
            ("platform", string()),
            ("inputs", array(reference("Tensor"))),
            ("outputs", array(reference("Tensor"))),
        ]),
        "ConfiguredTensor": object([
            ("name", string()),
            ("data_type", json!({ "type": "string", "enum": configured })),
            ("dims", open_shape()),
        ]),
        "ModelConfig": object([
            ("name", string()),
            ("platform", string()),
            ("backend", string()),
            ("max_batch_size", described(count(), "0: shapes are whole, requests are not batched together.")),
            ("input", array(reference("ConfiguredTensor"))),
            ("output", array(reference("ConfiguredTensor"))),
        ]),
        "Spent": spent,
        "ModelStats": object([
            ("name", string()),
            ("version", string()),
            ("last_inference", described(count(), "ms since 1970; 0 before the first.")),
            ("inference_count", count()),
            ("execution_count", count()),
            ("inference_stats", object(times)),
            ("batch_stats", array(with_optional(object([("batch_size", count())]), [
                ("compute_input", reference("Spent")),
                ("compute_infer", reference("Spent")),
                ("compute_output", reference("Spent")),
            ]))),
        ]),
        "Statistics": object([("model_stats", array(reference("ModelStats")))]),
        "Data": described(value, "Numbers or truth values: flat in row-major order, or nested as the shape says."),
        "InferRequest": infer_request(),
        "InferInput": with_optional(
            object([("name", string()), ("datatype", string()), ("shape", shape())]),
            [
                ("data", described(reference("Data"), "Either this, or binary_data_size.")),
                ("parameters", nullable(with_optional(object([]), [("binary_data_size", nullable(count()))]))),
            ],
        ),
        "InferOutput": with_optional(object([("name", string())]), [(
            "parameters",
            nullable(with_optional(object([]), [("binary_data", nullable(boolean()))])),
        )]),
        "InferResponse": with_optional(
            object([("model_name", string()), ("outputs", array(reference("ResponseOutput")))]),
            [("model_version", string()), ("id", string())],
        ),
        "ResponseOutput": with_optional(
            object([("name", string()), ("datatype", reference("Datatype")), ("shape", shape())]),
            [
                ("data", array(json!({ "type": ["number", "boolean"] }))),
                ("parameters", object([("binary_data_size", count())])),
            ],
        ),
    })
}

fn infer_request() -> Value {
    let parameters = with_optional(
        object([]),
        [
            ("timeout", described(nullable(count()), "How long the answer may take, in µs; 0 for the server's limit.")),
            (
                "binary_data_output",
                described(nullable(boolean()), "Whether outputs are raw, unless one says otherwise."),
            ),
        ],
    );
    with_optional(
        object([("inputs", array(reference("InferInput")))]),
        [
            ("id", described(nullable(string()), "Echoed in the answer.")),
            ("parameters", nullable(parameters)),
            ("outputs", described(nullable(array(reference("InferOutput"))), "All, where none is named.")),
        ],
    )
}
