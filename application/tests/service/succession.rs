//! One application follows another with as many listeners, more or fewer, also where one of the two was built
//! before there were several: no connection that begins meanwhile is refused, reset or left waiting.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;

use application::intake::{self, Served};
use application::policy::Policy;
use handover::Channel;
use signalling::{C2sWrapper, ClientToStation, Message, RegistrationFlags};
use transports::Transport;

use super::{LIMIT, accepted, environment, in_namespace, status, until};

const PORT: u16 = 41245;
const SECRET: [u8; 32] = [7; 32];
/// Clients that connect at one time.
const CLIENTS: usize = 8;
/// Connections before and after a process takes over.
const ENOUGH: usize = 200;

fn files(dir: &Path) {
    std::fs::write(dir.join("privkey"), [0x40; 32]).unwrap();
    // Addresses of the loopback device stand for phantoms, so that nothing has to be translated.
    let phantoms = "[Networks]\n[Networks.1]\nGeneration = 1\n\
        [[Networks.1.WeightedSubnets]]\nWeight = 1\nSubnets = [\"127.9.0.0/16\"]\n";
    std::fs::write(dir.join("phantoms.toml"), phantoms).unwrap();
    std::fs::create_dir_all(dir.join("ipc")).unwrap();
}

/// Says with how many threads the next process serves.
fn threads(dir: &Path, count: usize) {
    let text = format!(
        "log_level = \"error\"\nenable_v4 = true\nsocket_name = \"zmq-proxy\"\nredis_url = \"\"\n\
         covert_reject_special = false\ntcp_listen = \"0.0.0.0:{PORT}\"\naccept_threads = {count}\n\
         [[connect_sockets]]\naddress = \"ipc://@detector\"\ntype = \"NULL\"\n"
    );
    std::fs::write(dir.join("app.toml"), text).unwrap();
}

/// Starts an application and waits until it is ready; it takes over where there is one already. Nobody
/// but the application keeps its descriptors.
fn launch(dir: &Path, take_over: bool) -> Application {
    let path = dir.join("ready");
    let _ = std::fs::remove_file(&path);
    let ready = UnixDatagram::bind(&path).unwrap();
    ready.set_read_timeout(Some(LIMIT)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_application"));
    environment(&mut command, dir).env("NOTIFY_SOCKET", &path);
    command.args(take_over.then_some("--take-over"));
    let child = Application(command.spawn().unwrap());
    let mut text = [0; 4096];
    while !text.starts_with(b"READY=1") {
        ready.recv(&mut text).expect("the application does not become ready");
    }
    child
}

/// A process that ends with this value, also where a test fails.
struct Application(Child);

impl Application {
    /// Waits until it leaves by itself.
    fn left(mut self) {
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        // It may have left.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Listeners on the port.
fn listeners() -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{PORT:04X}");
    let listens = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        words.next().is_some_and(|local| local.ends_with(&port)) && words.nth(1) == Some("0A")
    };
    table.lines().filter(listens).count()
}

/// What detectors publish registrations on.
fn publisher() -> (tokio::runtime::Runtime, bus::Publisher) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bound = bus::Publisher::bind("ipc://@detector", bus::PublisherOptions::default());
    let publisher = runtime.block_on(bound).unwrap();
    (runtime, publisher)
}

/// Registers a client whose covert sends back what it gets; its phantom.
fn register(dir: &Path, publisher: &bus::Publisher) -> SocketAddr {
    let covert = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = covert.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in covert.incoming().flatten() {
            std::thread::spawn(move || io::copy(&mut stream.try_clone()?, &mut stream));
        }
    });
    let message = C2sWrapper {
        shared_secret: Some(SECRET.to_vec()),
        registration_payload: Some(ClientToStation {
            decoy_list_generation: Some(1),
            client_lib_version: Some(4),
            transport: Some(Transport::Min.number()),
            covert_address: Some(address.to_string()),
            v4_support: Some(true),
            v6_support: Some(false),
            flags: Some(RegistrationFlags { prescanned: Some(true), ..Default::default() }),
            ..Default::default()
        }),
        registration_source: Some(2),
        registration_address: Some(vec![10, 10, 1, 2]),
        ..Default::default()
    };
    let frame = message.encode_to_vec();
    let settings = conf::Application::load(&dir.join("app.toml")).unwrap().value;
    let policy = Policy::build(&settings, &dir.join("phantoms.toml")).unwrap().0;
    let served = Served { v4: true, v6: false, transports: vec![Transport::Min] };
    let phantom = intake::read(&frame, &served, &policy).unwrap().registrations[0].phantom;
    publisher.publish(frame.into());
    until("the registration is there", || status(dir).registrations_stored == 1);
    SocketAddr::new(phantom, PORT)
}

/// A tunnel through `phantom` that has carried a byte.
fn open(phantom: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(phantom)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let tag = keys::SharedSecret::new(&SECRET).min_identifier();
    stream.write_all(&[tag.as_slice(), b"x"].concat())?;
    carry(&mut stream, b'x')?;
    Ok(stream)
}

