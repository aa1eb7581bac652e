//! Short forms for schemas.

use serde_json::{Map, Value, json};

/// The schema `name` of the same document.
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

pub(super) fn array(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

pub(super) fn string() -> Value {
    json!({ "type": "string" })
}

pub(super) fn boolean() -> Value {
    json!({ "type": "boolean" })
}

pub(super) fn number() -> Value {
    json!({ "type": "number" })
}

/// A whole number that is not negative.
pub(super) fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

/// SHA-256 in hexadecimal.
pub(super) fn digest() -> Value {
    json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" })
}

/// An object whose members are all there. More may come in later versions.
pub(super) fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    let required: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    let properties: Map<String, Value> = members.iter().map(|(name, of)| ((*name).to_owned(), of.clone())).collect();
    json!({ "type": "object", "required": required, "properties": properties })
}

/// `of`, with members that may be missing.
pub(super) fn with_optional<const N: usize>(mut of: Value, members: [(&str, Value); N]) -> Value {
    for (name, member) in members {
        of["properties"][name] = member;
    }
    of
}

/// `of`, or null.
pub(super) fn nullable(of: Value) -> Value {
    json!({ "anyOf": [of, { "type": "null" }] })
}

pub(super) fn described(mut of: Value, description: &str) -> Value {
    of["description"] = description.into();
    of
}

/// The body of every answer that is no success: `inference` ports give a message alone, the others what led to it too.
pub(super) fn error(port: &str) -> Value {
    match port {
        "inference" => object([("error", string())]),
        _ => object([("error", string()), ("cause", described(array(string()), "What led to it, outermost first."))]),
    }
}
