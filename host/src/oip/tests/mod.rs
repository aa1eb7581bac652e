//! The protocol over a real socket.

pub(crate) mod backend;
mod bodies;
mod compressed;
mod formats;
mod http;
mod load;
mod raw;

use super::{Options, router};
use backend::Echo;
use serde_json::Value;
use std::sync::Arc;

/// Serves `backend` on a port of its own until the runtime ends; the base URL.
pub(crate) async fn serve(backend: Echo, options: Options) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = router(Arc::new(backend), options);
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    format!("http://{address}")
}

async fn start() -> String {
    serve(Echo::default(), Options::default()).await
}

/// Status and JSON of a POST.
async fn post(url: String, body: impl Into<reqwest::Body>) -> (u16, Value) {
    let response = reqwest::Client::new().post(url).body(body).send().await.unwrap();
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/json");
    (status, response.json().await.unwrap())
}

async fn get(url: String) -> (u16, Value) {
    let response = reqwest::get(url).await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}