fn carry(stream: &mut TcpStream, sent: u8) -> io::Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    if byte == [sent] { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Clients that connect on and on.
struct Clients {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Clients {
    fn start(phantom: SocketAddr) -> Self {
        let (stop, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..CLIENTS).map(|_| {
            let (stop, good) = (Arc::clone(&stop), Arc::clone(&good));
            std::thread::spawn(move || {
                while !stop.load(Relaxed) {
                    open(phantom)?;
                    good.fetch_add(1, Relaxed);
                }
                Ok(())
            })
        });
        let threads = threads.collect();
        Self { stop, good, threads }
    }

    /// Waits until so many more connections were good. A client whose connection failed has ended.
    fn more(&mut self) {
        let before = self.good.load(Relaxed);
        until("clients connect", || {
            if let Some(ended) = self.threads.iter().position(JoinHandle::is_finished) {
                panic!(
                    "a connection failed: {}",
                    self.threads.remove(ended).join().unwrap().unwrap_err()
                );
            }
            self.good.load(Relaxed) >= before + ENOUGH
        });
    }

    /// Stops, once every connection has come to its end.
    fn stop(self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            if let Err(error) = thread.join().unwrap() {
                panic!("a connection failed: {error}");
            }
        }
    }
}

fn numbers() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    files(dir);
    let (_runtime, publisher) = publisher();
    threads(dir, 1);
    let mut application = launch(dir, false);
    let phantom = register(dir, &publisher);
    let mut clients = Clients::start(phantom);
    clients.more();
    assert_eq!(listeners(), 1);
    for (count, expected) in [(4, 4), (4, 4), (1, 4), (6, 6)] {
        threads(dir, count);
        let successor = launch(dir, true);
        std::mem::replace(&mut application, successor).left();
        clients.more();
        assert_eq!(listeners(), expected, "with {count} threads");
    }
    clients.stop();
}

#[test]
fn no_connection_is_lost_between_processes_with_other_numbers_of_listeners() {
    in_namespace(
        "succession::no_connection_is_lost_between_processes_with_other_numbers_of_listeners",
        numbers,
    );
}

fn expect(channel: &Channel, word: &str) {
    assert_eq!(String::from_utf8_lossy(&channel.receive().unwrap().0), word);
}

/// This test stands for a successor that knows of one listener.
fn older_successor() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    files(dir);
    let (_runtime, publisher) = publisher();
    threads(dir, 4);
    let application = launch(dir, false);
    let phantom = register(dir, &publisher);
    let mut tunnels: Vec<TcpStream> = (0..20).map(|_| open(phantom).unwrap()).collect();
    let path = handover::socket_path(&dir.join("ipc"), "application", 0);
    let (mut inherited, channel) = handover::take_over("application", &path).unwrap();
    let listener = TcpListener::from(inherited.take("tcp").unwrap());
    drop(inherited);
    channel.patience(Some(LIMIT)).unwrap();
    channel.send(b"begin", &[]).unwrap();
    expect(&channel, "begun");
    channel.send(b"state", &[]).unwrap();
    while channel.receive().unwrap().0 != b"end" {}
    channel.send(b"ready 60", &[]).unwrap();
    while channel.receive().unwrap().0 != b"stopped" {}
    let clients: Vec<_> = (0..100).map(|_| TcpStream::connect(phantom).unwrap()).collect();
    listener.set_nonblocking(true).unwrap();
    let mut came = 0;
    until("every connection is the successor's", || {
        came += std::iter::from_fn(|| listener.accept().ok()).count();
        came == clients.len()
    });
    for tunnel in &mut tunnels {
        tunnel.write_all(b"y").unwrap();
        carry(tunnel, b'y').unwrap();
    }
    drop(tunnels);
    application.left();
}

#[test]
fn a_successor_that_knows_one_listener_gets_every_connection() {
    let name = "succession::a_successor_that_knows_one_listener_gets_every_connection";
    in_namespace(name, older_successor);
}

/// This test stands for a predecessor that has one listener, and knows nothing of several.
fn older_predecessor() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    files(dir);
    let (_runtime, publisher) = publisher();
    threads(dir, 4);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
    let path = handover::socket_path(&dir.join("ipc"), "application", 0);
    let copies = vec![("tcp".to_owned(), listener.try_clone().unwrap().into())];
    let host = handover::Host::bind(&path, copies).unwrap();
    let address = SocketAddr::from(([127, 9, 0, 1], PORT));
    let mut clients: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
    let predecessor = std::thread::spawn(move || {
        let (channel, _) = host.wait().unwrap();
        expect(&channel, "begin");
        channel.send(b"begun", &[]).unwrap();
        expect(&channel, "state");
        channel.send(b"end", &[]).unwrap();
        expect(&channel, "ready 3600");
        drop((host, listener));
        channel.send(b"stopped", &[]).unwrap();
    });
    let application = launch(dir, true);
    predecessor.join().unwrap();
    assert_eq!(listeners(), 4);
    clients.extend((0..100).map(|_| TcpStream::connect(address).unwrap()));
    until("every connection is accepted", || accepted(dir) == clients.len() as u64);
    drop(open(register(dir, &publisher)).unwrap());
    drop(application);
}

#[test]
fn the_listener_of_an_older_predecessor_becomes_one_of_several() {
    let name = "succession::the_listener_of_an_older_predecessor_becomes_one_of_several";
    in_namespace(name, older_predecessor);
}

/// One place for connections, and three listeners.
fn one_place() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    files(dir);
    threads(dir, 3);
    let path = dir.join("app.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("max_sessions = 1\n{text}")).unwrap();
    let application = launch(dir, false);
    let address = SocketAddr::from(([127, 9, 0, 1], PORT));
    for number in 1..=20 {
        let _client = TcpStream::connect(address).unwrap();
        until("the connection is accepted", || accepted(dir) == number);
    }
    // Two more than there are places wait until it is free.
    let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    until("one of them is accepted", || accepted(dir) == 21);
    let connections = status(dir).connections;
    let closed = connections.iter().find(|count| count.name == "closed").unwrap().value;
    assert_eq!(closed, 20);
    drop(clients);
    until("all of them are accepted", || accepted(dir) == 23);
    drop(application);
}

#[test]
fn a_listener_that_nobody_comes_to_holds_no_place() {
    in_namespace("succession::a_listener_that_nobody_comes_to_holds_no_place", one_place);
}
