//! `station run`: starts all daemons and keeps them running.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use conf::{Loaded, Station};
use telemetry::process::{Exit, Signal, Signals};
use tokio::process::Child;
use tokio::task::JoinSet;

use crate::arguments::Configuration;
use crate::config::check;
use crate::daemons::Daemon;

/// First and longest pause before a daemon is started again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));
/// A daemon that lived this long starts again without a growing pause.
const STABLE: Duration = Duration::from_secs(10);
/// Longest time for which the others wait for zbalance.
const HEAD_START: Duration = Duration::from_millis(300);
/// Time that the daemons have to leave.
const FAREWELL: Duration = Duration::from_secs(10);

/// Runs the station until it is told to stop.
pub(crate) fn main(configuration: &Configuration) -> Exit {
    let station = match Station::load(&configuration.sources()) {
        Ok(Loaded { value, notices }) => {
            for notice in notices {
                eprintln!("station: note: {notice}");
            }
            value
        }
        Err(problems) => {
            eprintln!("{problems}");
            return Exit::Config;
        }
    };
    if !check::all_good(&station) {
        eprintln!("station: nothing was started");
        return Exit::Config;
    }
    telemetry::process::raise_nofile_limit();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("station: cannot start: {error}");
            return Exit::OsErr;
        }
    };
    match runtime.block_on(supervise(&station)) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            eprintln!("station: {error}");
            Exit::OsErr
        }
    }
}

/// Readiness messages of one daemon.
struct Readiness {
    _dir: tempfile::TempDir,
    socket: tokio::net::UnixDatagram,
}

impl Readiness {
    fn new() -> io::Result<(Self, std::path::PathBuf)> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UnixDatagram::from_std(socket)?;
        Ok((Self { _dir: dir, socket }, path))
    }

    /// Waits until the daemon says that it is ready.
    async fn wait(&self) {
        let mut text = [0; 4096];
        loop {
            match self.socket.recv(&mut text).await {
                Ok(n) if text[..n].split(|b| *b == b'\n').any(|line| line == b"READY=1") => return,
                Ok(_) => {}
                // The socket is our own; an error means that nothing will ever come.
                Err(_) => std::future::pending().await,
            }
        }
    }
}

async fn supervise(station: &Station) -> io::Result<()> {
    let mut signals = Signals::install()?;
    let start = Instant::now();
    let mut running = HashMap::new();
    let mut waits = JoinSet::new();
    let mut ready = JoinSet::new();
    for daemon in Daemon::ALL {
        let (readiness, notify) = Readiness::new()?;
        let child = spawn(daemon, station, Some(&notify))?;
        running.insert(daemon, child.id());
        waits.spawn(wait(daemon, child, BACKOFF.0));
        // A detector that finds its queues at once misses no packet; without them it waits too.
        if daemon == Daemon::Zbalance
            && tokio::time::timeout(HEAD_START, readiness.wait()).await.is_ok()
        {
            println!("station: zbalance ready after {} ms", start.elapsed().as_millis());
            continue;
        }
        ready.spawn(async move {
            readiness.wait().await;
            daemon
        });
    }
    let mut all_ready = false;
    loop {
        tokio::select! {
            Some(Ok(daemon)) = ready.join_next() => {
                let took = start.elapsed().as_millis();
                println!("station: {} ready after {took} ms", daemon.name());
                if ready.is_empty() && !all_ready {
                    all_ready = true;
                    println!("station: all daemons ready after {took} ms");
                    telemetry::process::notify("READY=1");
                }
            }
            Some(Ok((daemon, next_pause))) = waits.join_next() => {
                let child = spawn(daemon, station, None)?;
                running.insert(daemon, child.id());
                println!("station: {} started again", daemon.name());
                waits.spawn(wait(daemon, child, next_pause));
            }
            signal = signals.next() => match signal {
                Signal::Reload => {
                    for pid in running.values().flatten() {
                        send(*pid, rustix::process::Signal::HUP);
                    }
                }
                Signal::Interrupt | Signal::Terminate => break,
            },
        }
    }
    println!("station: stopping");
    for pid in running.values().flatten() {
        send(*pid, rustix::process::Signal::TERM);
    }
    let gone = async {
        while alive(&running) {
            tokio::time::sleep(Duration::from_millis(20)).await
        }
    };
    if tokio::time::timeout(FAREWELL, gone).await.is_err() {
        for pid in running.values().flatten() {
            send(*pid, rustix::process::Signal::KILL);
        }
    }
    Ok(())
}

fn alive(running: &HashMap<Daemon, Option<u32>>) -> bool {
    running.values().flatten().any(|pid| {
        // A zombie of ours is gone for our purposes.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    })
}

fn send(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        // A process that has just gone needs no signal.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn spawn(daemon: Daemon, station: &Station, notify: Option<&Path>) -> io::Result<Child> {
    let mut command = daemon.command(station).map_err(io::Error::other)?;
    command.stdin(Stdio::null());
    match notify {
        Some(path) => command.env("NOTIFY_SOCKET", path),
        None => command.env_remove("NOTIFY_SOCKET"),
    };
    tokio::process::Command::from(command).kill_on_drop(true).spawn()
}

/// Waits for the end of a daemon, says so, and pauses; the pause for the next time.
async fn wait(daemon: Daemon, mut child: Child, pause: Duration) -> (Daemon, Duration) {
    let start = Instant::now();
    let how = match child.wait().await {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    println!("station: {} ended ({how})", daemon.name());
    let pause = if start.elapsed() >= STABLE { BACKOFF.0 } else { pause };
    tokio::time::sleep(pause).await;
    (daemon, (pause * 2).min(BACKOFF.1))
}
