//! The relay port: accepts connections and hands their frames to the stage that they are for.

use super::Node;
use super::generation::{Generation, Slot};
use crate::port::{Place, Places};
use crate::probe::path;
use crate::relay::hello::{accept, refuse, turn_away};
use crate::relay::traffic::{Origin, receive};
use crate::relay::{Connection, Hello, Limits, LinkError, Role};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Frames that one connection may have waiting here: one that is read while another waits for the engine, and one more
/// to cover the way of the credit.
const WINDOW: u32 = 3;
/// Peers that are told at once that there is no place for them; further ones are cut off without a word.
const FAREWELLS: usize = 64;
/// Pause after a connection could not be accepted: out of file descriptors, most likely.
const BREATH: Duration = Duration::from_millis(100);

/// Serves `listener` until the node is told to stop.
pub async fn serve(node: Arc<Node>, listener: TcpListener) {
    let places = Places::new(node.config().bounds.connections);
    let farewells = Arc::new(Semaphore::new(FAREWELLS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Who would dial later is refused by the kernel, and tries again.
            () = node.draining().cancelled() => return,
        };
        match accepted {
            Ok((stream, from)) => match places.take() {
                Ok(place) => {
                    let node = Arc::clone(&node);
                    tokio::spawn(async move {
                        let result = tokio::select! {
                            result = converse(&node, stream, &place) => result,
                            () = place.evicted() => {
                                // No news: a crowd of these must not fill the log.
                                tracing::debug!(%from, "a relay connection that said nothing made room");
                                return;
                            }
                        };
                        if let Err(error) = result {
                            tracing::warn!(%from, error, "relay connection ended");
                        }
                    });
                }
                Err(full) => {
                    tracing::debug!(%from, error = %full, "refused a relay connection");
                    if let Ok(permit) = Arc::clone(&farewells).try_acquire_owned() {
                        let context = node.context();
                        let (name, limits) = (context.node.clone(), context.limits.clone());
                        tokio::spawn(async move {
                            turn_away(stream, &name, &limits, &full.to_string()).await;
                            drop(permit);
                        });
                    }
                }
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a relay connection");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

async fn converse(node: &Node, stream: TcpStream, place: &Place) -> Result<(), String> {
    let context = node.context();
    let limits = context.limits.clone();
    let (mut connection, hello) =
        accept(stream, &context.node, &context.token, limits.clone()).await.map_err(|error| error.to_string())?;
    if hello.role == Role::Probe {
        let _busy = place.busy();
        let absorbed = path::absorb(connection, &context.node, limits, node.draining()).await;
        // A prober leaves in the middle of a frame when its time is over.
        return absorbed.or_else(|error| match error {
            LinkError::Truncated | LinkError::Io(_) | LinkError::Closed => Ok(()),
            error => Err(error.to_string()),
        });
    }
    let (generation, stage) = match find(node, &hello) {
        Ok(found) => found,
        Err(cause) => {
            // No news: the node before may well be ready earlier than this one.
            tracing::debug!(peer = hello.name, cause, "refused a relay connection");
            refuse(&mut connection.writer, &context.node, &cause).await;
            return Ok(());
        }
    };
    let Some(slot) = generation.slots.get(&stage) else { return Ok(()) };
    // It has proved who it is and has business here: it keeps its place, silent or not.
    let _busy = place.busy();
    generation.activate();
    match hello.role {
        Role::Feed => feed(node, &generation, stage, slot, connection, limits).await,
        Role::Collect => {
            connection.writer.credit(0).await.map_err(|error| error.to_string())?;
            slot.collect(connection).await;
            Ok(())
        }
        // It is over by now.
        Role::Probe => Ok(()),
    }
}

fn find(node: &Node, hello: &Hello) -> Result<(Arc<Generation>, usize), String> {
    let Hello { pipeline, generation: number, incarnation, stage, role, .. } = hello;
    let generation = node
        .generation(pipeline, *number)
        .ok_or_else(|| format!("no generation {number} of pipeline \"{pipeline}\" is on this node"))?;
    if generation.prepare.dispatcher.incarnation != *incarnation {
        return Err(format!(
            "generation {number} of pipeline \"{pipeline}\" belongs to another dispatcher incarnation"
        ));
    }
    if !generation.slots.contains_key(stage) {
        return Err(format!("stage {stage} of pipeline \"{pipeline}\" is not on this node"));
    }
    let is_last = generation.prepare.stages.iter().any(|a| a.index == *stage && a.next.is_empty());
    if *role == Role::Collect && !is_last {
        return Err(format!(
            "stage {stage} of pipeline \"{pipeline}\" sends to another node; only the last is collected"
        ));
    }
    Ok((generation, *stage))
}

async fn feed(
    node: &Node,
    generation: &Generation,
    stage: usize,
    slot: &Slot,
    mut connection: Connection,
    limits: Limits,
) -> Result<(), String> {
    connection.reader.set_limits(Limits { max_parts: slot.entering, ..limits });
    let mut deliver = |incoming: crate::relay::traffic::Incoming| match generation.refuses(&incoming.tag) {
        Some(cause) => Err(cause),
        None => slot.deliver(incoming),
    };
    let origin = Origin { node: node.context().node.clone(), stage };
    tokio::select! {
        result = receive(connection, &origin, WINDOW, node.draining(), &mut deliver) => result.map_err(|e| e.to_string()),
        () = generation.ended().cancelled() => Ok(()),
    }
}
