//! Descriptors that a process did not open itself, by name.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use telemetry::process::notify;

/// First descriptor that a service manager passes (`sd_listen_fds(3)`).
const FIRST: i32 = 3;

/// Descriptors by name. What nobody takes is closed with this value.
#[derive(Debug, Default)]
pub struct Inherited {
    descriptors: HashMap<String, OwnedFd>,
    /// Whether a service manager keeps copies.
    of_manager: bool,
}

impl Inherited {
    /// What the service manager kept for this process, from `LISTEN_PID`, `LISTEN_FDS` and
    /// `LISTEN_FDNAMES`. Must be called once, before other descriptors are opened.
    pub fn of_manager() -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        if variable("LISTEN_PID").trim() != std::process::id().to_string() {
            return Self::default();
        }
        let count: i32 = variable("LISTEN_FDS").trim().parse().unwrap_or(0);
        let names = variable("LISTEN_FDNAMES");
        let mut names = names.split(':');
        let mut inherited = Self { of_manager: true, ..Self::default() };
        for number in FIRST..FIRST.saturating_add(count.clamp(0, 1024)) {
            let name = names.next().unwrap_or_default().to_owned();
            if let Some(descriptor) = adopt(number) {
                inherited.descriptors.insert(name, descriptor);
            }
        }
        inherited
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.descriptors.is_empty()
    }

    /// Takes the descriptor `name`.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.descriptors.remove(name)
    }

    /// Closes what nobody took, here and in the service manager. A tun device that is kept open there
    /// stays busy for whichever daemon the configuration gives it to.
    pub fn dismiss(self) {
        for name in self.descriptors.keys().filter(|_| self.of_manager) {
            notify(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
        }
    }

    pub(crate) fn insert(&mut self, name: &str, descriptor: OwnedFd) {
        self.descriptors.insert(name.to_owned(), descriptor);
    }
}

/// The descriptor `number`, if it is open.
#[allow(unsafe_code)]
fn adopt(number: i32) -> Option<OwnedFd> {
    use std::os::fd::{BorrowedFd, FromRawFd};
    // SAFETY: only borrowed for the call that asks whether it is open; a wrong number is an error.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC).ok()?;
    // SAFETY: the service manager opened it for this process, whose other code opened none with this
    // number, as `LISTEN_FDS` says; it is adopted once.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
