//! The threads that serve connections to phantoms. A connection stays on the thread that accepted it:
//! no other has to be woken for it, and its memory stays near.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::group::{Group, MOST, Share};
use crate::{Station, listener};

/// Running threads. Their connections end with this value.
#[derive(Debug)]
pub struct Acceptors {
    threads: Vec<Thread>,
    /// The tasks that accept, with the number of their listener.
    tasks: Mutex<Vec<(usize, AbortHandle)>>,
}

/// A runtime of one thread.
#[derive(Debug)]
struct Thread {
    runtime: Handle,
    /// The thread ends with it.
    _end: oneshot::Sender<Infallible>,
}

/// Threads when the configuration does not say: one for each processor.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MOST)
}

impl Acceptors {
    /// Starts `threads` threads, which accept nothing yet.
    ///
    /// # Errors
    /// When the host allows no more threads or descriptors.
    pub fn start(threads: usize) -> io::Result<Self> {
        let threads = (0..threads.max(1)).map(Thread::start).collect::<io::Result<_>>()?;
        Ok(Self { threads, tasks: Mutex::default() })
    }

    /// Threads that there are.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Accepts from every listener of `group`.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn accept(&self, group: &Group, station: &Arc<Station>) -> io::Result<()> {
        for Share { thread, listener, socket } in group.shares(self.threads())? {
            let accepting = listener::accept(socket, Arc::clone(station));
            let task = self.threads[thread].runtime.spawn(accepting);
            self.tasks.lock().push((listener, task.abort_handle()));
        }
        Ok(())
    }

    /// Accepts no more.
    pub fn stop(&self) {
        self.tasks.lock().drain(..).for_each(|(_, task)| task.abort());
    }

    /// Accepts no more from the first listener.
    pub fn stop_first(&self) {
        self.tasks
            .lock()
            .extract_if(.., |(listener, _)| *listener == 0)
            .for_each(|(_, task)| task.abort());
    }
}

impl Thread {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (end, ended) = oneshot::channel();
        let handle = runtime.handle().clone();
        // Its sender says nothing but that it is gone.
        let run = move || drop(runtime.block_on(ended));
        std::thread::Builder::new().name(format!("accept-{number}")).spawn(run)?;
        Ok(Self { runtime: handle, _end: end })
    }
}
