//! DTLS registrations of a whole station on the loopback interface, with the client of the house.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use application::Station;
use application::dtls::{NatEntries, Service, Sockets, WARM_UP};
use application::policy::Policy;
use dtls::{Config, Connection};
use endpoint::{Endpoint, Limits};
use keys::{ClientVersion, SharedSecret, StationKey};
use parking_lot::Mutex;
use signalling::params::pack;
use signalling::{
    Addr, C2sWrapper, ClientToStation, DtlsTransportParams, Message, RegistrationFlags,
    RegistrationResponse,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use transports::Transport;
use transports::dtls::{Ended, Party};

const PATIENCE: Duration = Duration::from_secs(30);
const UNIX_TIME: u64 = 1_795_600_000;

/// Stands for the kernel's translation: the phantom is an address of this host already, so the packet
/// that primes an entry only has to arrive.
#[derive(Debug, Default, Clone)]
struct Entries {
    added: Arc<Mutex<Vec<(SocketAddr, SocketAddr)>>>,
    broken: bool,
}

impl NatEntries for Entries {
    fn add(&self, client: SocketAddr, phantom: SocketAddr) -> io::Result<()> {
        if self.broken {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.added.lock().push((client, phantom));
        Ok(())
    }
}

struct World {
    station: Arc<Station>,
    service: Arc<Service>,
    entries: Entries,
    /// Where the phantoms are: the port of the station on these addresses.
    port: u16,
    covert: SocketAddr,
}

const PHANTOM_V4: Ipv4Addr = Ipv4Addr::new(127, 9, 2, 1);
const PHANTOM_V6: Ipv6Addr = Ipv6Addr::LOCALHOST;

async fn world(broken: bool) -> World {
    let dir = tempfile::tempdir().unwrap();
    let phantoms = dir.path().join("phantoms.toml");
    std::fs::write(&phantoms, "[Networks]\n").unwrap();
    let text = "socket_name = \"x\"\nenable_v4 = true\nenable_v6 = true\nredis_url = \"\"\n\
        covert_reject_special = false\n";
    let settings = conf::Application::parse(text, Path::new("app.toml")).unwrap().value;
    let (policy, _) = Policy::build(&settings, &phantoms).unwrap();
    let keys = vec![StationKey::from_private(&[0x40; 32]).unwrap()];
    let mut station = Station::new(&settings, policy, keys);
    let entries = Entries { broken, ..Entries::default() };
    let any = (Ipv6Addr::UNSPECIFIED, 0).into();
    let sockets = Sockets::with_entries(any, None, Box::new(entries.clone())).unwrap();
    let port = sockets.local_addr().unwrap().port();
    station.take_dtls();
    let station = Arc::new(station);
    let service = Service::start(sockets, &station);
    let covert = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let covert_address = covert.local_addr().unwrap();
    tokio::spawn(echo(covert));
    World { station, service, entries, port, covert: covert_address }
}

/// Sends back what arrives, once all of it has.
async fn echo(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut bytes = Vec::new();
            if stream.read_to_end(&mut bytes).await.is_ok() {
                let _ = stream.write_all(&bytes).await;
            }
        });
    }
}

fn secret(n: u32) -> SharedSecret {
    SharedSecret::new(&[&n.to_be_bytes()[..], b"-a-shared-secret-of-a-test"].concat())
}

fn source(at: SocketAddr) -> Addr {
    let ip = match at.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    Addr { ip: Some(ip), port: Some(u32::from(at.port())) }
}

