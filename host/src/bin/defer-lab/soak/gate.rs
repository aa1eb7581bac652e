//! The way to one port of a node: a small TCP proxy that can stall it in either direction, or refuse it.

use anyhow::{Context as _, Result};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

const PAUSE: Duration = Duration::from_millis(20);

/// What passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    Open,
    /// Bytes to the node wait, bytes from it wait.
    Stalled {
        inward: bool,
        outward: bool,
    },
    /// Nobody listens, as with a process that is dead.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    passage: Passage,
    target: SocketAddr,
}

#[derive(Clone, Copy)]
enum Way {
    In,
    Out,
}

impl Passage {
    fn lets(self, way: Way) -> bool {
        match (self, way) {
            (Self::Open | Self::Refused, _) => true,
            (Self::Stalled { inward, .. }, Way::In) => !inward,
            (Self::Stalled { outward, .. }, Way::Out) => !outward,
        }
    }
}

pub struct Gate {
    pub address: SocketAddr,
    state: watch::Sender<State>,
    _task: AbortOnDropHandle<()>,
}

impl Gate {
    /// A gate at `address`, which refuses until it is told where it leads.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen at {address}"))?;
        let address = listener.local_addr()?;
        let (state, seen) = watch::channel(State { passage: Passage::Open, target: address });
        let _task = AbortOnDropHandle::new(tokio::spawn(serve(address, Some(listener), seen)));
        Ok(Self { address, state, _task })
    }

    pub fn lead_to(&self, target: SocketAddr) {
        self.state.send_modify(|state| *state = State { target, passage: Passage::Open });
    }

    pub fn set(&self, passage: Passage) {
        self.state.send_modify(|state| state.passage = passage);
    }
}

async fn serve(address: SocketAddr, mut listener: Option<TcpListener>, mut state: watch::Receiver<State>) {
    loop {
        let State { passage, target } = *state.borrow_and_update();
        if passage == Passage::Refused {
            listener = None;
            if state.changed().await.is_err() {
                return;
            }
            continue;
        }
        let open = match &listener {
            Some(open) => open,
            None => match TcpListener::bind(address).await {
                Ok(bound) => listener.insert(bound),
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            accepted = open.accept() => {
                if let Ok((near, _)) = accepted {
                    tokio::spawn(pass(near, target, state.clone()));
                }
            }
        }
    }
}

/// One connection, until either side ends it or the gate closes.
async fn pass(near: TcpStream, target: SocketAddr, mut state: watch::Receiver<State>) {
    if state.wait_for(|state| state.passage.lets(Way::In)).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
    let gone = |state: &State| state.passage == Passage::Refused || state.target != target;
    tokio::select! {
        // Either end takes the other along, as with a process that dies.
        () = pump(from_near, to_far, Way::In, state.clone()) => {}
        () = pump(from_far, to_near, Way::Out, state.clone()) => {}
        _ = state.wait_for(gone) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 || state.wait_for(|state| state.passage.lets(way)).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
