//! Command line: flags of the reference with one or two dashes, and ours.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;

/// Takes registrations over HTTP, AMP caches, DNS and gRPC, completes them and publishes them to the stations.
///
/// Without --config the path comes from CJ_REGISTRAR_CONFIG. The phantom subnets are read from
/// PHANTOM_SUBNET_LOCATION. SIGHUP reads configuration, ClientConf, phantom subnets and prefixes again;
/// sockets and keys stay, and what waits for a restart is named.
///
/// Once its sockets are open the process gives up all capabilities and enters its sandbox
/// (CJ_SANDBOX=on, log or off).
#[derive(Debug, Clone, Parser)]
#[command(name = "registrar", version)]
pub struct Arguments {
    /// Configuration file.
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Serve only the HTTP API.
    #[arg(long)]
    pub api_only: bool,
    /// Serve only the AMP endpoints.
    #[arg(long)]
    pub ampcache_only: bool,
    /// Serve only DNS.
    #[arg(long)]
    pub dns_only: bool,
    /// Become this user once the sockets are open (name, or UID:GID), otherwise CJ_USER.
    #[arg(long, value_name = "USER")]
    pub user: Option<sandbox::User>,
    /// Take the sockets of the running registrar, which answers what has begun (CJ_DRAIN_DEADLINE, in seconds,
    /// by default 3600) and leaves; see station upgrade.
    #[arg(long)]
    pub take_over: bool,
    /// Ask the running registrar for its state: 0 when it is ready, otherwise 1 with the reason.
    #[arg(long)]
    pub health: bool,
    /// Find what keeps it from working: `station doctor` for this daemon.
    #[arg(long)]
    pub doctor: bool,
    /// Read every file, say what is wrong, and exit: 0 when the registrar could start.
    #[arg(long)]
    pub check_config: bool,
}

impl Arguments {
    /// Parses the arguments of this process; prints help or usage and exits when asked to.
    pub fn of_process() -> Self {
        match Self::try_parse_from(with_two_dashes(std::env::args_os())) {
            Ok(arguments) => arguments,
            Err(error) => {
                // Nothing better can be done when the terminal is gone.
                let _ = error.print();
                let usage = i32::from(telemetry::process::Exit::Usage as u8);
                std::process::exit(if error.use_stderr() { usage } else { 0 });
            }
        }
    }
}

/// The reference's flags may carry one dash.
fn with_two_dashes(arguments: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    arguments.map(|argument| match argument.to_str() {
        Some(text) if text.len() > 2 && text.starts_with('-') && !text.starts_with("--") => {
            format!("-{text}").into()
        }
        _ => argument,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_one_or_two_dashes_with_or_without_an_equals_sign() {
        for line in ["-config /a -api-only", "--config=/a --api-only", "-config=/a -api-only"] {
            let words = std::iter::once("registrar").chain(line.split(' ')).map(OsString::from);
            let arguments = Arguments::try_parse_from(with_two_dashes(words)).unwrap();
            assert_eq!(arguments.config, Some(PathBuf::from("/a")));
            assert!(arguments.api_only && !arguments.dns_only);
        }
    }
}
