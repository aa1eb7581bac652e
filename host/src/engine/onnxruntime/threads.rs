//! The threads of sessions. The runtime would start them from the thread that loads a graph, whose priority they would keep;
//! these have the priority of the thread on which the runtime was opened.

use ort::environment::ThreadManager;
use std::io;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

/// Work for a new thread, and whom to tell of it.
struct Order {
    work: Box<dyn FnOnce() + Send>,
    tell: SyncSender<io::Result<JoinHandle<()>>>,
}

/// A thread that starts others.
#[derive(Clone, Debug)]
pub(super) struct Starter(Sender<Order>);

impl Starter {
    /// Starts it, with the priority of the calling thread.
    pub fn new() -> io::Result<Self> {
        let (order, orders) = channel::<Order>();
        let start = move || {
            for Order { work, tell } in orders {
                // Who ordered it waits for it.
                let _ = tell.send(thread::Builder::new().name("engine".to_owned()).spawn(work));
            }
        };
        thread::Builder::new().name("starter".to_owned()).spawn(start)?;
        Ok(Self(order))
    }

    fn start(&self, work: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
        let (tell, told) = sync_channel(1);
        let gone = || io::Error::other("the thread that starts threads is gone");
        self.0.send(Order { work, tell }).map_err(|_| gone())?;
        told.recv().map_err(|_| gone())?
    }
}

impl ThreadManager for Starter {
    type Thread = JoinHandle<()>;

    fn create(&self, work: impl FnOnce() + Send + 'static) -> ort::Result<JoinHandle<()>> {
        self.start(Box::new(work)).map_err(|error| ort::Error::new(format!("no thread for a session: {error}")))
    }

    fn join(thread: JoinHandle<()>) -> ort::Result<()> {
        thread.join().map_err(|_| ort::Error::new("a session's thread panicked"))
    }
}

#[cfg(test)]
mod tests {
    use super::Starter;
    use crate::cpu;
    use ort::environment::ThreadManager as _;
    use rustix::process::getpriority_process;
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn threads_have_the_priority_of_who_made_the_starter_and_not_of_who_asks_for_them() {
        let priority = || getpriority_process(None).unwrap();
        let before = priority();
        let starter = Starter::new().unwrap();
        let (tell, told) = channel();
        let asking = thread::spawn(move || {
            cpu::stand_back();
            tell.send(priority()).unwrap();
            let started = starter.create(move || tell.send(priority()).unwrap()).unwrap();
            Starter::join(started).unwrap();
        });
        asking.join().unwrap();
        let [asked, started] = [told.recv().unwrap(), told.recv().unwrap()];
        assert!(asked > before, "{asked} is no lower priority than {before}");
        assert_eq!(started, before);
    }
}
