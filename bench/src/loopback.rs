//! A network of its own for the rows that need tunnels: loopback, and the kernel's DNAT from
//! phantoms to the application, as on a station's host.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::process::{Command, Stdio};

/// The covert of every tunnel.
pub const COVERT: SocketAddr =
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 2), 9999));

/// One of up to 200 further coverts, each with ports for tens of thousands of tunnels; the first is
/// [`COVERT`].
pub fn covert(number: usize) -> SocketAddr {
    let last = u8::try_from(2 + number).expect("there are 200 at most");
    SocketAddr::new(Ipv4Addr::new(198, 51, 100, last).into(), COVERT.port())
}

/// Where the kernel sends connections to port 444 of a phantom: a relay that is not ours.
pub const OTHER_RELAY: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 41246));

const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// How long the kernel remembers the translation of a connection that has ended, in seconds.
const REMEMBERED: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait";

const RULES: &str = "\
table ip bench {
  chain output {
    type nat hook output priority -100
    ip daddr 192.122.190.0/24 tcp dport 443 dnat to 127.0.0.1:41245
    ip daddr 192.122.190.0/24 udp dport 443 dnat to 127.0.0.1:41245
    ip daddr 192.122.190.0/24 tcp dport 444 dnat to 127.0.0.1:41246
  }
}
";

/// Moves this process into namespaces of its own and builds the network there. The process starts
/// again, with the same arguments, when it is not inside yet.
///
/// # Errors
/// When the host allows no namespaces, or a tool is missing or refuses.
pub fn enter() -> Result<(), String> {
    lab::isolate::enter().map_err(|e| e.to_string())?;
    // Pacing timers, which BBR sets, are the cost of a path and not of the relay on it.
    std::fs::write(CONGESTION_CONTROL, "reno").map_err(|e| format!("{CONGESTION_CONTROL}: {e}"))?;
    tool("ip", &["link", "set", "lo", "up"], "")?;
    tool("ip", &["addr", "add", "198.51.100.2/32", "dev", "lo"], "")?;
    tool("ip", &["route", "add", "local", "198.51.100.0/24", "dev", "lo"], "")?;
    tool("ip", &["route", "add", "local", "192.122.190.0/24", "dev", "lo"], "")?;
    tool("nft", &["-f", "-"], RULES)
}

/// Lets the kernel forget connections soon after their end: tens of thousands of short ones would fill its
/// table. Inside the network only.
pub(crate) fn forget_soon() -> Result<(), String> {
    std::fs::write(REMEMBERED, "1").map_err(|e| format!("{REMEMBERED}: {e}"))
}

pub(crate) fn tool(program: &str, arguments: &[&str], input: &str) -> Result<(), String> {
    let said = |e: std::io::Error| format!("{program}: {e} (Debian: iproute2, nftables)");
    let mut child =
        Command::new(program).args(arguments).stdin(Stdio::piped()).spawn().map_err(said)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(said)?;
    }
    let status = child.wait().map_err(said)?;
    if status.success() { Ok(()) } else { Err(format!("{program} {arguments:?}: {status}")) }
}
