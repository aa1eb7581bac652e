//! The relay port: accepts connections and hands their frames to the stage that they are for.

use super::Node;
use super::generation::{Generation, Slot};
use crate::relay::hello::{accept, refuse};
use crate::relay::traffic::{Origin, receive};
use crate::relay::{Connection, Hello, Limits, Role};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Frames that one connection may have waiting here: one that is read while another waits for the engine, and one more
/// to cover the way of the credit.
const WINDOW: u32 = 3;
/// Connections at once; a further one waits in the kernel.
const CONNECTIONS: usize = 1024;

/// Serves `listener` for ever.
pub async fn serve(node: Arc<Node>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let node = Arc::clone(&node);
                tokio::spawn(async move {
                    if let Err(error) = converse(&node, stream).await {
                        tracing::warn!(%from, error, "relay connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: others must end first.
                tracing::warn!(%error, "cannot accept a relay connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(node: &Node, stream: TcpStream) -> Result<(), String> {
    let context = node.context();
    let limits = context.limits.clone();
    let (mut connection, hello) =
        accept(stream, &context.node, &context.token, limits.clone()).await.map_err(|error| error.to_string())?;
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
    generation.activate();
    match hello.role {
        Role::Feed => feed(node, &generation, stage, slot, connection, limits).await,
        Role::Collect => {
            connection.writer.credit(0).await.map_err(|error| error.to_string())?;
            slot.collect(connection).await;
            Ok(())
        }
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
        result = receive(connection, &origin, WINDOW, &mut deliver) => result.map_err(|e| e.to_string()),
        () = generation.ended().cancelled() => Ok(()),
    }
}
