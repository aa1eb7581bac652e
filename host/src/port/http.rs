//! Serves HTTP on a port within its [`Bounds`].

use super::Bounds;
use super::pace::{Paced, Steady};
use super::places::{Busy, Full, Place, Places};
use crate::http::{ErrorBody, drain};
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::EXPECT;
use hyper::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bytes of a request's head: more than any client of these ports needs.
const HEAD: usize = 64 << 10;
/// How long a client that is turned away may take to hear it.
const FAREWELL: Duration = Duration::from_secs(1);
/// Clients that are told at once that there is no place for them; further ones are cut off without a word.
const FAREWELLS: usize = 64;
/// More than this Linux refuses.
const LONGEST_KEEPIDLE: Duration = Duration::from_secs(32_767);
/// Pause after a connection could not be accepted: out of file descriptors, most likely.
const BREATH: Duration = Duration::from_millis(100);

/// Answers requests at `listener` by `router` until `shutdown`, then finishes those that are under way.
pub async fn serve(listener: TcpListener, router: Router, bounds: Bounds, shutdown: CancellationToken) {
    let places = Places::new(bounds.connections);
    let farewells = Arc::new(Semaphore::new(FAREWELLS));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => match places.take() {
                Ok(place) => {
                    connections.spawn(converse(stream, place, router.clone(), bounds.stall, shutdown.clone()));
                }
                Err(full) => {
                    if let Ok(permit) = Arc::clone(&farewells).try_acquire_owned() {
                        tokio::spawn(async move {
                            turn_away(stream, full).await;
                            drop(permit);
                        });
                    }
                }
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(BREATH).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn converse(stream: TcpStream, place: Place, router: Router, stall: Duration, shutdown: CancellationToken) {
    if let Err(error) = prepare(&stream, stall) {
        // It is gone already.
        tracing::debug!(%error, "cannot set up a connection");
        return;
    }
    let inner = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        let busy = place.busy();
        let (head, body) = request.into_parts();
        let body = Paced::new(body, stall);
        // A client that waits for `100 Continue` sends nothing unless somebody reads.
        let rest = (!head.headers.contains_key(EXPECT)).then(|| body.rest());
        let answer = inner.call(Request::from_parts(head, Body::new(body)));
        async move {
            let response = answer.await?;
            // Refused, perhaps before it was read: a client that is still sending would see a broken connection instead.
            if let Some(rest) = rest.filter(|rest| !response.status().is_success() && !rest.is_end_stream()) {
                drain(Body::new(rest)).await;
            }
            Ok::<_, Infallible>(response.map(|body| Served { body, _busy: busy }))
        }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(stall).max_header_size(HEAD);
    let mut connection = pin!(server.serve_connection(TokioIo::new(Steady::new(stream, stall)), service));
    tokio::select! {
        // That it ended early is the client's business.
        _ = connection.as_mut() => return,
        () = place.evicted() => return,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

fn prepare(stream: &TcpStream, stall: Duration) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    // Ends a connection to a machine that is gone without a word.
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(sockopt::set_tcp_keepidle(stream, stall.clamp(Duration::from_secs(1), LONGEST_KEEPIDLE))?)
}

/// Tells a client that there is no place for it.
async fn turn_away(mut stream: TcpStream, full: Full) {
    let body = serde_json::to_string(&ErrorBody { error: full.to_string(), cause: Vec::new() }).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: 1\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = timeout(FAREWELL, async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // What it has sent must be read, or it sees a broken connection instead of the answer.
        let mut sink = [0; 4096];
        while stream.read(&mut sink).await? > 0 {}
        std::io::Result::Ok(())
    })
    .await;
}

/// A response's body; its connection is busy until it is sent.
struct Served {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Served {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
