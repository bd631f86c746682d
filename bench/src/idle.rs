//! Row of the memory that an idle tunnel holds, measured by programs of their own (`bench-idle`),
//! because they count what they allocate.
//!
//! A station serves its tunnels in a network of its own with the kernel's DNAT; clients and covert are
//! other processes, which open the tunnels that they are told to. Where the limit of descriptors is too
//! low for all tunnels, the station has several threads with a table of descriptors each.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use application::daemon::accept;
use application::{Station, listener};
use endpoint::{Endpoint, Limits};
use keys::{ClientVersion, SharedSecret};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use telemetry::process::raise_nofile_limit;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use transports::Transport;
use transports::dtls::Party;
use transports::obfs4::{Client, ClientError, ClientIdentity, Progress};

use crate::loopback;
use crate::measure::Row;
use crate::station;

/// Tunnels before, and after.
const FEW: u64 = 1_000;
const MANY: u64 = 11_000;
/// Min tunnels after.
const MOST: u64 = 100_000;
/// Descriptors of a tunnel at the station.
const DESCRIPTORS: u64 = 2;
/// Descriptors of everything else.
const SPARE: u64 = 500;
const IDLE: Duration = Duration::from_secs(5);
/// Word that makes `bench-idle` the clients and the covert.
const CLIENTS: &str = "clients";

/// A Min tunnel.
pub(crate) fn min() -> Result<Row, String> {
    row(Transport::Min, MOST, 4096.0)
}

/// An obfs4 tunnel.
pub(crate) fn obfs4() -> Result<Row, String> {
    row(Transport::Obfs4, MANY, 8192.0)
}

/// A DTLS session and its tunnel.
pub(crate) fn dtls() -> Result<Row, String> {
    row(Transport::Dtls, MANY, 65_536.0)
}

