//! Metrics of a daemon, made of its status (`docs/metrics.md`), and the sockets that serve them.

mod endpoint;
pub mod sample;
pub mod table;
mod text;

use std::net::SocketAddr;
use std::sync::OnceLock;

use crate::admin::{DaemonStatus, Identification};

pub use endpoint::{serve_tcp, serve_unix, socket_path};
pub use sample::Floor;
pub use text::{Format, text};

/// Clients that a series must stand for when `CJ_METRICS_FLOOR` says nothing.
pub const DEFAULT_FLOOR: u32 = 10;
/// Highest floor: each row keeps as many hashes.
pub const MAX_FLOOR: u32 = 1000;
/// The daemons in the order of their ports above `CJ_METRICS_LISTEN`.
pub const DAEMONS: [&str; 4] = ["zbalance", "detector", "application", "registrar"];

/// A variable that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: found `{found}`, expected {expected}")]
pub struct BadSetting {
    variable: String,
    found: String,
    expected: &'static str,
}

/// Clients that a series must stand for: `CJ_METRICS_FLOOR`, or [`DEFAULT_FLOOR`].
///
/// # Errors
/// When the variable is no number from 0 to [`MAX_FLOOR`].
pub fn floor() -> Result<u32, BadSetting> {
    parse_floor(std::env::var("CJ_METRICS_FLOOR").ok())
}

fn parse_floor(found: Option<String>) -> Result<u32, BadSetting> {
    let Some(found) = found.filter(|text| !text.is_empty()) else { return Ok(DEFAULT_FLOOR) };
    found.trim().parse().ok().filter(|floor| *floor <= MAX_FLOOR).ok_or(BadSetting {
        variable: "CJ_METRICS_FLOOR".into(),
        found,
        expected: "a number of clients from 0 (show everything) to 1000",
    })
}

static CONFIGURED: OnceLock<SocketAddr> = OnceLock::new();

/// Takes the address that the configuration file names, before [`listen_address`] is asked.
pub fn configure(address: SocketAddr) {
    // The first one stays: a listener does not move while the process lives.
    let _ = CONFIGURED.set(address);
}

/// TCP address for the metrics of `daemon`: `CJ_METRICS_LISTEN_DAEMON`, the one of its configuration
/// file, or the address of `CJ_METRICS_LISTEN` with the port raised by the daemon's place in [`DAEMONS`].
///
/// # Errors
/// When the address is none, or not on loopback.
pub fn listen_address(daemon: &str) -> Result<Option<SocketAddr>, BadSetting> {
    let value = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let own = format!("CJ_METRICS_LISTEN_{}", daemon.to_uppercase());
    if let Some(found) = value(&own) {
        return parse_address(own, found).map(Some);
    }
    if let Some(address) = CONFIGURED.get() {
        return parse_address("metrics_listen".into(), address.to_string()).map(Some);
    }
    let Some(found) = value("CJ_METRICS_LISTEN") else { return Ok(None) };
    let base = parse_address("CJ_METRICS_LISTEN".into(), found)?;
    Ok(Some(raised(base, daemon)))
}

fn raised(mut address: SocketAddr, daemon: &str) -> SocketAddr {
    let place = DAEMONS.iter().position(|name| *name == daemon).unwrap_or_default();
    if address.port() != 0 {
        address.set_port(address.port().saturating_add(place as u16));
    }
    address
}

fn parse_address(variable: String, found: String) -> Result<SocketAddr, BadSetting> {
    let expected = "a loopback address and port such as 127.0.0.1:9440 or [::1]:9440: metrics are for \
                    this host (put a proxy with TLS and a password in front to read them elsewhere)";
    match found.trim().parse::<SocketAddr>() {
        Ok(address) if address.ip().to_canonical().is_loopback() => Ok(address),
        _ => Err(BadSetting { variable, found, expected }),
    }
}

/// Looks at every variable that `daemon` reads for its metrics.
///
/// # Errors
/// The first one that cannot be used; a daemon exits with 78 then.
pub fn check_environment(daemon: &str) -> Result<(), BadSetting> {
    floor()?;
    listen_address(daemon)?;
    Ok(())
}

/// The metrics of one daemon, at any time.
pub struct Exposition {
    who: Identification,
    status: Box<dyn Fn() -> DaemonStatus + Send + Sync>,
    floor: Floor,
}

impl std::fmt::Debug for Exposition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exposition").field("who", &self.who).finish_non_exhaustive()
    }
}

impl Exposition {
    /// Metrics of the process `who`, whose status is asked for each time.
    ///
    /// # Errors
    /// When `CJ_METRICS_FLOOR` cannot be used.
    pub fn new(
        who: Identification,
        status: impl Fn() -> DaemonStatus + Send + Sync + 'static,
    ) -> Result<Self, BadSetting> {
        Ok(Self { who, status: Box::new(status), floor: Floor::new(floor()?) })
    }

    /// Their text.
    pub fn text(&self, format: Format) -> String {
        text(&self.who.reply((self.status)()), &self.floor, format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_listened_on() {
        let parse = |text: &str| parse_address("CJ_METRICS_LISTEN".into(), text.into());
        assert!(parse("127.0.0.1:9440").is_ok() && parse("[::1]:0").is_ok());
        for text in ["0.0.0.0:9440", "192.0.2.1:9440", "[::]:9440", "9440", "localhost:9440"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("127.0.0.1:9440"), "{error}");
        }
    }

    #[test]
    fn daemons_share_one_variable() {
        let base = "127.0.0.1:9440".parse().unwrap();
        assert_eq!(raised(base, "zbalance").port(), 9440);
        assert_eq!(raised(base, "registrar").port(), 9443);
        assert_eq!(raised("127.0.0.1:0".parse().unwrap(), "detector").port(), 0);
    }

    #[test]
    fn the_floor_is_a_number() {
        assert_eq!(parse_floor(None), Ok(10));
        assert_eq!(parse_floor(Some("25".into())), Ok(25));
        for text in ["-1", "many", "1001"] {
            let error = parse_floor(Some(text.into())).unwrap_err().to_string();
            assert!(error.contains("CJ_METRICS_FLOOR") && error.contains(text), "{error}");
        }
    }
}
