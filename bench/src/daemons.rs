//! Rows of whole daemons, driven as their users drive them: ours, and those of another folder, which
//! need not be ours. A daemon is told things by the files, variables and channels that every station has
//! (`spec/operations.md`, `spec/channels.md`).
//!
//! Each daemon runs in namespaces of its own with the kernel's DNAT and a Redis, on the last CPU; client and
//! covert have the first. A registration comes as a detector publishes it. What counts is the processor time
//! of the daemon's process, all threads, as the kernel says.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Publisher, PublisherOptions};
use transports::Transport;

use crate::host::{self, Host};
use crate::loopback::{self, COVERT, OTHER_RELAY};
use crate::measure::{Row, Side};
use crate::{relaying, sessions, station};

/// Word that makes this program the host of a daemon.
pub(crate) const HOST: &str = "--daemon-host";
/// The only daemon that rows drive.
pub(crate) const APPLICATION: &str = "application";

/// Time that a daemon may take for a step; no measurement.
const LIMIT: Duration = Duration::from_secs(30);
/// How often is looked whether it has been made.
const LOOK: Duration = Duration::from_millis(20);
/// Where every station of the reference's kind expects Redis.
const REDIS: (&str, u16) = ("127.0.0.1", 6379);

/// The unit of `/proc/PID/stat`; the kernel shows hundredths of a second whatever its own clock is.
const TICK: Duration = Duration::from_millis(10);

/// Questions to a host.
const RELAY: &str = "relay";
const SESSIONS: &str = "sessions";
const PLAIN_RELAY: &str = "plain-relay";
const PLAIN_SESSIONS: &str = "plain-sessions";

/// Rows of this module, with the question of each.
const QUESTIONS: &[(&str, &str)] = &[("station-relay", RELAY), ("station-sessions", SESSIONS)];

/// A download through the application against one through a 32 KiB relay.
pub(crate) fn relay() -> Result<Row, String> {
    let host = start(&beside()?)?;
    Ok(Row {
        unit: "ms/GB",
        baseline_name: "a 32 KiB read/write relay",
        ours: host.side(RELAY),
        baseline: Ok(host.side(PLAIN_RELAY)),
        plausible: None,
    })
}

/// Sessions of one byte, one after the other, against the system calls that they need.
pub(crate) fn sessions() -> Result<Row, String> {
    let host = start(&beside()?)?;
    Ok(Row {
        unit: "us",
        baseline_name: "the same system calls in one thread that blocks",
        ours: host.side(SESSIONS),
        baseline: Ok(host.side(PLAIN_SESSIONS)),
        plausible: None,
    })
}

/// The row `name` by the daemon in `dir`, which has no bench of ours.
pub(crate) fn other(dir: &Path, name: &str) -> Result<Side, String> {
    let question = QUESTIONS.iter().find(|(row, _)| *row == name);
    let Some((_, question)) = question else {
        return Err(format!("{} has daemons only, and this row drives none", dir.display()));
    };
    Ok(start(&dir.join(APPLICATION))?.side(question))
}

/// Our daemon lies beside this program.
fn beside() -> Result<PathBuf, String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    Ok(me.with_file_name(APPLICATION))
}

/// Starts a host for `program`; it answers when a tunnel has worked.
fn start(program: &Path) -> Result<Host, String> {
    if !program.is_file() {
        return Err(format!("there is no {} (ours: make build)", program.display()));
    }
    let path = program.to_str().ok_or("the path of the daemon is no text")?;
    let host = Host::start(&[HOST, path])?;
    host.ask("ready")?;
    Ok(host)
}

/// Answers the questions of a row about `program` until there are no more, or says what is missing.
pub(crate) fn host(program: &Path) -> Result<(), String> {
    loopback::enter()?;
    if let Err(reason) = serve(program) {
        host::refuse(&reason);
    }
    Ok(())
}

