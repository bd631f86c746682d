//! Talking to the service manager, the protocol of `sd_notify(3)`.

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use rustix::time::{ClockId, clock_gettime};

/// Descriptors of one message at most.
const MAX_DESCRIPTORS: usize = 64;

/// Tells the service manager `state`, e.g. `READY=1`; does nothing without `NOTIFY_SOCKET`.
pub fn notify(state: &str) {
    notify_with(state, &[]);
}

/// As [`notify`], with descriptors for the manager to keep (`FDSTORE=1`).
pub fn notify_with(state: &str, descriptors: &[BorrowedFd<'_>]) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return;
    };
    // A manager that is gone is no reason to stop.
    let _ = send(&path, state, descriptors);
}

/// The daemon serves; `text` is what the manager shows.
pub fn ready(text: &str) {
    notify(&format!("READY=1\nSTATUS={}", one_line(text)));
}

/// What the manager shows from now on.
pub fn status(text: &str) {
    notify(&format!("STATUS={}", one_line(text)));
}

/// A reload begins; [`ready`] ends it (`Type=notify-reload`).
pub fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
}

/// The daemon leaves.
pub fn stopping() {
    notify("STOPPING=1\nSTATUS=stopping");
}

/// How often the manager wants a sign of life: half of `WATCHDOG_USEC`, unless that is meant for
/// another process.
pub fn watchdog_period() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    period(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id())
}

fn period(microseconds: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.trim() != own.to_string()) {
        return None;
    }
    let microseconds: u64 = microseconds?.trim().parse().ok()?;
    (microseconds > 0).then(|| Duration::from_micros(microseconds) / 2)
}

/// Gives signs of life while `is_alive` says so; returns at once when nobody wants them. Being
/// polled is the proof that the runtime lives; `is_alive` speaks for threads of one's own. It is
/// asked ten times in each period, so that a short stall of a thread costs no sign.
pub async fn watchdog(mut is_alive: impl FnMut() -> bool) {
    let Some(period) = watchdog_period() else { return };
    let mut ticks = tokio::time::interval(period / 10);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut alive = true;
    for tick in 0u64.. {
        ticks.tick().await;
        alive |= is_alive();
        if tick % 10 == 0 {
            if alive {
                notify("WATCHDOG=1");
            }
            alive = false;
        }
    }
}

/// The protocol is made of lines.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn send(path: &OsStr, state: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    };
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors"));
    }
    let parts = [io::IoSlice::new(state.as_bytes())];
    rustix::net::sendmsg_addr(&socket, &address, &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn readiness_reaches_the_manager() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1", &[]).unwrap();
        let mut text = [0; 64];
        let n = manager.recv(&mut text).unwrap();
        assert_eq!(&text[..n], b"READY=1");
    }

    #[test]
    fn the_watchdog_is_asked_for_by_time_and_process() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(period(text("10000000"), None, 7), Some(Duration::from_secs(5)));
        assert_eq!(period(text("10000000"), text("7"), 7), Some(Duration::from_secs(5)));
        assert_eq!(period(text("10000000"), text("8"), 7), None);
        for odd in [None, text("0"), text("soon")] {
            assert_eq!(period(odd, None, 7), None);
        }
        assert_eq!(one_line("a\nb"), "a b");
    }
}
