//! Moving a process into namespaces of its own.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Set in the environment of a process that lives inside; its value is the [`Mode`].
const INSIDE: &str = "CONJURE_LAB_INSIDE";
/// Set there as well: process id, outside, of the parent of the process inside.
const PARENT: &str = "CONJURE_LAB_PARENT";

/// How the namespaces were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By an ordinary user, in a user namespace.
    Rootless,
    /// By root.
    Root,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rootless => "rootless, in a user namespace (this user is not root)",
            Self::Root => "as root (this user is root, no user namespace is needed)",
        })
    }
}

/// Why the process cannot be isolated.
#[derive(Debug, thiserror::Error)]
pub enum IsolateError {
    /// An ordinary user, and the host allows no user namespaces.
    #[error(
        "this user is not root and {switch} = {value} forbids user namespaces; run with sudo, or \
         let an administrator set it to {wanted}"
    )]
    UserNamespaces {
        /// The kernel's switch.
        switch: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// The tun device is closed to this user.
    #[error(
        "/dev/net/tun is not open to this user (mode {mode:04o}, usual is 0666): the station cannot \
         forward packets; run with sudo, or let an administrator run: chmod 0666 /dev/net/tun"
    )]
    Tun {
        /// Permission bits found.
        mode: u32,
    },
    /// There is no tun device.
    #[error("/dev/net/tun does not exist; load the module: modprobe tun")]
    NoTun,
    /// The namespaces could not be made.
    #[error("unshare: {0} (Debian package util-linux)")]
    Unshare(std::io::Error),
}

/// The mode, when this process is inside already.
pub fn inside() -> Option<Mode> {
    match std::env::var(INSIDE).ok()?.as_str() {
        "rootless" => Some(Mode::Rootless),
        "root" => Some(Mode::Root),
        _ => None,
    }
}

/// Process id, outside, of the parent of the process inside, which is how somebody outside finds it.
pub fn parent() -> Option<u32> {
    std::env::var(PARENT).ok()?.parse().ok()
}

/// Replaces this process by itself inside new mount, network and process namespaces, rootless for
/// an ordinary user; returns the mode once it is inside. Processes inside die with it, whatever
/// kills it: it is process 1 of its namespace, and its parent's death kills it.
///
/// # Errors
/// When the host does not allow it, with the cause and the remedy.
pub fn enter() -> Result<Mode, IsolateError> {
    if let Some(mode) = inside() {
        return Ok(mode);
    }
    let root = rustix::process::geteuid().is_root();
    check_tun(root)?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !root {
        check_user_namespaces()?;
        command.args(["--user", "--map-root-user"]);
    }
    // The kernel's name for this program stays right even when the file was replaced.
    let program = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    command.arg("--").arg(program).args(arguments);
    // unshare takes this process's place and starts the one inside.
    command.env(PARENT, std::process::id().to_string());
    command.env(INSIDE, if root { "root" } else { "rootless" });
    Err(IsolateError::Unshare(command.exec()))
}

fn check_tun(root: bool) -> Result<(), IsolateError> {
    use std::os::unix::fs::PermissionsExt;
    let Ok(meta) = std::fs::metadata("/dev/net/tun") else { return Err(IsolateError::NoTun) };
    let open = std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_ok();
    if root || open {
        return Ok(());
    }
    Err(IsolateError::Tun { mode: meta.permissions().mode() & 0o7777 })
}

fn check_user_namespaces() -> Result<(), IsolateError> {
    let switches = [
        ("/proc/sys/user/max_user_namespaces", "0", "a number above 0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "1"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
    ];
    for (switch, forbids, wanted) in switches {
        if let Ok(value) = std::fs::read_to_string(Path::new(switch))
            && value.trim() == forbids
        {
            let value = value.trim().to_owned();
            return Err(IsolateError::UserNamespaces { switch, value, wanted });
        }
    }
    Ok(())
}