impl World {
    async fn register(&self, n: u32, v4: Option<SocketAddr>, v6: bool, unordered: bool) {
        let params = DtlsTransportParams {
            src_addr4: v4.map(source),
            unordered: Some(unordered),
            ..Default::default()
        };
        let message = C2sWrapper {
            shared_secret: Some(secret(n).expose().to_vec()),
            registration_payload: Some(ClientToStation {
                v4_support: Some(true),
                v6_support: Some(v6),
                client_lib_version: Some(ClientVersion::CURRENT.0),
                transport: Some(Transport::Dtls.number()),
                transport_params: Some(pack(&params)),
                covert_address: Some(self.covert.to_string()),
                flags: Some(RegistrationFlags { prescanned: Some(true), ..Default::default() }),
                ..Default::default()
            }),
            registration_address: Some(vec![127, 0, 0, 1]),
            registration_response: Some(RegistrationResponse {
                ipv4addr: Some(PHANTOM_V4.into()),
                ipv6addr: Some(PHANTOM_V6.octets().to_vec()),
                dst_port: Some(u32::from(self.port)),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.station.pipeline.handle(&message.encode_to_vec()).await;
    }

    fn phantom(&self, v6: bool) -> SocketAddr {
        let ip: IpAddr = if v6 { PHANTOM_V6.into() } else { PHANTOM_V4.into() };
        SocketAddr::new(ip, self.port)
    }

    fn totals(&self) -> Vec<(String, u64)> {
        self.station.pipeline.stats.connecting.totals()
    }

    fn total(&self, name: &str) -> u64 {
        self.totals().into_iter().find(|(known, _)| known == name).unwrap().1
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !done(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let totals = || self.totals();
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}: {:?}", totals()));
    }
}

fn client() -> Endpoint {
    Endpoint::bind((Ipv6Addr::UNSPECIFIED, 0).into(), Limits::default()).unwrap()
}

async fn dial(n: u32, phantom: SocketAddr, time: u64) -> Result<endpoint::Stream, Ended> {
    let config = Config::client(&secret(n), UNIX_TIME + time);
    timeout(PATIENCE, client().dial(phantom, None, Party::Client, config)).await.unwrap()
}

/// A client that waits for the station's dial.
struct Door(u32, tokio::sync::mpsc::UnboundedSender<endpoint::Stream>);

impl endpoint::Listener for Door {
    fn hello(&self, hello: &endpoint::Hello<'_>) -> Option<endpoint::Answer> {
        let own = keys::dtls::client_hello_random(&secret(self.0));
        assert_eq!(hello.random.tag(), &own);
        let send = self.1.clone();
        Some(endpoint::Answer {
            config: Config::server(&secret(self.0), UNIX_TIME),
            party: Party::Client,
            opened: Box::new(move |stream| drop(send.send(stream.unwrap()))),
        })
    }
}

/// Passes datagrams between the one who sends to the returned address and `target`; answers are kept
/// until there is a permit.
async fn held(target: SocketAddr, open: Arc<tokio::sync::Notify>) -> SocketAddr {
    let front = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let back = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    back.connect(target).await.unwrap();
    let at = front.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut forth, mut answers) = ([0; 2000], Vec::new());
        let mut answer = [0; 2000];
        let (mut caller, mut is_open) = (None, false);
        loop {
            tokio::select! {
                Ok((length, from)) = front.recv_from(&mut forth) => {
                    caller = Some(from);
                    back.send(&forth[..length]).await.unwrap();
                }
                Ok(length) = back.recv(&mut answer) => answers.push(answer[..length].to_vec()),
                () = open.notified() => is_open = true,
            }
            if let (true, Some(caller)) = (is_open, caller) {
                for answer in answers.drain(..) {
                    front.send_to(&answer, caller).await.unwrap();
                }
            }
        }
    });
    at
}

