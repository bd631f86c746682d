//! What became of reloads: said to the manager, shown in the status.

use std::path::Path;

use signalling::station::FileResult;
use std::sync::{Mutex, PoisonError};

/// The reloads of a daemon.
#[derive(Debug, Default)]
pub struct Reloads(Mutex<Outcome>);

#[derive(Debug, Default)]
struct Outcome {
    refused: Option<String>,
    waiting: Vec<String>,
}

impl Reloads {
    /// Runs `reload` between the two messages that the manager waits for, keeps what was refused for
    /// the status, and returns the results. `state` is what the manager shows after a good one.
    pub fn run(&self, state: &str, reload: impl FnOnce() -> Vec<FileResult>) -> Vec<FileResult> {
        super::reloading();
        let results = reload();
        let refused = results.iter().find(|result| !result.applied).map(|r| r.error.clone());
        // A file that was applied and still has something to say waits for a restart.
        let waiting: Vec<String> = results
            .iter()
            .filter(|r| r.applied && !r.error.is_empty())
            .map(|r| r.error.clone())
            .collect();
        match (&refused, waiting.is_empty()) {
            (Some(error), _) => {
                super::ready(&format!("reload refused, the old set holds: {error}"))
            }
            (None, false) => super::ready(&format!("{state}; {}", waiting.join("; "))),
            (None, true) => super::ready(state),
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Outcome { refused, waiting };
        results
    }

    /// Lines for the status: the refusal of the last reload, and what waits for a restart.
    pub fn notes(&self) -> Vec<String> {
        let outcome = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = outcome.refused.iter().map(|error| format!("last reload refused: {error}"));
        refused.chain(outcome.waiting.iter().cloned()).collect()
    }
}

/// Result of one file: applied, or why not.
pub fn file_result(file: &Path, error: Option<&impl ToString>) -> FileResult {
    FileResult {
        file: file.display().to_string(),
        applied: error.is_none(),
        error: error.map(ToString::to_string).unwrap_or_default(),
    }
}

/// A file that was applied, but for the keys `waiting`, which only a restart changes.
pub fn merge(file: &Path, waiting: &[&str]) -> FileResult {
    let error = match waiting {
        [] => String::new(),
        keys => format!("needs a restart: {}", keys.join(", ")),
    };
    FileResult { file: file.display().to_string(), applied: true, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_stays_visible_until_a_good_one() {
        let reloads = Reloads::default();
        let file = Path::new("a.toml");
        reloads.run("ready", || vec![file_result(file, Some(&"a.toml:3: key: wrong"))]);
        assert_eq!(reloads.notes(), ["last reload refused: a.toml:3: key: wrong"]);
        reloads.run("ready", || vec![merge(file, &["tcp_listen", "socket_name"])]);
        assert_eq!(reloads.notes(), ["needs a restart: tcp_listen, socket_name"]);
        reloads.run("ready", || vec![merge(file, &[])]);
        assert!(reloads.notes().is_empty());
    }
}
