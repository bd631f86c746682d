//! Row of connections: what one costs from accept to close, on threads that have a listener each and
//! keep what they accept.
//!
//! The station is a process of its own inside namespaces with the kernel's DNAT, on all processors; clients are
//! another process, whose time does not count.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use application::acceptors::{Acceptors, default_threads};
use application::group::Group;
use application::listener;
use rustix::thread::CpuSet;
use rustix::time::{ClockId, clock_gettime};

use crate::host::{self, Host};
use crate::loopback::{self, OTHER_RELAY};
use crate::measure::Row;
use crate::station;

/// Word that makes this program the host of the row.
pub(crate) const HOST: &str = "--accept-host";
/// Word that makes this program its clients.
pub(crate) const CLIENTS: &str = "--accept-clients";

/// Clients at one time.
const AT_ONCE: u16 = 16;
/// Connections of each.
const EACH: u16 = 500;
/// Ports of a phantom from which the kernel translates to either side.
const OWN_LISTENERS: u16 = 443;
const ONE_LISTENER: u16 = 444;

/// A listener for each thread against one for all.
pub(crate) fn row() -> Result<Row, String> {
    let host = Host::start(&[HOST])?;
    host.ask("one")?;
    Ok(Row {
        unit: "us",
        baseline_name: "one listener, and threads that share all tasks",
        ours: host.side("own"),
        baseline: Ok(host.side("one")),
        plausible: None,
    })
}

/// Answers the questions of the row until there are no more.
pub(crate) fn host() -> Result<(), String> {
    run_everywhere();
    loopback::enter()?;
    loopback::forget_soon()?;
    let failed = |e: std::io::Error| e.to_string();
    let threads = default_threads();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(failed)?;
    let inside = runtime.enter();
    let station = station::start("")?;
    drop(inside);
    let acceptors = Acceptors::start(threads).map_err(failed)?;
    let mut group = Group::open(listener::default_address()).map_err(failed)?;
    group.grow_to(threads).map_err(failed)?;
    acceptors.accept(&group, &station).map_err(failed)?;
    let one = listener::listen(OTHER_RELAY).map_err(failed)?;
    runtime.spawn(listener::accept(one, Arc::clone(&station)));
    let mut clients = Clients::start().map_err(failed)?;
    host::answer(|question| {
        let port = match question {
            "own" => OWN_LISTENERS,
            "one" => ONE_LISTENER,
            other => return Err(format!("{HOST}: unknown question {other}")),
        };
        let before = process_time();
        clients.connect(port)?;
        let spent = process_time() - before;
        Ok(spent.as_secs_f64() * 1e6 / f64::from(AT_ONCE * EACH))
    })
}

/// Processor time of all threads of this process.
fn process_time() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    // Neither part of this clock is ever negative.
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

/// Lets this process use every processor again; the bench has kept to one.
fn run_everywhere() {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    // Where that is refused both sides have one.
    let _ = rustix::thread::sched_setaffinity(None, &all);
}

/// The process with the clients.
struct Clients {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Clients {
    fn start() -> std::io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(CLIENTS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (orders, answers) = child.stdin.take().zip(child.stdout.take()).expect("are piped");
        Ok(Self { child, orders, answers: BufReader::new(answers) })
    }

    /// Lets all connections to `port` happen.
    fn connect(&mut self, port: u16) -> Result<(), String> {
        let mut line = String::new();
        let asked =
            writeln!(self.orders, "{port}").and_then(|()| self.answers.read_line(&mut line));
        match (asked, line.trim()) {
            (Ok(_), "done") => Ok(()),
            (Ok(_), said) => Err(format!("clients: {said}")),
            (Err(error), _) => Err(format!("clients: {error}")),
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The clients: for each port that comes, connections to phantoms that nobody registered.
pub(crate) fn clients() -> Result<(), String> {
    for (round, line) in (0..).zip(std::io::stdin().lines()) {
        let port = line.map_err(|e| e.to_string())?.parse().map_err(|_| "no port".to_owned())?;
        let threads = (1..=AT_ONCE).map(|number| {
            // Other addresses in each round: ports of a client are free again after a minute.
            let phantom = 1 + (u32::from(number) + round * u32::from(AT_ONCE)) % 254;
            let phantom = SocketAddr::from((Ipv4Addr::new(192, 122, 190, phantom as u8), port));
            std::thread::spawn(move || (0..EACH).try_for_each(|_| connect(phantom)))
        });
        let threads: Vec<_> = threads.collect();
        let all = threads.into_iter().try_for_each(|one| one.join().expect("it does not panic"));
        match all {
            Ok(()) => println!("done"),
            Err(error) => println!("{error}"),
        }
    }
    Ok(())
}

/// Sends a byte, ends writing, and waits for the station to close.
fn connect(phantom: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(phantom)?;
    stream.write_all(&[0x16])?;
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}
