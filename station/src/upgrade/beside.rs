//! Daemons under a service manager, or started by hand: the successor is started as the old process was,
//! with its arguments, environment, user, namespaces, control group and streams.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::{READY, pid_of};
use crate::daemons::Daemon;
use crate::status;

/// Variables that are meant for the old process alone.
const NOT_INHERITED: &[&str] = &["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// Starts a successor of process `old` and waits until it answers on the admin socket at `path`.
pub(super) async fn replace(
    daemon: Daemon,
    old: u32,
    path: &Path,
    drain: u64,
) -> Result<u32, String> {
    let mut child = start(old, drain)?;
    let deadline = Instant::now() + READY;
    while Instant::now() < deadline {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("the new {} ended: {status}; see its log", daemon.name()));
        }
        if let Ok(status) = status::ask(path).await
            && pid_of(&status) == child.id()
        {
            return Ok(child.id());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Nobody else will end it.
    let _ = child.kill();
    Err(format!("the new process is not ready after {READY:?}"))
}

fn start(old: u32, drain: u64) -> Result<std::process::Child, String> {
    let proc = PathBuf::from(format!("/proc/{old}"));
    let read = |name: &str| {
        fs::read(proc.join(name)).map_err(|error| {
            format!("{}: {error}; start `station upgrade` as root", proc.join(name).display())
        })
    };
    let words = split(&read("cmdline")?);
    let (first, rest) = words.split_first().ok_or("the old process has no command line")?;
    let program = program(&proc, first)?;
    let mut command = match namespaces_differ(&proc) {
        false => Command::new(program),
        true => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--target={old}")).args(["--mount", "--net", "--"]).arg(program);
            command
        }
    };
    command.args(rest.iter().filter(|word| *word != "--take-over")).arg("--take-over");
    command.env_clear();
    for pair in split(&read("environ")?) {
        let Some(at) = pair.as_bytes().iter().position(|byte| *byte == b'=') else { continue };
        let (name, value) = (&pair.as_bytes()[..at], &pair.as_bytes()[at + 1..]);
        if !NOT_INHERITED.iter().any(|not| not.as_bytes() == name) {
            command.env(OsStr::from_bytes(name), OsStr::from_bytes(value));
        }
    }
    command.env("CJ_DRAIN_DEADLINE", drain.to_string());
    let (uid, gid) = owner(&read("status")?).ok_or("the old process has no owner")?;
    if rustix::process::geteuid().is_root() && uid != 0 {
        command.arg(format!("--user={uid}:{gid}"));
    }
    if let Ok(directory) = fs::read_link(proc.join("cwd")) {
        command.current_dir(directory);
    }
    command.stdin(Stdio::null());
    if let Some([out, err]) = streams(old) {
        command.stdout(out).stderr(err);
    }
    let child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    join_control_group(&proc, child.id());
    Ok(child)
}

fn split(bytes: &[u8]) -> Vec<OsString> {
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| OsStr::from_bytes(word).to_owned()).collect()
}

/// The program that is on disk now, where the old process's was.
fn program(proc: &Path, first: &OsStr) -> Result<PathBuf, String> {
    let named = PathBuf::from(first);
    if named.is_absolute() {
        return Ok(named);
    }
    let link = fs::read_link(proc.join("exe")).map_err(|error| error.to_string())?;
    let text = link.as_os_str().as_bytes();
    let text = text.strip_suffix(b" (deleted)").unwrap_or(text);
    Ok(PathBuf::from(OsStr::from_bytes(text)))
}

fn namespaces_differ(proc: &Path) -> bool {
    ["mnt", "net"].iter().any(|name| {
        let own = fs::read_link(Path::new("/proc/self/ns").join(name));
        let other = fs::read_link(proc.join("ns").join(name));
        matches!((own, other), (Ok(own), Ok(other)) if own != other)
    })
}

/// Effective user and group of a process, from its `status`.
fn owner(status: &[u8]) -> Option<(u32, u32)> {
    let text = String::from_utf8_lossy(status);
    let effective = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Some((effective("Uid:")?, effective("Gid:")?))
}

/// Standard output and error of the old process, e.g. its stream to the journal.
fn streams(old: u32) -> Option<[Stdio; 2]> {
    let pid = Pid::from_raw(i32::try_from(old).ok()?)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let stream = |number| pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).ok();
    Some([Stdio::from(stream(1)?), Stdio::from(stream(2)?)])
}

/// Puts the new process where the service manager counts the old one.
fn join_control_group(proc: &Path, new: u32) {
    let text = fs::read_to_string(proc.join("cgroup")).unwrap_or_default();
    if text == fs::read_to_string("/proc/self/cgroup").unwrap_or_default() {
        return;
    }
    if let Some(group) = text.lines().find_map(|line| line.strip_prefix("0::/")) {
        let procs = Path::new("/sys/fs/cgroup").join(group).join("cgroup.procs");
        // Without a service manager it does not matter where the process is counted.
        let _ = fs::write(procs, new.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_process_is_read_as_it_was_started() {
        assert_eq!(split(b"/bin/detector\0-c\098\0"), ["/bin/detector", "-c", "98"]);
        let status = b"Name:\tdetector\nUid:\t1000\t1001\t0\t0\nGid:\t7\t8\t9\t9\n";
        assert_eq!(owner(status), Some((1001, 8)));
        let own = PathBuf::from("/proc/self");
        assert!(!namespaces_differ(&own));
        assert_eq!(program(&own, OsStr::new("/bin/x")).unwrap(), Path::new("/bin/x"));
        let exe = std::env::current_exe().unwrap();
        assert_eq!(program(&own, OsStr::new("x")).unwrap(), exe);
    }
}
