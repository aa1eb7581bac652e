//! The documents against the routers that they describe.

use super::{PATH, admin, inference, node};
use crate::oip::Backend as _;
use crate::oip::tests::backend::Echo;
use axum::Router;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

type Served = BTreeMap<String, BTreeSet<String>>;

/// Paths of `router` with their methods. `axum` tells them in its debug output only; a version that tells them
/// otherwise fails the test rather than passing it with nothing found.
pub(crate) fn served<S>(router: &Router<S>) -> Served {
    let text = format!("{router:?}");
    let paths = text.split("paths: {").nth(1).expect("axum lists its paths").split('}');
    // Paths hold braces of their own, so the list ends where the text after it begins.
    let paths = paths.collect::<Vec<_>>().join("}");
    let mut served = Served::new();
    for (id, path) in entries(&paths) {
        let route = text.split(&format!("{id}: MethodRouter(")).nth(1).expect("axum lists each path's methods");
        let allow = route.split("allow_header: Bytes(b\"").nth(1).expect("every path here allows some methods");
        let methods = allow.split('"').next().unwrap_or_default().split(',');
        served.insert(path.to_owned(), methods.map(str::to_ascii_lowercase).collect());
    }
    served
}

/// `RouteId(1): "/a", RouteId(2): "/b"` as pairs.
fn entries(list: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = list;
    while let Some((id, after)) = rest.strip_prefix("RouteId(").and_then(|_| rest.split_once(": \"")) {
        let Some((path, after)) = after.split_once('"') else { break };
        found.push((id, path));
        let Some(next) = after.strip_prefix(", ") else { break };
        rest = next;
    }
    found
}

/// Paths of `document` with their methods. A path that answers GET answers HEAD too, which need not be said.
fn documented(document: &Value) -> Served {
    let paths = document["paths"].as_object().unwrap();
    let methods = |item: &Value| -> BTreeSet<String> {
        let mut methods: BTreeSet<_> =
            item.as_object().unwrap().keys().filter(|k| *k != "parameters").cloned().collect();
        if methods.contains("get") {
            methods.insert("head".into());
        }
        methods
    };
    paths.iter().map(|(path, item)| (path.clone(), methods(item))).collect()
}

/// That `document` tells what `router` serves, all of it and nothing else.
pub(crate) fn assert_describes<S>(document: &Value, router: &Router<S>) {
    let (documented, served) = (documented(document), served(router));
    assert!(served.contains_key(PATH), "{served:?}");
    assert_eq!(documented, served);
}

#[test]
fn the_inference_document_is_what_the_router_serves() {
    let backend = std::sync::Arc::new(Echo::default());
    assert_describes(&inference(&backend.models()), &crate::oip::router(backend, crate::oip::Options::default()));
}

/// Calls `found` for every object in `value`.
fn walk<'a>(value: &'a Value, found: &mut impl FnMut(&'a serde_json::Map<String, Value>)) {
    match value {
        Value::Object(members) => {
            found(members);
            members.values().for_each(|member| walk(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_resolves_and_every_schema_is_used() {
    for document in [inference(&[]), inference(&Echo::default().models()), node(), admin()] {
        let title = document["info"]["title"].as_str().unwrap();
        let mut referred = BTreeSet::new();
        walk(&document, &mut |object| {
            referred.extend(object.get("$ref").map(|r| r.as_str().expect("a reference is a string").to_owned()));
        });
        for reference in &referred {
            let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{title}: {reference} leads elsewhere"));
            assert!(document.pointer(pointer).is_some(), "{title}: nothing at {reference}");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(referred.contains(&format!("#/components/schemas/{name}")), "{title}: nobody refers to {name}");
        }
    }
}

#[test]
fn operations_and_parameters_are_complete() {
    for document in [inference(&[]), inference(&Echo::default().models()), node(), admin()] {
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            let in_path = path.split('{').skip(1).filter_map(|part| part.split('}').next());
            let declared = item["parameters"].as_array().into_iter().flatten().filter_map(|p| p["name"].as_str());
            assert_eq!(in_path.collect::<Vec<_>>(), declared.collect::<Vec<_>>(), "{path}");
            for (method, operation) in item.as_object().unwrap().iter().filter(|(method, _)| *method != "parameters") {
                assert!(operation["summary"].is_string(), "{method} {path}");
                assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{method} {path}: its id is another's");
                let answers = operation["responses"].as_object().unwrap();
                assert!(answers.keys().any(|status| status.starts_with('2')), "{method} {path}");
                for (status, answer) in answers {
                    let status: u16 = status.parse().unwrap();
                    assert!((200..600).contains(&status), "{method} {path}");
                    assert!(
                        answer["description"].is_string() || answer["$ref"].is_string(),
                        "{method} {path} {status}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_inference_document_names_what_is_served_and_shows_how_to_ask() {
    let document = inference(&Echo::default().models());
    let item = &document["paths"]["/v2/models/{model}/versions/{version}/infer"];
    assert!(item["parameters"][0]["schema"]["enum"].as_array().unwrap().contains(&"scalar".into()));
    assert_eq!(item["parameters"][1]["schema"]["enum"], serde_json::json!(["1", "2"]));
    let examples = &item["post"]["requestBody"]["content"]["application/json"]["examples"];
    for model in Echo::default().models() {
        let body = examples[&model.name]["value"].to_string();
        let parsed = crate::oip::parse(&model, body.as_bytes(), None).unwrap();
        assert_eq!(parsed.inputs.len(), model.inputs.len());
    }
}
