//! Life cycle of a daemon: exit codes, limits, signals, its manager, its health.

mod health;
mod manager;
mod reloads;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use health::{health, wants_health};
pub use manager::{
    notify, notify_with, ready, reloading, status, stopping, watchdog, watchdog_period,
};
pub use reloads::{Reloads, file_result, merge};

/// Exit codes of the daemons, after sysexits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything went well.
    Ok = 0,
    /// Wrong command line.
    Usage = 64,
    /// Input data was refused.
    DataErr = 65,
    /// An input file cannot be read.
    NoInput = 66,
    /// A service that is needed is not there.
    Unavailable = 69,
    /// An error of our own.
    Software = 70,
    /// The system refused something, e.g. a fork.
    OsErr = 71,
    /// A file of ours cannot be made.
    CantCreat = 73,
    /// Input or output failed.
    IoErr = 74,
    /// A privilege is missing.
    NoPerm = 77,
    /// The configuration is wrong.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Raises the soft limit of open files to the hard limit and returns it
/// (`spec/application.md` 24, T-31).
pub fn raise_nofile_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// What the operator asked of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGINT: leave.
    Interrupt,
    /// SIGTERM: leave.
    Terminate,
}

/// Stream of the signals that a daemon acts on. Installing it makes SIGPIPE, SIGUSR1 and SIGUSR2
/// harmless too.
#[derive(Debug)]
pub struct Signals {
    hangup: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    user: [tokio::signal::unix::Signal; 2],
    user_reloads: bool,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn install() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            user: [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?],
            user_reloads: false,
        })
    }

    /// SIGUSR1 means reload as well (`spec/operations.md` 5.5, zbalance).
    #[must_use]
    pub const fn user1_reloads(mut self) -> Self {
        self.user_reloads = true;
        self
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> Signal {
        let [user1, user2] = &mut self.user;
        loop {
            tokio::select! {
                _ = self.hangup.recv() => return Signal::Reload,
                _ = self.interrupt.recv() => return Signal::Interrupt,
                _ = self.terminate.recv() => return Signal::Terminate,
                _ = user1.recv() => if self.user_reloads { return Signal::Reload },
                _ = user2.recv() => {}
            }
        }
    }
}

/// A flag that SIGINT and SIGTERM set, for a tool whose work is not asynchronous. SIGHUP means nothing to it.
///
/// # Errors
/// When the system refuses a handler or a thread.
pub fn stop_on_signal() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = runtime.block_on(async { Signals::install() })?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            while signals.next().await == Signal::Reload {}
            flag.store(true, Ordering::Relaxed);
        });
    })?;
    Ok(stop)
}

/// Parses the command line of this process with `parse`, flags with one dash allowed; prints help
/// or usage and exits when that is what was asked for.
pub fn parse_go_flags<A>(parse: impl FnOnce(Vec<OsString>) -> Result<A, clap::Error>) -> A {
    match parse(with_two_dashes(std::env::args_os()).collect()) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing better can be done when the terminal is gone.
            let _ = error.print();
            std::process::exit(if error.use_stderr() { Exit::Usage as i32 } else { 0 });
        }
    }
}

/// Gives the reference's flags, which may carry one dash, the two that clap wants.
pub fn with_two_dashes(words: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    words.map(|word| match word.to_str() {
        Some(text) if text.len() > 2 && text.starts_with('-') && !text.starts_with("--") => {
            format!("-{text}").into()
        }
        _ => word,
    })
}
