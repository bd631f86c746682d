//! `station run`: starts all daemons and keeps them running.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use conf::{Loaded, Station};
use telemetry::process::{Exit, Signal, Signals};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::process::Child;
use tokio::task::JoinSet;

use crate::arguments::Configuration;
use crate::config::check;
use crate::daemons::Daemon;
use crate::upgrade::{Desk, Request};

/// First and longest pause before a daemon is started again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));
/// A daemon that lived this long starts again without a growing pause.
const STABLE: Duration = Duration::from_secs(10);
/// Longest time for which the others wait for zbalance.
const HEAD_START: Duration = Duration::from_millis(300);
/// Time that a successor has to become ready.
const SUCCESSION: Duration = Duration::from_secs(30);
/// Exit codes that another start does not change: usage, privileges, configuration.
const HOPELESS: &[i32] = &[64, 77, 78];
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
    let dir = station.ipc_dir.clone().unwrap_or_else(telemetry::admin::ipc_dir);
    let mut requests = Desk::open(&dir)?.serve();
    let mut draining: HashSet<u32> = HashSet::new();
    let mut successors = JoinSet::new();
    let mut succeeding: HashSet<Daemon> = HashSet::new();
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
            Some(Ok(Ended { daemon, pid, status, next_pause })) = waits.join_next() => {
                if pid.is_some_and(|pid| draining.remove(&pid)) {
                    continue;
                }
                if status == Some(0) && succeeding.contains(&daemon) {
                    // It has handed everything over; the successor is about to be ready.
                    running.insert(daemon, None);
                    continue;
                }
                if let Some(code) = status.filter(|code| HOPELESS.contains(code)) {
                    let name = daemon.name();
                    println!("station: {name} is not started again: exit code {code} needs a remedy");
                    running.insert(daemon, None);
                    continue;
                }
                let child = spawn(daemon, station, None)?;
                running.insert(daemon, child.id());
                println!("station: {} started again", daemon.name());
                waits.spawn(wait(daemon, child, next_pause));
            }
            Some((request, asker)) = requests.recv() => {
                let (readiness, notify) = Readiness::new()?;
                let mut command = daemon_command(request.daemon, station, Some(&notify))?;
                command.arg("--take-over").env("CJ_DRAIN_DEADLINE", request.drain.to_string());
                succeeding.insert(request.daemon);
                successors.spawn(succeed(request, command, readiness, asker));
            }
            Some(Ok((daemon, child))) = successors.join_next() => {
                succeeding.remove(&daemon);
                let present = running.get(&daemon).copied().flatten();
                let child = match (child, present) {
                    (Some(child), present) => {
                        println!("station: {} replaced", daemon.name());
                        draining.extend(present);
                        child
                    }
                    (None, Some(_)) => continue,
                    // It left for a successor that failed.
                    (None, None) => spawn(daemon, station, None)?,
                };
                running.insert(daemon, child.id());
                waits.spawn(wait(daemon, child, BACKOFF.0));
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
    // What drains is told as well: nobody is left to wait for it.
    let all: Vec<u32> = running.values().flatten().chain(&draining).copied().collect();
    for pid in &all {
        send(*pid, rustix::process::Signal::TERM);
    }
    let gone = async {
        while alive(&all) {
            tokio::time::sleep(Duration::from_millis(20)).await
        }
    };
    if tokio::time::timeout(FAREWELL, gone).await.is_err() {
        for pid in &all {
            send(*pid, rustix::process::Signal::KILL);
        }
    }
    Ok(())
}

/// Starts the successor of a daemon and tells whoever asked for it how that went; the child when it
/// serves.
async fn succeed(
    request: Request,
    command: Command,
    readiness: Readiness,
    mut asker: OwnedWriteHalf,
) -> (Daemon, Option<Child>) {
    let outcome = async {
        let spawned = tokio::process::Command::from(command).kill_on_drop(true).spawn();
        let mut child = spawned.map_err(|error| error.to_string())?;
        tokio::select! {
            () = readiness.wait() => Ok(child),
            status = child.wait() => Err(match status {
                Ok(status) => format!("the new process ended: {status}"),
                Err(error) => error.to_string(),
            }),
            () = tokio::time::sleep(SUCCESSION) => Err("the new process is not ready".to_owned()),
        }
    };
    let (answer, child) = match outcome.await {
        Ok(child) => (child.id().unwrap_or_default().to_string(), Some(child)),
        Err(error) => (error, None),
    };
    // The operator may have given up waiting.
    let _ = asker.write_all(format!("{answer}\n").as_bytes()).await;
    (request.daemon, child)
}

fn alive(pids: &[u32]) -> bool {
    pids.iter().any(|pid| {
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
    let command = daemon_command(daemon, station, notify)?;
    tokio::process::Command::from(command).kill_on_drop(true).spawn()
}

fn daemon_command(daemon: Daemon, station: &Station, notify: Option<&Path>) -> io::Result<Command> {
    let mut command = daemon.command(station).map_err(io::Error::other)?;
    command.stdin(Stdio::null());
    match notify {
        Some(path) => command.env("NOTIFY_SOCKET", path),
        None => command.env_remove("NOTIFY_SOCKET"),
    };
    // They are meant for this process.
    command.env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
    Ok(command)
}

/// A daemon that has ended.
struct Ended {
    daemon: Daemon,
    pid: Option<u32>,
    /// Its exit code; `None` when a signal ended it.
    status: Option<i32>,
    /// Pause before the next start but one.
    next_pause: Duration,
}

/// Waits for the end of a daemon, says so, and pauses.
async fn wait(daemon: Daemon, mut child: Child, pause: Duration) -> Ended {
    let (start, pid) = (Instant::now(), child.id());
    let result = child.wait().await;
    let status = result.as_ref().ok().and_then(ExitStatus::code);
    let how = match result {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    println!("station: {} ended ({how})", daemon.name());
    let pause = if start.elapsed() >= STABLE { BACKOFF.0 } else { pause };
    tokio::time::sleep(pause).await;
    Ended { daemon, pid, status, next_pause: (pause * 2).min(BACKOFF.1) }
}
