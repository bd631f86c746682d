//! Standard streams and the background (`-d`, `-l`).

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use telemetry::process::Exit;

/// Set in the environment of the process that goes into the background; its parent reads what it
/// prints until it is ready.
const BACKGROUND: &str = "ZBALANCE_IN_BACKGROUND";
/// What it prints then.
pub const READY: &str = "zbalance: ready";

/// Whether this process is the one in the background.
pub fn is_background() -> bool {
    std::env::var_os(BACKGROUND).is_some()
}

/// Starts this program again as the process in the background and waits until it is ready or has
/// ended; its exit code.
///
/// # Errors
/// When it cannot be started.
pub fn start_background() -> io::Result<Exit> {
    // The kernel's name for this program stays right even when the file was replaced.
    let mut child = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .env(BACKGROUND, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(out) = child.stdout.take() {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            println!("{line}");
            if line.starts_with(READY) {
                return Ok(Exit::Ok);
            }
        }
    }
    let code = child.wait()?.code();
    let exits = [
        Exit::Ok,
        Exit::Usage,
        Exit::Unavailable,
        Exit::CantCreat,
        Exit::NoPerm,
        Exit::Config,
        Exit::OsErr,
    ];
    Ok(exits.into_iter().find(|exit| code == Some(*exit as i32)).unwrap_or(Exit::Software))
}

/// Lets go of the terminal and of the folder that this process was started in; what is printed goes
/// to `log`, or nowhere.
///
/// # Errors
/// When the system refuses.
pub fn leave(log: Option<&File>) -> io::Result<()> {
    // Not the leader of a group of processes: the parent started it.
    rustix::process::setsid()?;
    // Control socket and statistics stay where they are.
    if telemetry::admin::ipc_dir().is_absolute() {
        rustix::process::chdir("/")?;
    }
    match log {
        Some(log) => print_to(log),
        None => print_to(&File::options().write(true).open("/dev/null")?),
    }
}

/// Opens the log file, emptied.
///
/// # Errors
/// When it cannot be made.
pub fn open_log(path: &Path) -> io::Result<File> {
    let file = File::options().create(true).append(true).open(path)?;
    file.set_len(0)?;
    Ok(file)
}

/// Sends everything that is printed from now on to `file`.
///
/// # Errors
/// When the system refuses.
pub fn print_to(file: &File) -> io::Result<()> {
    rustix::stdio::dup2_stdout(file)?;
    rustix::stdio::dup2_stderr(file)?;
    Ok(())
}