/// The heap of the difference between many and few tunnels, by tunnel, against its bound.
fn row(transport: Transport, many: u64, bound: f64) -> Result<Row, String> {
    let program = program()?;
    let output = Command::new(&program)
        .args([transport.number().to_string(), FEW.to_string(), many.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("{}: {e} (make build)", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let counted = text.lines().find_map(|line| line.strip_prefix('=')?.parse::<i64>().ok());
    let each = counted.ok_or("bench-idle has failed")? as f64 / (many - FEW) as f64;
    Ok(Row {
        unit: "B",
        baseline_name: "what a tunnel may hold",
        ours: Box::new(move || each),
        baseline: Ok(Box::new(move || bound)),
        plausible: None,
    })
}

/// `bench-idle` lies beside this program.
fn program() -> Result<PathBuf, String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    Ok(me.with_file_name("bench-idle"))
}

/// Runs its argument and returns the bytes that this thread has allocated and not freed meanwhile.
pub type Heap = fn(&mut dyn FnMut()) -> i64;

/// The `bench-idle` program: `TRANSPORT FEW MANY` prints the bytes by which the heap grows from few
/// to many tunnels of the transport with this number.
///
/// # Errors
/// When something that the measurement needs is missing, or a tunnel does not work.
pub fn run(words: impl Iterator<Item = String>, heap: Heap) -> Result<(), String> {
    let words: Vec<String> = words.collect();
    if let [CLIENTS, covert] = &*words.iter().map(String::as_str).collect::<Vec<_>>() {
        let covert = covert.parse().map_err(|_| format!("no address: {covert}"))?;
        return serve_clients(covert).map_err(|e| e.to_string());
    }
    let numbers: Option<Vec<u64>> = words.iter().map(|word| word.parse().ok()).collect();
    let Some(&[transport, few, many]) = numbers.as_deref() else {
        return Err("usage: bench-idle TRANSPORT FEW MANY".to_owned());
    };
    let transport = Transport::try_from(transport as i32).map_err(|e| e.to_string())?;
    loopback::enter()?;
    println!("={}", grown(transport, few, many, heap)?);
    Ok(())
}

/// Bytes by which the heap of one station grows from `few` to `many` tunnels.
///
/// A limit of descriptors holds for a table of them, and Linux lets a thread have a table of its own:
/// so a station of one process, with one heap, has as many tunnels as it needs threads for. They take
/// their turns one after the other.
fn grown(transport: Transport, few: u64, many: u64, heap: Heap) -> Result<i64, String> {
    let failed = |e: std::io::Error| e.to_string();
    let limit = raise_nofile_limit().unwrap_or(u64::MAX).max(SPARE + DESCRIPTORS);
    let tables = match transport {
        Transport::Dtls => 1,
        _ => (many * DESCRIPTORS).div_ceil(limit - SPARE),
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let inside = runtime.enter();
    let (station, listener) = match transport {
        Transport::Dtls => (station::listen_dtls()?, None),
        _ => {
            let listener = listener::listen(listener::default_address()).map_err(failed)?;
            (station::patient()?, Some(listener))
        }
    };
    drop(inside);
    let mut turns = Vec::new();
    for number in 0..tables as usize {
        let listener = listener.as_ref().map(TcpListener::try_clone).transpose().map_err(failed)?;
        turns.push(Turns::start(number, Arc::clone(&station), transport, listener, heap)?);
    }
    let mut all = async |numbers: std::ops::Range<u64>| {
        let mut bytes = 0;
        for (turn, share) in turns.iter_mut().zip(shares(numbers, tables)) {
            bytes += turn.take(share).await?;
        }
        Ok::<_, String>(bytes)
    };
    runtime.block_on(all(0..few))?;
    let mut result = Ok(0);
    // What the station does for all of them belongs to it.
    let common = heap(&mut || result = runtime.block_on(all(few..many)));
    let bytes = result? + common;
    let open = station.pipeline.stats.proxy.open.value();
    if open == many as i64 { Ok(bytes) } else { Err(format!("{open} of {many} tunnels are open")) }
}

/// `numbers` in equal parts, one for each of `tables`.
fn shares(
    numbers: std::ops::Range<u64>,
    tables: u64,
) -> impl Iterator<Item = std::ops::Range<u64>> {
    let all = numbers.end - numbers.start;
    let at = move |table: u64| numbers.start + all * table / tables;
    (0..tables).map(move |table| at(table)..at(table + 1))
}

/// A thread with a table of descriptors, where tunnels of the station are opened and kept.
struct Turns {
    wanted: mpsc::SyncSender<std::ops::Range<u64>>,
    grown: tokio::sync::mpsc::Receiver<Result<i64, String>>,
}

impl Turns {
    fn start(
        number: usize,
        station: Arc<Station>,
        transport: Transport,
        listener: Option<TcpListener>,
        heap: Heap,
    ) -> Result<Self, String> {
        let (wanted, ranges) = mpsc::sync_channel::<std::ops::Range<u64>>(1);
        let (answers, grown) = tokio::sync::mpsc::channel(1);
        let (ready, made) = mpsc::sync_channel(1);
        let work = move || {
            let mut table = match Table::new(number, station, transport, listener) {
                Ok(table) => table,
                // Whoever does not listen any more has failed already, here and below.
                Err(reason) => return drop(ready.send(Err(reason))),
            };
            let _ = ready.send(Ok(()));
            for numbers in ranges {
                let mut result = Ok(());
                let bytes = heap(&mut || result = table.open(numbers.clone()));
                let _ = answers.blocking_send(result.map(|()| bytes));
            }
        };
        std::thread::Builder::new().spawn(work).map_err(|e| e.to_string())?;
        made.recv().map_err(|e| e.to_string())??;
        Ok(Self { wanted, grown })
    }

    /// Opens the tunnels of these registrations; bytes by which the thread's heap has grown.
    async fn take(&mut self, numbers: std::ops::Range<u64>) -> Result<i64, String> {
        self.wanted.send(numbers).map_err(|e| e.to_string())?;
        self.grown.recv().await.ok_or("a thread of the station has panicked")?
    }
}

/// What such a thread has.
struct Table {
    runtime: tokio::runtime::Runtime,
    station: Arc<Station>,
    transport: Transport,
    covert: SocketAddr,
    clients: Clients,
}

impl Table {
    fn new(
        number: usize,
        station: Arc<Station>,
        transport: Transport,
        listener: Option<TcpListener>,
    ) -> Result<Self, String> {
        let failed = |e: std::io::Error| e.to_string();
        own_descriptors().map_err(failed)?;
        let covert = loopback::covert(number);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        if let Some(listener) = listener {
            runtime.spawn(accept(listener, Arc::clone(&station)));
        }
        let clients = Clients::start(covert).map_err(failed)?;
        Ok(Self { runtime, station, transport, covert, clients })
    }

    /// Opens the tunnels of the registrations of these numbers, and leaves them idle.
    fn open(&mut self, numbers: std::ops::Range<u64>) -> Result<(), String> {
        let Self { runtime, station, transport, covert, clients } = self;
        runtime.block_on(async {
            for number in numbers {
                let phantom = station::register_to(*covert, station, *transport, number).await?;
                let opened = clients.open(*transport, number, phantom);
                opened.await.map_err(|_| format!("tunnel {number} does not work"))?;
            }
            tokio::time::sleep(IDLE).await;
            Ok(())
        })
    }
}

/// Gives this thread, and those that it starts, a table of descriptors of its own.
#[allow(deprecated)]
fn own_descriptors() -> std::io::Result<()> {
    // The function is deprecated because a descriptor that is handed to a thread with another table
    // means another file there. No descriptor leaves this thread.
    Ok(rustix::thread::unshare(rustix::thread::UnshareFlags::FILES)?)
}

/// Tunnel to open, as a line for the clients, and where to say that it works.
type Wanted = (u64, String, oneshot::Sender<()>);

/// The process with the clients, and the thread that talks to it.
struct Clients {
    child: Child,
    wanted: mpsc::SyncSender<Wanted>,
}

impl Clients {
    fn start(covert: SocketAddr) -> std::io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([CLIENTS.to_owned(), covert.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (mut orders, done) = child.stdin.take().zip(child.stdout.take()).expect("are piped");
        let mut done = BufReader::new(done);
        let (wanted, all) = mpsc::sync_channel::<Wanted>(1);
        std::thread::spawn(move || {
            for (number, order, works) in all {
                let mut line = String::new();
                let answer = writeln!(orders, "{order}").and_then(|()| done.read_line(&mut line));
                // Without an answer `works` is dropped, which is the answer.
                if answer.is_ok() && line.trim() == number.to_string() {
                    let _ = works.send(());
                }
            }
        });
        Ok(Self { child, wanted })
    }

    fn open(
        &mut self,
        transport: Transport,
        number: u64,
        phantom: SocketAddr,
    ) -> oneshot::Receiver<()> {
        let (works, opened) = oneshot::channel();
        let order = format!("{number} {} {phantom}", transport.number());
        // A thread that has ended drops `works`, which is the answer.
        let _ = self.wanted.send((number, order, works));
        opened
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Opens a tunnel for each line `NUMBER TRANSPORT PHANTOM`, sends a byte each way, and keeps it
/// open.
fn serve_clients(covert: SocketAddr) -> std::io::Result<()> {
    raise_nofile_limit();
    let covert = TcpListener::bind(covert)?;
    let mut diallers = Diallers::new()?;
    let mut open: Vec<(Open, TcpStream)> = Vec::new();
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let &[number, transport, phantom] = &words[..] else { panic!("three words: {line}") };
        let number: u64 = number.parse().expect("a number");
        let transport = transport.parse().ok().and_then(|number: i32| number.try_into().ok());
        let secret = SharedSecret::new(&station::secret(number));
        open.push(match transport.expect("a transport") {
            Transport::Dtls => {
                let phantom = phantom.parse().expect("an address");
                let (client, server) = diallers.exchange(phantom, &covert, &secret)?;
                (Open::Dtls { _stream: client }, server)
            }
            other => {
                let mut client = TcpStream::connect(phantom)?;
                let server = match other {
                    Transport::Obfs4 => exchange_obfs4(&mut client, &covert, &secret)?,
                    _ => exchange_min(&mut client, &covert, &secret)?,
                };
                (Open::Tcp { _stream: client }, server)
            }
        });
        println!("{number}");
    }
    Ok(())
}

/// A client's end that is kept open.
enum Open {
    Tcp { _stream: TcpStream },
    Dtls { _stream: endpoint::Stream },
}

/// UDP sockets of DTLS clients. A socket has one session to a phantom at most, so the n-th session
/// to any of them comes from the n-th socket.
struct Diallers {
    runtime: tokio::runtime::Runtime,
    endpoints: Vec<Endpoint>,
    sessions: HashMap<SocketAddr, usize>,
}

impl Diallers {
    fn new() -> std::io::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { runtime, endpoints: Vec::new(), sessions: HashMap::new() })
    }

    fn exchange(
        &mut self,
        phantom: SocketAddr,
        covert: &TcpListener,
        secret: &SharedSecret,
    ) -> std::io::Result<(endpoint::Stream, TcpStream)> {
        let used = self.sessions.entry(phantom).or_default();
        let at = *used;
        *used += 1;
        while self.endpoints.len() <= at {
            let _inside = self.runtime.enter();
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            self.endpoints.push(Endpoint::bind(any, Limits::default())?);
        }
        let endpoint = &self.endpoints[at];
        let date = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let config = ::dtls::Config::client(secret, date);
        let mut stream = self.runtime.block_on(async {
            let dialled = endpoint.dial(phantom, None, Party::Client, config).await;
            let mut stream = dialled.map_err(std::io::Error::other)?;
            stream.write_all(b"u").await?;
            Ok::<_, std::io::Error>(stream)
        })?;
        let server = answer(covert)?;
        self.runtime.block_on(stream.read_exact(&mut [0]))?;
        Ok((stream, server))
    }
}

fn exchange_min(
    client: &mut TcpStream,
    covert: &TcpListener,
    secret: &SharedSecret,
) -> std::io::Result<TcpStream> {
    client.write_all(&[secret.min_identifier().as_slice(), b"u"].concat())?;
    let server = answer(covert)?;
    client.read_exact(&mut [0])?;
    Ok(server)
}

fn exchange_obfs4(
    client: &mut TcpStream,
    covert: &TcpListener,
    secret: &SharedSecret,
) -> std::io::Result<TcpStream> {
    let broken = std::io::Error::other::<ClientError>;
    let rng = &mut ChaCha20Rng::from_rng(&mut rand::rng());
    let keys = secret.session_keys(ClientVersion::CURRENT).obfs4();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (mut tunnel, hello) = Client::start(ClientIdentity::from(&keys), now, rng);
    client.write_all(&hello)?;
    let (mut buffer, mut opened, mut server) = ([0; 4096], Vec::new(), None);
    while opened.is_empty() {
        let n = client.read(&mut buffer)?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let progress = tunnel.receive(&buffer[..n], rng, &mut opened).map_err(broken)?;
        if progress == Progress::Open && server.is_none() {
            let mut sealed = Vec::new();
            tunnel.send(b"u", rng, &mut sealed).map_err(broken)?;
            client.write_all(&sealed)?;
            server = Some(answer(covert)?);
        }
    }
    Ok(server.expect("the byte that was opened is its answer"))
}

/// Takes the covert's side of the next tunnel, reads a byte and answers with one.
fn answer(covert: &TcpListener) -> std::io::Result<TcpStream> {
    let (mut server, _) = covert.accept()?;
    server.read_exact(&mut [0])?;
    server.write_all(b"d")?;
    Ok(server)
}
