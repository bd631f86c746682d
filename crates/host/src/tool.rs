//! Running the host's network tools.

use std::io::Write;
use std::process::{Command, Stdio};

/// A tool that could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The tool is not installed.
    #[error("{tool} is not installed; install the Debian package {package}")]
    Missing {
        /// The tool.
        tool: String,
        /// The package that brings it.
        package: &'static str,
    },
    /// The tool refused.
    #[error("command \"{command}\" failed: {output}")]
    Failed {
        /// What was run.
        command: String,
        /// What it said.
        output: String,
    },
    /// The tool could not be run.
    #[error("command \"{command}\" failed: {cause}")]
    Io {
        /// What was run.
        command: String,
        /// Why.
        cause: std::io::Error,
    },
}

/// Debian package of a tool.
pub fn package(tool: &str) -> &'static str {
    match tool {
        "nft" => "nftables",
        "iptables" | "ip6tables" | "iptables-restore" | "ip6tables-restore" => "iptables",
        "ethtool" => "ethtool",
        "nsenter" | "unshare" | "mount" | "umount" => "util-linux",
        "pf_ringcfg" => "pfring",
        "modprobe" => "kmod",
        "install" | "rmdir" | "chmod" | "chown" => "coreutils",
        _ => "iproute2",
    }
}

/// A command for `program`, found also where only administrators look for programs.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
    command
}

/// True when `program` is installed.
pub fn installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"])
        .any(|dir| !dir.is_empty() && std::path::Path::new(dir).join(program).is_file())
}

/// Runs `program` with `arguments` and returns what it prints.
///
/// # Errors
/// When it is not installed, cannot be run or refuses.
pub fn output(program: &str, arguments: &[&str]) -> Result<String, CommandError> {
    let mut command = command(program);
    command.args(arguments);
    run(command, "")
}

/// Runs `command`, feeding it `input`, and returns what it prints.
///
/// # Errors
/// When it is not installed, cannot be run or refuses.
pub fn run(mut command: Command, input: &str) -> Result<String, CommandError> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let text = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    let failed = |cause: std::io::Error| {
        if cause.kind() == std::io::ErrorKind::NotFound {
            CommandError::Missing { package: package(&tool), tool: tool.clone() }
        } else {
            CommandError::Io { command: text.clone(), cause }
        }
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that does not read says so in its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    // nsenter reports a tool that it cannot find with status 127.
    if output.status.code() == Some(127) {
        let tool = command.get_args().skip_while(|a| *a != "--").nth(1).unwrap_or_default();
        let tool = tool.to_string_lossy().into_owned();
        return Err(CommandError::Missing { package: package(&tool), tool });
    }
    Err(CommandError::Failed { command: text, output: said })
}