fn serve(program: &Path) -> Result<(), String> {
    loopback::forget_soon()?;
    let failed = |e: std::io::Error| e.to_string();
    let folder = tempfile::tempdir().map_err(failed)?;
    let covert = Arc::new(TcpListener::bind(COVERT).map_err(failed)?);
    let plain = TcpListener::bind(OTHER_RELAY).map_err(failed)?;
    let _redis = redis(folder.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(failed)?;
    let detector = Publisher::bind("ipc://@detector", PublisherOptions::default());
    let detector = runtime.block_on(detector).map_err(|e| e.to_string())?;
    let mut daemon = Daemon::start(program, folder.path())?;
    daemon.until("subscribes to the detector", || detector.stats().subscribers == 1)?;
    let phantom = station::phantom(Transport::Min, 0)?;
    daemon.until("relays a byte of the registered client", || {
        // Again each time: what comes before all parts of a daemon are joined may be lost.
        detector.publish(station::frame(Transport::Min, 0).into());
        sessions::probe(phantom, &covert).unwrap_or(false)
    })?;
    host::answer(|question| match question {
        "ready" => Ok(0.0),
        RELAY => {
            let before = daemon.spent()?;
            relaying::whole_download(phantom, &covert)?;
            Ok(relaying::per_gigabyte(daemon.spent()? - before))
        }
        PLAIN_RELAY => {
            let spent = relaying::relay_plainly(&plain, phantom, &covert).map_err(failed)?;
            Ok(relaying::per_gigabyte(Duration::from_secs_f64(spent)))
        }
        SESSIONS => {
            let before = daemon.spent()?;
            sessions::all(phantom, &covert)?;
            Ok(sessions::each(daemon.spent()? - before))
        }
        PLAIN_SESSIONS => sessions::plainly(&plain, phantom, &covert).map(sessions::each),
        other => Err(format!("{HOST}: unknown question {other}")),
    })
}

/// A process that ends with this value.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `program` with files in `folder`.
    fn start(program: &Path, folder: &Path) -> Result<Self, String> {
        let failed = |e: std::io::Error| e.to_string();
        let path = |name: &str| folder.join(name);
        station::files(folder).map_err(failed)?;
        std::fs::write(path("privkey"), station::PRIVATE_KEY).map_err(failed)?;
        std::fs::create_dir(path("ipc")).map_err(failed)?;
        let log = path("log");
        let output = std::fs::File::create(&log).map_err(failed)?;
        let child = Command::new(program)
            .env("CJ_STATION_CONFIG", path(station::SETTINGS))
            .env("PHANTOM_SUBNET_LOCATION", path(station::PHANTOM_FILE))
            .env("CJ_PRIVKEY", path("privkey"))
            .env("ZMQ_PRIVKEY", path("privkey"))
            .env("CJ_IPC_DIR", path("ipc"))
            .env("CJ_CORECOUNT", "1")
            .env("OFFSET", "0")
            .env("LOG_CLIENT_IP", "false")
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output)
            .spawn()
            .map_err(|e| format!("{}: {e}", program.display()))?;
        Ok(Self { child, log })
    }

    /// Waits until `holds`; the error is what the daemon said last.
    fn until(&mut self, what: &str, mut holds: impl FnMut() -> bool) -> Result<(), String> {
        let begin = Instant::now();
        while !holds() {
            let ended = self.child.try_wait().map_err(|e| e.to_string())?;
            if ended.is_some() || begin.elapsed() > LIMIT {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let from = log.lines().count().saturating_sub(5);
                let last: Vec<&str> = log.lines().skip(from).collect();
                let state = ended.map_or("runs".to_owned(), |status| status.to_string());
                return Err(format!("the daemon ({state}) never {what}: {}", last.join(" | ")));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Processor time of the process so far, with all threads that it has or had.
    fn spent(&self) -> Result<Duration, String> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        // Behind the name, which may hold anything: state is the first, utime and stime are 12th and 13th.
        let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u32 = fields.skip(11).take(2).filter_map(|n| n.parse::<u32>().ok()).sum();
        Ok(ticks * TICK)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Redis that ends with this value.
fn redis(folder: &Path) -> Result<Redis, String> {
    let child = Command::new("redis-server")
        .args(["--bind", REDIS.0, "--port", &REDIS.1.to_string(), "--save", ""])
        .args(["--appendonly", "no"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| format!("redis-server: {e} (Debian: redis-server)"))?;
    let redis = Redis(child);
    let (begin, address) = (Instant::now(), SocketAddr::new([127, 0, 0, 1].into(), REDIS.1));
    while TcpStream::connect(address).is_err() {
        if begin.elapsed() > LIMIT {
            return Err("redis-server does not answer".to_owned());
        }
        std::thread::sleep(LOOK);
    }
    Ok(redis)
}

struct Redis(Child);

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
