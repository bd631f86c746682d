//! `DAEMON --doctor`: the diagnosis of `station doctor`, for one daemon.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::process::Exit;

/// Becomes `station doctor --for PART` when this process was started with `--doctor`; what else stands
/// on the command line goes along. Returns only when it was not, or with the exit code for a `station`
/// program that is not there.
pub fn asked(part: &str) -> Option<ExitCode> {
    let rest = arguments(std::env::args_os().skip(1))?;
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(|dir| dir.join("station"));
    let program = beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("station"));
    let error = Command::new(&program).args(["doctor", "--for", part]).args(rest).exec();
    eprintln!(
        "--doctor: {}: {error}; install the station program beside this one",
        program.display()
    );
    Some(Exit::Unavailable.into())
}

/// The other arguments, when one of them asks for the doctor.
fn arguments(words: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    let words: Vec<OsString> = words.collect();
    let at = words.iter().position(|word| word == "--doctor" || word == "-doctor")?;
    Some(words.into_iter().enumerate().filter(|(place, _)| *place != at).map(|(_, w)| w).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_goes_along() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(arguments(words("-c 98 -n 4").into_iter()), None);
        assert_eq!(arguments(words("--doctor --json").into_iter()), Some(words("--json")));
        assert_eq!(arguments(words("--json -doctor").into_iter()), Some(words("--json")));
    }
}
