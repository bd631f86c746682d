//! Command line: the flag of the reference with one or two dashes, and ours.

use std::ffi::OsString;

use clap::Parser;

/// Answers connections to phantoms and relays them to the addresses that clients asked for.
///
/// The configuration is the file named by CJ_STATION_CONFIG. The phantom subnets are read from
/// PHANTOM_SUBNET_LOCATION, the station key from privkey_path or CJ_PRIVKEY. SIGHUP reads all of them
/// again but for keys; sockets stay open, and what waits for a restart is named.
///
/// The process gives up all capabilities and enters its sandbox (CJ_SANDBOX=on, log or off) before it
/// reads the first registration.
#[derive(Debug, Clone, Parser)]
#[command(name = "application", version)]
pub struct Arguments {
    /// Endpoint from which registrations are taken; normally the socket that socket_name names.
    #[arg(long, value_name = "ENDPOINT", default_value = "ipc://@zmq-proxy")]
    pub zmq_address: String,
    /// Become this user once the tun device is open (name, or UID:GID), otherwise CJ_USER.
    #[arg(long, value_name = "USER")]
    pub user: Option<sandbox::User>,
    /// Take sockets, registrations and new connections from the running application, which finishes what it
    /// has open (CJ_DRAIN_DEADLINE, in seconds, by default 3600) and leaves; see station upgrade.
    #[arg(long)]
    pub take_over: bool,
    /// Ask the running application for its state: 0 when it is ready, otherwise 1 with the reason.
    #[arg(long)]
    pub health: bool,
    /// Find what keeps it from working: `station doctor` for this daemon.
    #[arg(long)]
    pub doctor: bool,
    /// Read every file, say what is wrong, and exit: 0 when the application could start.
    #[arg(long)]
    pub check_config: bool,
}

impl Arguments {
    /// Parses the arguments of this process; prints help or usage and exits when asked to.
    pub fn of_process() -> Self {
        telemetry::process::parse_go_flags(Self::try_parse_from)
    }
}

/// Parses `words` as the process would; for tests.
///
/// # Errors
/// As clap.
pub fn parse(words: &[&str]) -> Result<Arguments, clap::Error> {
    let words = words.iter().map(OsString::from);
    Arguments::try_parse_from(telemetry::process::with_two_dashes(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_one_or_two_dashes() {
        for words in [["a", "-zmq-address", "ipc://@x"], ["a", "--zmq-address", "ipc://@x"]] {
            assert_eq!(parse(&words).unwrap().zmq_address, "ipc://@x");
        }
        assert_eq!(parse(&["a", "-zmq-address=ipc://@x"]).unwrap().zmq_address, "ipc://@x");
        assert_eq!(parse(&["a"]).unwrap().zmq_address, "ipc://@zmq-proxy");
        assert!(parse(&["a", "-zmq-adress=x"]).is_err());
    }
}
