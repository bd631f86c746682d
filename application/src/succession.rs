//! How one application follows another: sockets, registrations, and the datagrams of open sessions
//! change hands; open tunnels stay where they are (`spec/channels.md` 1, rule 5).
//!
//! | new process                                   | old process                              |
//! |-----------------------------------------------|------------------------------------------|
//! | asks for descriptors                          | sends them                               |
//! | `begin`                                       | leaves the fan-in socket, `begun`        |
//! | hears every source itself, then `state`       | every registration, `end`                |
//! | `ready N all`                                 | accepts and decides nothing more: what   |
//! |                                               | became valid since `state`, `stopped`    |
//! |                                               | with paths and a socket for their        |
//! |                                               | datagrams                                |
//! | accepts, reads the UDP socket                 | serves what is open for N seconds        |
//!
//! `all` stands for every listener, where there are several. A process that was built before there were
//! several says only `ready N`, and takes the one that it knows; the old process then leaves no connection to the
//! others.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use handover::{Channel, MAX_MESSAGE};
use telemetry::log::Logger;
use telemetry::process;

use crate::daemon::Daemon;
use crate::record::{Record, Records};
use crate::registration::Registration;

/// Time that the new process may take for each step.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ends the word `ready` where every one of several listeners was taken.
const ALL: &str = " all";
/// How long a tunnel of the old process may last when the new one does not say.
const DRAIN: Duration = Duration::from_secs(3600);

/// The new process's side.
#[derive(Debug)]
pub struct Successor {
    channel: Channel,
    /// Whether the old process has several listeners, and so knows of `all`.
    several: bool,
}

impl Successor {
    /// Begins; from now on the fan-in socket is this process's. The old process has one listener or
    /// `several`.
    ///
    /// # Errors
    /// When the old process breaks off.
    pub fn begin(channel: Channel, several: bool) -> io::Result<Self> {
        channel.patience(Some(PATIENCE))?;
        channel.send(b"begin", &[])?;
        expect(&channel, b"begun")?;
        Ok(Self { channel, several })
    }

    /// Every registration of the old process.
    ///
    /// # Errors
    /// When the old process breaks off or says something else.
    pub fn registrations(&self) -> io::Result<Vec<Record>> {
        self.channel.send(b"state", &[])?;
        let mut records = Vec::new();
        loop {
            let (message, _) = self.channel.receive()?;
            if message == b"end" {
                return Ok(records);
            }
            records.extend(Records::decode(&message).ok_or(io::ErrorKind::InvalidData)?);
        }
    }

    /// Takes over: the old process accepts and decides nothing more.
    ///
    /// # Errors
    /// When the old process breaks off.
    pub fn finish(self) -> io::Result<Rest> {
        let all = if self.several { ALL } else { "" };
        self.channel.send(format!("ready {}{all}", drain().as_secs()).as_bytes(), &[])?;
        let mut rest = Rest::default();
        loop {
            let (message, descriptors) = self.channel.receive()?;
            match message.split_first() {
                Some((b'p', part)) => rest.paths.extend_from_slice(part),
                Some((b'r', part)) => {
                    rest.decided.extend(Records::decode(part).ok_or(io::ErrorKind::InvalidData)?);
                }
                _ if message == b"stopped" => {
                    rest.datagrams = descriptors.into_iter().next().map(UnixDatagram::from);
                    return Ok(rest);
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}

/// What a predecessor leaves at its last step.
#[derive(Debug, Default)]
pub struct Rest {
    /// Registrations that became valid since [`Successor::registrations`].
    pub decided: Vec<Record>,
    /// Paths of its DTLS sessions.
    pub paths: Vec<u8>,
    /// Socket for their datagrams.
    pub datagrams: Option<UnixDatagram>,
}

/// How long the predecessor may live on, from `CJ_DRAIN_DEADLINE` in seconds.
fn drain() -> Duration {
    let text = std::env::var("CJ_DRAIN_DEADLINE").unwrap_or_default();
    text.trim().parse().map_or(DRAIN, Duration::from_secs)
}

fn expect(channel: &Channel, word: &[u8]) -> io::Result<()> {
    if channel.receive()?.0 == word { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Serves a successor to the end; `Ok` when it has taken over, with the time that is left. When it breaks
/// off before, this process goes on as if nothing had happened. Blocks; within a runtime's context.
///
/// # Errors
/// When the successor breaks off.
pub(crate) fn serve(daemon: &Arc<Daemon>, channel: &Channel, pid: u32) -> io::Result<Duration> {
    let log = Logger::new("[REG] ");
    log.info(format_args!("[HANDOVER] process {pid} takes over"));
    channel.patience(Some(PATIENCE))?;
    let served = converse(daemon, channel);
    match &served {
        Ok(left) => {
            process::notify(&format!("MAINPID={pid}"));
            log.info(format_args!("[HANDOVER] open tunnels may last {} s", left.as_secs()));
        }
        Err(error) => {
            log.error(format_args!("[HANDOVER] process {pid} broke off, going on: {error}"));
            daemon.fan_in.accept_again();
            daemon.station.pipeline.decisions.resume();
        }
    }
    served
}

fn converse(daemon: &Arc<Daemon>, channel: &Channel) -> io::Result<Duration> {
    expect(channel, b"begin")?;
    daemon.fan_in.stop_accepting();
    channel.send(b"begun", &[])?;
    expect(channel, b"state")?;
    let pipeline = &daemon.station.pipeline;
    // First, so that nothing becomes valid unseen while the store is being read.
    pipeline.decisions.watch();
    for message in Records::encode(&records(&pipeline.store.all()), MAX_MESSAGE) {
        channel.send(&message, &[])?;
    }
    channel.send(b"end", &[])?;
    let (message, _) = channel.receive()?;
    let left = String::from_utf8_lossy(&message);
    let left = left.strip_prefix("ready ").ok_or(io::ErrorKind::InvalidData)?;
    let (left, all) = left.strip_suffix(ALL).map_or((left, false), |left| (left, true));
    let left = left.parse().map_err(|_| io::ErrorKind::InvalidData)?;
    let left = Duration::from_secs(left);
    daemon.leave_listeners(all);
    daemon.stop_deciding();
    let decided = records(&pipeline.decisions.leave());
    for message in Records::encode(&decided, MAX_MESSAGE - 1) {
        channel.send(&[b"r", &*message].concat(), &[])?;
    }
    match pipeline.dtls.get() {
        Some(dtls) => {
            let (theirs, ours) = UnixDatagram::pair()?;
            for part in dtls.leave(ours)?.chunks(MAX_PATHS) {
                channel.send(&[b"p", part].concat(), &[])?;
            }
            channel.send(b"stopped", &[theirs.as_fd()])?;
        }
        None => channel.send(b"stopped", &[])?,
    }
    Ok(left)
}

fn records(registrations: &[Arc<Registration>]) -> Vec<Record> {
    registrations.iter().map(|one| Record::of(one)).collect()
}

/// Bytes of paths in one message: whole entries of 36 bytes.
const MAX_PATHS: usize = 36 * 2000;
