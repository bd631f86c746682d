//! How a running application follows another, and how it leaves.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use handover::Host;
use telemetry::admin;
use telemetry::process::{self, Signal, Signals};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::daemon::Daemon;
use crate::setup::offset;
use crate::succession::{self, Successor};

/// How often is looked whether everything has ended.
const LOOK: Duration = Duration::from_millis(20);
/// Time to hand the last messages to Redis at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// How the daemon came to its listener.
#[derive(Debug)]
pub enum Arrival {
    /// It is the only one.
    First(TcpListener),
    /// A predecessor still accepts.
    After(TcpListener, Successor),
}

impl Daemon {
    /// Takes the registrations of a predecessor over, and then its connections.
    pub(crate) async fn follow(
        &self,
        listener: TcpListener,
        predecessor: Successor,
    ) -> io::Result<()> {
        let pipeline = Arc::clone(&self.station.pipeline);
        let records = predecessor.registrations()?;
        let count = records.len();
        for record in &records {
            if let Some(waiting) = pipeline.resume(record) {
                let pipeline = Arc::clone(&pipeline);
                tokio::spawn(async move { pipeline.finish(waiting).await });
            }
        }
        // Detectors come over as soon as the socket is there, and find every session.
        self.serve_sessions().map_err(io::Error::other)?;
        let rest = predecessor.finish()?;
        // Clients of these may be waiting to be accepted.
        for record in &rest.decided {
            pipeline.settle(record);
        }
        self.accept(listener);
        if let Some(dtls) = pipeline.dtls.get() {
            dtls.succeed(rest.datagrams, &rest.paths)?;
        }
        let late = rest.decided.len();
        self.log.info(format_args!(
            "[HANDOVER] {count} registrations taken over, {late} decided meanwhile"
        ));
        Ok(())
    }

    /// Offers the sockets to a successor and to the service manager. What comes out is the time that a
    /// successor left to this process.
    pub(crate) fn wait_for_successor(self: &Arc<Self>, path: &Path) -> mpsc::Receiver<Duration> {
        let (tell, told) = mpsc::channel(1);
        let offered = self.copies().and_then(|copies| {
            handover::store(&copies);
            Host::bind(path, copies)
        });
        let host = match offered {
            Ok(host) => host,
            Err(error) => {
                let path = path.display();
                self.log.warn(format_args!("no upgrade without restart: {path}: {error}"));
                return told;
            }
        };
        let (daemon, runtime) = (Arc::clone(self), tokio::runtime::Handle::current());
        let wait = move || {
            let _context = runtime.enter();
            while let Ok((channel, pid)) = host.wait() {
                if let Ok(left) = succession::serve(&daemon, &channel, pid) {
                    // The receiver is gone when this process leaves for another reason.
                    let _ = tell.blocking_send(left);
                    return;
                }
            }
        };
        // A process without threads left does not hand over.
        let _ = std::thread::Builder::new().name("handover".to_owned()).spawn(wait);
        told
    }

    /// Copies of everything that a successor goes on with.
    fn copies(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let mut copies = std::mem::take(&mut *self.descriptors.lock());
        copies.push(("zmq".to_owned(), self.fan_in.listener().try_clone_to_owned()?));
        if let Some(dtls) = self.station.pipeline.dtls.get() {
            copies.extend(dtls.copies()?);
        }
        Ok(copies)
    }

    /// Leaves new connections and registrations to a successor.
    pub(crate) fn stop_accepting(&self) {
        if let Some(task) = self.accepting.lock().take() {
            task.abort();
        }
        self.sources.stop();
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }

    /// Serves the open tunnels for at most `left`, then leaves without a word to detectors: the sessions are
    /// the successor's.
    pub(crate) async fn finish(&self, left: Duration, signals: &mut Signals) {
        process::status("draining");
        self.draining.store(true, Ordering::Relaxed);
        let deadline = tokio::time::Instant::now() + left;
        let open = || self.station.pipeline.stats.proxy.open.value() > 0;
        let closing = async {
            self.fan_in.dismiss(FAREWELL).await;
            while open() || self.station.pipeline.stats.connections.active.value() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        let told = async { while signals.next().await == Signal::Reload {} };
        tokio::select! {
            () = closing => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = told => {}
        }
        self.log.info("shutdown complete");
    }

    /// Stops taking work, gives open tunnels their grace, and tells detectors to forget.
    pub(crate) async fn end(&self) {
        self.log.info("closing all ingest threads");
        self.stop_accepting();
        let grace = *self.grace.lock();
        let deadline = tokio::time::Instant::now() + grace;
        let open = || self.station.pipeline.stats.proxy.open.value() > 0;
        while open() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let redis = self.station.pipeline.announcer.redis();
        redis.clear();
        redis.flush(FAREWELL).await;
    }
}

/// Where a successor asks for this process's sockets.
pub(crate) fn handover_socket() -> PathBuf {
    handover::socket_path(&admin::ipc_dir(), "application", offset())
}
