//! `--health`: asks the running daemon, for container health checks.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use signalling::station::StatusRequest;

use super::Exit;
use crate::admin::{self, AdminClient};

/// Time that a daemon has to answer.
const LIMIT: Duration = Duration::from_secs(3);

/// Whether the command line asks only for the health of a daemon that runs already: `--health` or
/// `-health`, anywhere in it.
pub fn wants_health(mut words: impl Iterator<Item = OsString>) -> bool {
    words.any(|word| word == "--health" || word == "-health")
}

/// Asks the daemon behind the admin socket `path` for its state: [`Exit::Ok`] when it is ready or
/// draining, otherwise exit code 1, with one line that says why.
pub fn health(path: &Path) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let asking = async {
        let absent = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let channel = admin::channel(path).await.map_err(|error| absent(&error))?;
        let reply = AdminClient::new(channel).status(StatusRequest {}).await;
        Ok::<_, String>(reply.map_err(|status| absent(&status.message()))?.into_inner())
    };
    let status = runtime
        .block_on(async { tokio::time::timeout(LIMIT, asking).await })
        .map_err(|_| format!("{}: no answer within {LIMIT:?}", path.display()))??;
    match status.state.as_str() {
        "ready" | "draining" => {
            println!("{}", status.state);
            Ok(())
        }
        other => Err(format!("{other}: {}", status.notes.join("; "))),
    }
}

impl Exit {
    /// Exit status of a health check.
    pub fn of_health(daemon: &str, result: Result<(), String>) -> std::process::ExitCode {
        match result {
            Ok(()) => std::process::ExitCode::SUCCESS,
            Err(text) => {
                eprintln!("{daemon}: {text}");
                std::process::ExitCode::FAILURE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_and_a_dead_daemon() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        for line in ["d --health", "d -health", "d -c 98 -n 2 --health"] {
            assert!(wants_health(words(line).into_iter()), "{line}");
        }
        assert!(!wants_health(words("d -c 98 -healthy").into_iter()));
        let error = health(Path::new("/nonexistent/x.admin.sock")).unwrap_err();
        assert!(error.starts_with("/nonexistent/x.admin.sock: "), "{error}");
    }
}
