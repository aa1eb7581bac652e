//! A way into a node that can be shut while both ends live.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

/// Passes on what comes to its address, as long as it is open.
pub struct Gate {
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_shut: AtomicBool,
    target: OnceLock<String>,
    /// Both ends of what was let in.
    streams: Mutex<Vec<TcpStream>>,
}

impl Gate {
    /// An open gate, whose end is told later.
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::<State>::default());
        let of = Arc::clone(&state);
        thread::spawn(move || listener.incoming().for_each(|stream| of.let_in(stream.unwrap()).unwrap_or_default()));
        Self { address, state }
    }

    pub fn lead_to(&self, target: &str) {
        self.state.target.set(target.to_owned()).unwrap();
    }

    /// Lets nobody in any more, and ends what was let in.
    pub fn shut(&self) {
        self.state.is_shut.store(true, Ordering::SeqCst);
        for stream in self.state.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn open(&self) {
        self.state.is_shut.store(false, Ordering::SeqCst);
    }
}

impl State {
    fn let_in(&self, from: TcpStream) -> io::Result<()> {
        let Some(target) = self.target.get().filter(|_| !self.is_shut.load(Ordering::SeqCst)) else { return Ok(()) };
        let to = TcpStream::connect(target)?;
        let mut streams = self.streams.lock().unwrap();
        for (from, to) in [(&from, &to), (&to, &from)] {
            streams.push(from.try_clone()?);
            let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        drop(streams);
        if self.is_shut.load(Ordering::SeqCst) {
            let _ = to.shutdown(Shutdown::Both);
        }
        Ok(())
    }
}
