//! What a daemon takes from itself before it reads its first packet (`spec/operations.md` 9.5):
//! its user, its capabilities, files outside a few folders, and system calls it never makes.
//!
//! A daemon opens what needs a privilege, then calls [`Sandbox::enter`] while it still has one
//! thread, and starts its runtime afterwards: capabilities and Landlock rules belong to threads, and
//! later threads inherit them.
#![deny(unsafe_code)]

mod calls;
mod capabilities;
mod files;
pub mod probe;
mod switch;
mod user;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use capabilities::Capability;
pub use files::parent_of;
pub use switch::{Switch, UnknownSwitch};
pub use user::{UnknownUser, User};

use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// Why a process cannot be confined.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// `CJ_SANDBOX` has a value that means nothing.
    #[error(transparent)]
    Switch(#[from] UnknownSwitch),
    /// `CJ_USER` names nobody.
    #[error("CJ_USER: {0}")]
    Account(#[from] UnknownUser),
    /// Threads exist that the rules would not reach.
    #[error("the sandbox must be entered before threads start, and there are {0}")]
    Threads(usize),
    /// The process may not become the user it was told to become.
    #[error(
        "cannot become user {user}: {source}; start as root, or as that user without --user and CJ_USER"
    )]
    User {
        /// The user.
        user: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A privilege could not be given up.
    #[error(
        "cannot give up {what}: {source} (CJ_SANDBOX=off starts without the sandbox, to find the cause)"
    )]
    System {
        /// Which.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl SandboxError {
    /// Whether a variable is wrong, which no other start will mend.
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::Switch(_) | Self::Account(_))
    }
}

/// The bounds of one daemon.
#[derive(Debug, Clone)]
pub struct Sandbox {
    daemon: &'static str,
    user: Option<User>,
    keep: Vec<Capability>,
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    fifos: Vec<PathBuf>,
    packet_sockets: bool,
    runs_programs: bool,
    closed_library: Option<&'static str>,
}

impl Sandbox {
    /// No capability, no file, no packet sockets. `daemon` names the process in messages.
    pub fn new(daemon: &'static str) -> Self {
        Self {
            daemon,
            user: None,
            keep: Vec::new(),
            read: Vec::new(),
            write: Vec::new(),
            fifos: Vec::new(),
            packet_sockets: false,
            runs_programs: false,
            closed_library: None,
        }
    }

    /// The process uses a library whose system calls and files nobody here knows, so neither is restricted and the
    /// user stays: only the capabilities are.
    #[must_use]
    pub const fn closed_library(mut self, name: &'static str) -> Self {
        self.closed_library = Some(name);
        self
    }

    /// The process may run programs of BPF that it has a descriptor of, and may do nothing else with `bpf(2)`.
    #[must_use]
    pub const fn runs_programs(mut self) -> Self {
        self.runs_programs = true;
        self
    }

    /// Becomes `user` first, where there is one; otherwise the one that `CJ_USER` names.
    #[must_use]
    pub fn user(mut self, user: Option<User>) -> Self {
        self.user = user;
        self
    }

    /// Keeps `capability`, if the process has it.
    #[must_use]
    pub fn keep(mut self, capability: Capability) -> Self {
        self.keep.push(capability);
        self
    }

    /// Lets the process read `path`, and everything below it when it is a folder.
    #[must_use]
    pub fn read(mut self, path: impl Into<PathBuf>) -> Self {
        self.read.push(path.into());
        self
    }

    /// Lets the process read the folder of `file`, so that a file which replaces it by rename can be
    /// read too.
    #[must_use]
    pub fn read_beside(self, file: &Path) -> Self {
        let folder = parent_of(file);
        self.read(folder)
    }

    /// Lets the process make, write and remove files and sockets below `folder`.
    #[must_use]
    pub fn write(mut self, folder: impl Into<PathBuf>) -> Self {
        self.write.push(folder.into());
        self
    }

    /// Lets the process write to what exists in `folder`; it can neither read there nor make anything.
    #[must_use]
    pub fn fifos(mut self, folder: impl Into<PathBuf>) -> Self {
        self.fifos.push(folder.into());
        self
    }

