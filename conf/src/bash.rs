//! Asks bash what configuration files that are programs evaluate to.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::shell::Scope;

const TIME_LIMIT: Duration = Duration::from_secs(10);
const MAX_OUTPUT: u64 = 4 * 1024 * 1024;

/// Sources each file in turn; what it prints itself goes nowhere.
const PROGRAM: &str = "exec 3>&1 >/dev/null 2>&1 </dev/null\nset -a\nfor cj_file in \"$@\"; do \
                       CJ_STOP_RECURSE=true; . \"$cj_file\"; done\nunset cj_file CJ_STOP_RECURSE\n\
                       env -0 >&3";

/// Environment after bash has sourced `files` in the environment `before`.
///
/// # Errors
/// Why bash could not be asked, as the second half of a sentence.
pub(crate) fn evaluate(files: &[&Path], before: &Scope) -> Result<Vec<(String, String)>, String> {
    let mut child = Command::new("bash")
        .args(["--noprofile", "--norc", "-c", PROGRAM, "bash"])
        .args(files)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(before.iter().map(|(name, variable)| (name, &variable.value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("bash cannot be started: {e}"))?;
    let Some(output) = child.stdout.take() else { return Err("bash has no output".to_owned()) };
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        output.take(MAX_OUTPUT).read_to_end(&mut bytes).map(|_| bytes)
    });
    let started = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if started.elapsed() < TIME_LIMIT => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => {
                // It is being given up either way; a failure to kill changes nothing.
                let _ = child.kill();
                let _ = child.wait();
                return Err(match other {
                    Err(e) => format!("bash cannot be waited for: {e}"),
                    Ok(_) => format!("bash did not finish within {} s", TIME_LIMIT.as_secs()),
                });
            }
        }
    };
    if !status.success() {
        return Err(format!("bash ended with {status}"));
    }
    let bytes = reader
        .join()
        .map_err(|_| "the output of bash was lost".to_owned())?
        .map_err(|e| format!("the output of bash cannot be read: {e}"))?;
    let text = String::from_utf8(bytes).map_err(|_| "bash printed no UTF-8".to_owned())?;
    let own = ["_", "PWD", "OLDPWD", "SHLVL", "PATH"];
    Ok(text
        .split('\0')
        .filter_map(|entry| entry.split_once('='))
        .filter(|(name, _)| !own.contains(name) && !name.starts_with("BASH_FUNC_"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}
