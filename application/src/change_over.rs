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
use tokio::sync::mpsc;

use crate::daemon::Daemon;
use crate::group::Group;
use crate::setup::offset;
use crate::succession::{self, Successor};

/// How often is looked whether everything has ended.
const LOOK: Duration = Duration::from_millis(20);
/// Time to hand the last messages to Redis at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long connections can come to a listener after the kernel sends no new ones there: their
/// handshakes were under way.
const STRAGGLERS: Duration = Duration::from_secs(5);

/// How the daemon came to its listeners.
#[derive(Debug)]
pub enum Arrival {
    /// It is the only one.
    First(Group),
    /// A predecessor still accepts.
    After(Group, Successor),
}

impl Daemon {
    /// Takes the registrations of a predecessor over, and then its connections.
    pub(crate) async fn follow(&self, group: Group, predecessor: Successor) -> io::Result<()> {
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
        self.accept(group)?;
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
        let mut copies = self.group.get().map_or_else(|| Ok(Vec::new()), Group::copies)?;
        copies.push(("zmq".to_owned(), self.fan_in.listener().try_clone_to_owned()?));
        if let Some(dtls) = self.station.pipeline.dtls.get() {
            copies.extend(dtls.copies()?);
        }
        Ok(copies)
    }

    /// Leaves connections to a successor, which has `all` listeners or knows only of the first.
    pub(crate) fn leave_listeners(&self, all: bool) {
        match self.group.get() {
            Some(group) if !all && group.size() > 1 => match group.leave_to_first() {
                Ok(()) => {
                    self.stragglers.store(true, Ordering::Relaxed);
                    self.acceptors.stop_first();
                }
                Err(error) => {
                    self.log.error(format_args!(
                        "[HANDOVER] the successor knows one listener of {}: {error}",
                        group.size()
                    ));
                    self.acceptors.stop();
                }
            },
            _ => self.acceptors.stop(),
        }
    }

    /// Leaves new registrations to a successor.
    pub(crate) fn stop_deciding(&self) {
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
            if self.stragglers.load(Ordering::Relaxed) {
                tokio::time::sleep(STRAGGLERS).await;
            }
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
        self.acceptors.stop();
        self.stop_deciding();
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