    /// Lets the process open packet sockets, as far as its capabilities go.
    #[must_use]
    pub const fn packet_sockets(mut self, allowed: bool) -> Self {
        self.packet_sockets = allowed;
        self
    }

    /// Confines this process for good, as `CJ_SANDBOX` says.
    ///
    /// # Errors
    /// [`SandboxError`] names what could not be given up. What the kernel does not have is a note.
    pub fn enter(self) -> Result<Entered, SandboxError> {
        let switch = Switch::of_environment()?;
        self.enter_as(switch)
    }

    /// As [`Sandbox::enter`], with the switch given.
    ///
    /// # Errors
    /// As [`Sandbox::enter`].
    pub fn enter_as(self, switch: Switch) -> Result<Entered, SandboxError> {
        match remaining(threads) {
            0 | 1 => {}
            threads => return Err(SandboxError::Threads(threads)),
        }
        let failed = |what| {
            move |errno: rustix::io::Errno| SandboxError::System { what, source: errno.into() }
        };
        let mut entered = Entered { kept: Vec::new(), notes: Vec::new() };
        let named = if self.user.is_none() { User::of_environment()? } else { None };
        let user = self.user.as_ref().or(named.as_ref());
        if let (Some(library), Some(user)) = (self.closed_library, user) {
            entered.notes.push(format!(
                "{}: does not become {}, because {library} needs the user that it was started as",
                self.daemon,
                user.name()
            ));
        } else if let Some(user) = user {
            user.become_it().map_err(|errno| SandboxError::User {
                user: user.name().to_owned(),
                source: errno.into(),
            })?;
        }
        rustix::thread::set_no_new_privs(true).map_err(failed("new privileges"))?;
        entered.kept = capabilities::keep_only(&self.keep).map_err(failed("capabilities"))?;
        if switch == Switch::Off {
            entered.notes.push(format!(
                "{}: CJ_SANDBOX=off: no seccomp, no Landlock, memory readable by this user; only \
                 to find a fault",
                self.daemon
            ));
            return Ok(entered);
        }
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(failed("core dumps"))?;
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        rustix::process::setrlimit(Resource::Core, none).map_err(failed("core dumps"))?;
        if let Some(library) = self.closed_library {
            entered.notes.push(format!(
                "{}: no seccomp and no Landlock: {library} is closed, and its system calls are not known",
                self.daemon
            ));
            return Ok(entered);
        }
        if switch == Switch::Log {
            entered.notes.push(format!(
                "{}: CJ_SANDBOX=log: system calls outside the profile are logged by the kernel and \
                 allowed, Landlock is off; only to find a fault",
                self.daemon
            ));
        } else {
            files::restrict(&self.read, &self.write, &self.fifos, &mut entered.notes);
        }
        calls::restrict(self.packet_sockets, self.runs_programs, switch, &mut entered.notes)
            .map_err(|source| SandboxError::System { what: "system calls", source })?;
        Ok(entered)
    }
}

/// What is left.
#[derive(Debug)]
pub struct Entered {
    /// Capabilities that the process still has.
    pub kept: Vec<Capability>,
    /// What an operator should hear: parts that the kernel does not have, or that are switched off.
    pub notes: Vec<String>,
}

/// Threads of this process; 0 when the kernel does not tell.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// The number that `threads` comes to once those that are ending have ended: a thread that was joined is still
/// counted until the kernel has removed it, which on a busy processor takes its time.
fn remaining(mut threads: impl FnMut() -> usize) -> usize {
    const TRIES: usize = 200;
    const PAUSE: Duration = Duration::from_millis(5);
    for _ in 0..TRIES {
        if threads() <= 1 {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    threads()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_are_ending_are_waited_for() {
        let mut counts = [3, 2, 2, 1].into_iter();
        assert_eq!(remaining(|| counts.next().unwrap_or(1)), 1);
        assert_eq!(remaining(|| 2), 2);
        assert_eq!(remaining(|| 0), 0);
        assert!(threads() >= 1);
    }
}
