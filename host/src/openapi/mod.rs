//! What each port serves, as an OpenAPI 3.1 document at [`PATH`] on that port: [`inference`], [`node`] and [`admin`].
//!
//! The documents are written by hand, beside the code that they describe rather than in it: the routers' own answers
//! are mostly built field by field. A test compares every documented path and method with the real routers.

mod admin;
mod inference;
mod node;
mod schema;
#[cfg(test)]
pub(crate) mod tests;

pub use admin::document as admin;
pub use inference::document as inference;
pub use node::document as node;

use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::routing::{MethodRouter, get};
use serde_json::{Map, Value, json};

/// Where every port serves its description.
pub const PATH: &str = "/openapi.json";

/// Serves `document`, built once.
pub fn serve<S: Clone + Send + Sync + 'static>(document: fn() -> Value) -> MethodRouter<S> {
    let text = Bytes::from(document().to_string());
    get(async move || ([(CONTENT_TYPE, "application/json")], text.clone()))
}

/// The refusals that operations have in common: status, description, and the header that comes with it.
const REFUSALS: [(u16, &str, Option<&str>); 16] = [
    (400, "The request itself is wrong; the message names what, and the cure.", None),
    (401, "A token is needed, or the one given is wrong.", None),
    (404, "No such path, model, version, generation, stage or artifact.", None),
    (405, "The path does not serve this method.", Some("Allow")),
    (408, "Nothing more of the body came for too long.", None),
    (
        409,
        "Another dispatcher owns the pipeline, another change of it or another probe is under way, or that was settled before.",
        None,
    ),
    (413, "The body is too large, as sent or once expanded.", None),
    (415, "The body's Content-Encoding is not served.", Some("Accept-Encoding")),
    (422, "The stages cannot be run; the message says which and why. What ran goes on.", None),
    (500, "The request failed on this server or on a node; the message names the stage and the cause.", None),
    (502, "Another machine cannot be reached, or does not take part.", None),
    (503, "Not ready, or too much to do; worth another try later.", None),
    (504, "No answer in time.", None),
    (507, "No room left: on the disk, or for weights beside those that are loaded.", None),
    // With Retry-After, where a client is told when to come again.
    (RETRY, "More requests than can wait, or the chain cannot be reached.", Some("Retry-After")),
    // Answers to HEAD have no body.
    (NO_BODY_404, "It is not here.", None),
];
/// Names of refusals that differ from the plain one of their status.
const RETRY: u16 = 50_300;
const NO_BODY_404: u16 = 40_400;

/// A whole document.
fn document(title: &str, description: &str, paths: Map<String, Value>, error: &str, schemas: Value) -> Value {
    let mut schemas = schemas;
    schemas["Error"] = schema::error(error);
    let text = Value::Object(paths.clone()).to_string();
    let used = REFUSALS.iter().filter(|(name, ..)| text.contains(&format!("/responses/{name}\"")));
    let refusals = used.map(|(status, description, header)| {
        let mut refusal = json!({ "description": description });
        if *status != NO_BODY_404 {
            refusal["content"] = json!({ "application/json": { "schema": schema::reference("Error") } });
        }
        if let Some(header) = header {
            let number = *header == "Retry-After";
            let of = if number { json!({ "type": "integer", "minimum": 1 }) } else { json!({ "type": "string" }) };
            refusal["headers"] = json!({ *header: { "schema": of } });
        }
        (status.to_string(), refusal)
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": env!("CARGO_PKG_VERSION"),
            "description": description,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": refusals.collect::<Map<_, _>>(),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

/// An operation that anyone may call: `success` holds its good answers by status, `refusals` the others.
fn open(id: &str, summary: &str, success: Value, refusals: &[u16]) -> Value {
    let mut responses = success;
    for name in refusals {
        let status = if *name > 999 { name / 100 } else { *name };
        responses[status.to_string()] = json!({ "$ref": format!("#/components/responses/{name}") });
    }
    json!({ "operationId": id, "summary": summary, "responses": responses })
}

/// An operation that asks for the token, where the port has one.
fn guarded(id: &str, summary: &str, success: Value, refusals: &[u16]) -> Value {
    let mut operation = open(id, summary, success, &[&[401], refusals].concat());
    operation["security"] = json!([{}, { "token": [] }]);
    operation
}

/// The answer 200 with JSON of `schema`.
fn ok(description: &str, schema: &str) -> Value {
    json!({ "200": {
        "description": description,
        "content": { "application/json": { "schema": schema::reference(schema) } },
    }})
}

/// The answer 200 with Prometheus' text format.
fn metrics() -> Value {
    let text = json!({ "schema": { "type": "string" } });
    json!({ "200": { "description": "Prometheus text format 0.0.4.", "content": { "text/plain": text } } })
}

/// The operation at [`PATH`] itself.
fn description() -> Value {
    let any = json!({ "schema": { "type": "object" } });
    let success = json!({ "200": { "description": "This document.", "content": { "application/json": any } } });
    json!({ "get": open("description", "This description", success, &[]) })
}

/// A parameter in the path.
fn in_path(name: &str, description: &str, schema: Value) -> Value {
    json!({ "name": name, "in": "path", "required": true, "description": description, "schema": schema })
}
