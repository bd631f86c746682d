//! Types that cannot be printed by accident.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

static LOG_CLIENT_IP: AtomicBool = AtomicBool::new(false);

/// Whether client addresses may be printed. Set once at start from `LOG_CLIENT_IP`.
pub fn log_client_ip() -> bool {
    LOG_CLIENT_IP.load(Ordering::Relaxed)
}

/// Sets the one switch that lets client addresses be printed.
pub fn set_log_client_ip(on: bool) {
    LOG_CLIENT_IP.store(on, Ordering::Relaxed);
}

/// A value of `LOG_CLIENT_IP` that is no boolean (`spec/application.md` 2.2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "LOG_CLIENT_IP: found {found:?}, expected one of 1 t T TRUE true True 0 f F FALSE false False; \
     client addresses stay hidden"
)]
pub struct BadSwitch {
    found: String,
}

/// Reads the value of `LOG_CLIENT_IP`.
///
/// # Errors
/// For every text but the twelve that Go's boolean parser takes; the meaning is then false.
pub fn parse_log_client_ip(text: &str) -> Result<bool, BadSwitch> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        other => Err(BadSwitch { found: other.to_owned() }),
    }
}

/// Address of a client. Prints `_` unless `LOG_CLIENT_IP` is on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientAddr(pub IpAddr);

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if log_client_ip() { self.0.fmt(f) } else { f.write_str("_") }
    }
}

impl fmt::Debug for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Address and port of a client. Prints `_` unless `LOG_CLIENT_IP` is on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientEndpoint(pub SocketAddr);

impl fmt::Display for ClientEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if log_client_ip() { self.0.fmt(f) } else { f.write_str("_") }
    }
}

impl fmt::Debug for ClientEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hidden_by_default() {
        let client = ClientAddr("192.0.2.7".parse().unwrap());
        assert_eq!(format!("{client} {client:?}"), "_ _");
        let endpoint = ClientEndpoint("[2001:db8::7]:443".parse().unwrap());
        assert_eq!(format!("{endpoint} {endpoint:?}"), "_ _");
    }
}
