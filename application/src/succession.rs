//! How one application follows another: sockets, registrations, and the datagrams of open sessions
//! change hands; open tunnels stay where they are (`spec/channels.md` 1, rule 5).
//!
//! | new process                                   | old process                              |
//! |-----------------------------------------------|------------------------------------------|
//! | asks for descriptors                          | sends them                               |
//! | `begin`                                       | leaves the fan-in socket, `begun`        |
//! | hears every source itself, then `state`       | every registration, `end`                |
//! | `ready N`                                     | accepts nothing more, `stopped` with     |
//! |                                               | paths and a socket for their datagrams   |
//! | accepts, reads the UDP socket                 | serves what is open for N seconds        |

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

/// Time that the new process may take for each step.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a tunnel of the old process may last when the new one does not say.
const DRAIN: Duration = Duration::from_secs(3600);

/// The new process's side.
#[derive(Debug)]
pub struct Successor {
    channel: Channel,
}

impl Successor {
    /// Begins; from now on the fan-in socket is this process's.
    ///
    /// # Errors
    /// When the old process breaks off.
    pub fn begin(channel: Channel) -> io::Result<Self> {
        channel.patience(Some(PATIENCE))?;
        channel.send(b"begin", &[])?;
        expect(&channel, b"begun")?;
        Ok(Self { channel })
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

    /// Takes over: the old process accepts nothing more. Returns the paths of its DTLS sessions and the
    /// socket for their datagrams.
    ///
    /// # Errors
    /// When the old process breaks off.
    pub fn finish(self) -> io::Result<(Vec<u8>, Option<UnixDatagram>)> {
        self.channel.send(format!("ready {}", drain().as_secs()).as_bytes(), &[])?;
        let mut paths = Vec::new();
        loop {
            let (message, descriptors) = self.channel.receive()?;
            match message.split_first() {
                Some((b'p', part)) => paths.extend_from_slice(part),
                _ if message == b"stopped" => {
                    return Ok((paths, descriptors.into_iter().next().map(UnixDatagram::from)));
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
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
        }
    }
    served
}

fn converse(daemon: &Arc<Daemon>, channel: &Channel) -> io::Result<Duration> {
    expect(channel, b"begin")?;
    daemon.fan_in.stop_accepting();
    channel.send(b"begun", &[])?;
    expect(channel, b"state")?;
    let records: Vec<Record> =
        daemon.station.pipeline.store.all().iter().map(|one| Record::of(one)).collect();
    for message in Records::encode(&records, MAX_MESSAGE) {
        channel.send(&message, &[])?;
    }
    channel.send(b"end", &[])?;
    let (message, _) = channel.receive()?;
    let left = String::from_utf8_lossy(&message);
    let left = left.strip_prefix("ready ").and_then(|text| text.parse().ok());
    let left = Duration::from_secs(left.ok_or(io::ErrorKind::InvalidData)?);
    daemon.stop_accepting();
    match daemon.station.pipeline.dtls.get() {
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

/// Bytes of paths in one message: whole entries of 36 bytes.
const MAX_PATHS: usize = 36 * 2000;
