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
    #[error("{command}: {output}")]
    Failed {
        /// What was run.
        command: String,
        /// What it said.
        output: String,
    },
    /// The tool could not be run.
    #[error("{command}: {cause}")]
    Io {
        /// What was run.
        command: String,
        /// Why.
        cause: std::io::Error,
    },
}

/// Debian package of a tool.
fn package(tool: &str) -> &'static str {
    match tool {
        "nft" => "nftables",
        "ethtool" => "ethtool",
        "nsenter" | "unshare" | "mount" => "util-linux",
        _ => "iproute2",
    }
}

/// Runs `command`, feeding it `input`.
pub(crate) fn run(mut command: Command, input: &str) -> Result<(), CommandError> {
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
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that does not read says so in its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
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
