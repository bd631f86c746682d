//! Listens to every daemon, and again when one has gone and come back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use signalling::station::{StatusReply, WatchStatusRequest};
use telemetry::admin::{self, AdminClient};
use tokio_stream::StreamExt;

/// Pause before a daemon that is not there is looked for again.
const RETRY: Duration = Duration::from_millis(500);
/// A daemon that is silent for this much longer than the interval has gone.
const PATIENCE: Duration = Duration::from_secs(3);

/// One answer of a daemon.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When it came.
    pub at: Instant,
    /// What it said.
    pub reply: StatusReply,
}

/// What is known of one daemon.
#[derive(Debug, Clone)]
pub struct Seat {
    /// Its name.
    pub daemon: &'static str,
    /// Its admin socket.
    pub socket: PathBuf,
    /// The last answer; `None` while it does not answer.
    pub now: Option<Seen>,
    /// The answer before, of the same process.
    pub before: Option<Seen>,
}

impl Seat {
    /// A daemon that has not answered yet.
    pub const fn empty(daemon: &'static str, socket: PathBuf) -> Self {
        Self { daemon, socket, now: None, before: None }
    }

    /// Takes an answer in.
    pub fn take(&mut self, reply: StatusReply, at: Instant) {
        let started = |reply: &StatusReply| reply.identity.as_ref().map(|who| who.started_unix_ms);
        let same = |seen: &Seen| started(&seen.reply) == started(&reply);
        self.before = self.now.take().filter(same);
        self.now = Some(Seen { at, reply });
    }

    /// The daemon has gone.
    pub fn lose(&mut self) {
        self.now = None;
        self.before = None;
    }

    /// How much `value` rises per second; 0 until there are two answers of one process.
    pub fn rate(&self, value: impl Fn(&StatusReply) -> u64) -> f64 {
        let (Some(now), Some(before)) = (&self.now, &self.before) else { return 0.0 };
        let seconds = (now.at - before.at).as_secs_f64().max(1e-3);
        value(&now.reply).saturating_sub(value(&before.reply)) as f64 / seconds
    }
}

/// Listens to the four daemons in a thread of its own, for as long as it lives.
#[derive(Debug)]
pub struct Feed {
    seats: Arc<Mutex<Vec<Seat>>>,
    runtime: tokio::runtime::Runtime,
}

impl Feed {
    /// Listens to the daemons whose admin sockets are in `dir`, with an answer every `interval`.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(dir: &Path, offset: u32, interval: Duration) -> std::io::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let seat = |daemon: &'static str| {
            Seat::empty(daemon, admin::socket_path(dir, daemon, offset_of(daemon, offset)))
        };
        let seats: Vec<Seat> = telemetry::metrics::DAEMONS.into_iter().map(seat).collect();
        let seats = Arc::new(Mutex::new(seats));
        for index in 0..telemetry::metrics::DAEMONS.len() {
            runtime.spawn(listen(Arc::clone(&seats), index, interval));
        }
        Ok(Self { seats, runtime })
    }

    /// What is known now.
    pub fn seats(&self) -> Vec<Seat> {
        self.seats.lock().clone()
    }

    /// The runtime that it listens in.
    pub const fn runtime(&self) -> &tokio::runtime::Runtime {
        &self.runtime
    }
}

/// Number in the names of a daemon's sockets: only detector and application have one.
pub fn offset_of(daemon: &str, offset: u32) -> u32 {
    if matches!(daemon, "zbalance" | "registrar") { 0 } else { offset }
}

async fn listen(seats: Arc<Mutex<Vec<Seat>>>, index: usize, interval: Duration) {
    let socket = seats.lock()[index].socket.clone();
    loop {
        // Whatever ended it, the daemon is looked for again.
        let _ = follow(&socket, interval, |reply| {
            seats.lock()[index].take(reply, Instant::now());
        })
        .await;
        seats.lock()[index].lose();
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow(
    socket: &Path,
    interval: Duration,
    mut take: impl FnMut(StatusReply),
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let channel = admin::channel(socket).await?;
    let interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
    let request = WatchStatusRequest { interval_ms };
    let mut replies = AdminClient::new(channel).watch(request).await?.into_inner();
    while let Some(reply) = tokio::time::timeout(interval + PATIENCE, replies.next()).await? {
        take(reply?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use signalling::station::Identity;

    fn reply(started: u64, threads: u64) -> StatusReply {
        StatusReply {
            identity: Some(Identity { started_unix_ms: started, ..Default::default() }),
            process: Some(signalling::station::ProcessStatus { threads, ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn a_restarted_daemon_begins_anew() {
        let value = |reply: &StatusReply| reply.process.as_ref().map_or(0, |p| p.threads);
        let mut seat = Seat::empty("detector", "/nowhere".into());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        seat.take(reply(1, 10), at(0));
        assert_eq!(seat.rate(value), 0.0);
        seat.take(reply(1, 30), at(2));
        assert_eq!(seat.rate(value), 10.0);
        seat.take(reply(2, 5), at(4));
        assert_eq!(seat.rate(value), 0.0);
        seat.take(reply(2, 6), at(5));
        assert_eq!(seat.rate(value), 1.0);
        seat.lose();
        assert_eq!(seat.rate(value), 0.0);
    }
}