/// P18, P21: a request, its end, the answer and its end, byte by byte.
async fn exchange(mut stream: endpoint::Stream, length: usize) {
    let request: Vec<u8> = (0..length).map(|at| (at / 7) as u8).collect();
    let exchanged = async {
        stream.write_all(&request).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer == request, "{} bytes", answer.len());
    };
    timeout(PATIENCE, exchanged).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_dial_both_families_and_come_again() {
    let world = world(false).await;
    world.register(1, None, true, false).await;
    for (time, v6) in [(0, false), (0, true), (1, false), (2, true)] {
        let stream = dial(1, world.phantom(v6), time).await.unwrap();
        assert_eq!(stream.peer(), world.phantom(v6));
        exchange(stream, 300_000).await;
    }
    assert_eq!(world.total("dtls_listened"), 4);
    world.until("tunnels end", |w| w.station.pipeline.stats.proxy.open.value() == 0).await;
    let active = |w: &World| w.station.pipeline.stats.connections.active.value();
    world.until("connections end", |w| active(w) == 0).await;
    world.until("sessions end", |w| w.service.endpoint().counters().sessions == 0).await;
    let created = |w: &World| w.station.pipeline.stats.connecting.created.value();
    world.until("both attempts end", |w| created(w) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_station_dials_from_the_phantom_and_the_first_session_wins() {
    let world = world(false).await;
    let mut dials = 0;
    // The kernel's entry is there at once; what stands in for it here is a datagram that a busy
    // machine may read after the hello has left. Such a dial does not count.
    let mut missed = 0;
    let mut orders = vec![true, false];
    while let Some(unordered) = orders.pop() {
        dials += 1;
        let n = 10 + dials;
        let door = Endpoint::bind((Ipv4Addr::LOCALHOST, 0).into(), Limits::default()).unwrap();
        let at = door.local_addr().unwrap();
        let (send, mut opened) = tokio::sync::mpsc::unbounded_channel();
        door.listen(Arc::new(Door(n, send)));
        // What the kernel does with the packet that primes the entry.
        let (entries, phantom) = (world.entries.clone(), world.phantom(false));
        let priming = tokio::spawn(async move {
            while entries.added.lock().iter().all(|(client, _)| *client != at) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            door.send(phantom, None, WARM_UP);
            door
        });
        world.register(n, Some(at), false, unordered).await;
        let stream = timeout(PATIENCE, opened.recv()).await.unwrap().unwrap();
        if stream.peer() != phantom {
            missed += 1;
            assert!(missed < 5, "the dial comes from {}, not from the phantom", stream.peer());
            orders.push(unordered);
            drop(stream);
        } else {
            exchange(stream, 300_000).await;
        }
        drop(priming.await.unwrap());
    }
    assert_eq!(world.total("dtls_dialled"), u64::from(dials));
    assert_eq!(world.entries.added.lock().len(), dials as usize);
    assert!(world.entries.added.lock().iter().all(|(_, phantom)| *phantom == world.phantom(false)));
}

/// The client may see the station's dial open first and the station the client's: the client's choice
/// counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_goes_on_after_the_client_has_opened_a_session() {
    let world = world(false).await;
    let door = Endpoint::bind((Ipv4Addr::LOCALHOST, 0).into(), Limits::default()).unwrap();
    let (send, mut opened) = tokio::sync::mpsc::unbounded_channel();
    door.listen(Arc::new(Door(30, send)));
    let open = Arc::new(tokio::sync::Notify::new());
    let front = held(door.local_addr().unwrap(), Arc::clone(&open)).await;
    world.register(30, Some(front), false, false).await;
    let own = dial(30, world.phantom(false), 0).await.unwrap();
    world.until("the client's session opens", |w| w.total("dtls_listened") == 1).await;
    open.notify_one();
    let stream = timeout(PATIENCE, opened.recv()).await.unwrap().unwrap();
    drop(own);
    exchange(stream, 300_000).await;
    assert_eq!(world.total("dtls_dialled"), 1);
    assert_eq!(world.station.pipeline.stats.connecting.created.value(), 0);
}

/// Unknown randoms, hellos that were recorded, and datagrams of any other kind get no answer, and
/// clients are served meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_get_no_answer() {
    let world = world(true).await;
    world.register(2, Some("127.0.0.1:9".parse().unwrap()), false, false).await;
    world.until("a dial fails", |w| w.total("dtls_undialled") == 1).await;
    let hello = |n: u32, time: u64| {
        let config = Config::client(&secret(n), UNIX_TIME + time);
        let mut connection = Connection::new(config, std::time::Instant::now(), &mut rand::rng());
        let mut hello = Vec::new();
        assert!(connection.poll_transmit(&mut hello));
        hello
    };
    let phantom = world.phantom(false);
    let prober = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        socket
    };
    let (victim, replayer) = (prober(), prober());
    victim.send_to(&hello(2, 50), phantom).unwrap();
    let mut answer = [0; 2000];
    let (length, from) = victim.recv_from(&mut answer).unwrap();
    assert!(length > 600 && from == phantom);
    let recorded = hello(2, 50);
    let mut fragment = recorded.clone();
    fragment[24] = 50;
    let mut probes = vec![hello(3, 50), recorded, fragment, Vec::new(), WARM_UP.to_vec()];
    for length in [1, 12, 13, 25, 100, 1400] {
        probes.push(vec![0x16; length]);
        probes.push(hello(2, 51)[..length.min(100)].to_vec());
    }
    for probe in &probes {
        replayer.send_to(probe, phantom).unwrap();
    }
    let answered = tokio::task::spawn_blocking(move || replayer.recv_from(&mut [0; 2000]));
    let stream = dial(2, phantom, 60).await.unwrap();
    exchange(stream, 1000).await;
    assert!(answered.await.unwrap().is_err(), "a probe was answered");
    assert_eq!(world.total("dtls_replayed"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_ends_after_five_seconds_and_the_door_stays_open() {
    let world = world(false).await;
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    world.register(4, Some(nobody.local_addr().unwrap()), false, false).await;
    assert_eq!(world.station.pipeline.stats.connecting.created.value(), 1);
    world.until("the attempt ends", |w| w.total("dtls_timeout") == 1).await;
    assert_eq!(world.station.pipeline.stats.connecting.created.value(), 0);
    nobody.set_nonblocking(true).unwrap();
    let mut hellos = 0;
    while nobody.recv(&mut [0; 2000]).is_ok() {
        hellos += 1;
    }
    assert!((1..=6).contains(&hellos), "{hellos} hellos");
    exchange(dial(4, world.phantom(false), 0).await.unwrap(), 1000).await;
}
