//! Clients on this very host, whose packets come without checksum as long as no card has sent them: sessions through
//! zbalance's AF_PACKET, the detector and its tun device.
//!
//! The test binary runs itself again as the client, in a network of its own.

use super::*;
use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};

use capture::Pace;
use packet::distribution::Mode;
use packet::hash::SymmetricHash;
use shm::Region;
use zbalance::ingest::{Counters, Ingest};
use zbalance::input::Plan;
use zbalance::spread::{Distribution, Spread};
use zbalance::stages::Stages;

const ROLE: &str = "DETECTOR_OFFLOAD_TEST_ROLE";
const PHANTOMS: [&str; 2] = ["192.122.190.7", "2001:48a8:687f:1::7"];
const TCP_PORT: u16 = 443;
const UDP_PORT: u16 = 4443;
/// Bytes of an upload, which comes back.
const BYTES: u32 = 1 << 20;

fn run(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "it never came to that: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The threads of zbalance for `source`, with one queue; a monitor hears the process id of its consumer.
fn spread_frames_of(source: &str, dir: &Path) {
    let options = ServerOptions::new(dir.to_owned(), 98, vec![1]);
    let region = Region::new(&options).unwrap();
    let plan = Plan::new(source, false, Pace::default(), &Stages::default()).unwrap();
    let input = plan.open(&region.memory(0)).unwrap();
    let (mut server, mut producers) =
        Server::succeed(options, [1; 16], None, Some(region)).unwrap();
    let distribution = Distribution {
        mode: Mode::Ip,
        sets: vec![1],
        hash: SymmetricHash::new(1),
        map: None,
        decapsulate: false,
        filters: Arc::default(),
    };
    let ingest = Ingest {
        name: source.to_owned(),
        source: input,
        producer: producers.remove(0),
        spread: Spread::new(distribution, 0),
        active: false,
    };
    let never = AtomicBool::new(false);
    std::thread::spawn(move || ingest.run(&Counters::default(), &never, &never));
    std::thread::spawn(move || {
        loop {
            server.poll(Duration::from_millis(5), &mut |queues| {
                queues[0].consumer.map(|pid| pid.to_string()).unwrap_or_default()
            });
        }
    });
}

/// Sessions of both transports and families.
struct Four;

impl Snapshot for Four {
    fn sessions(&self) -> Vec<(SessionKey, Duration)> {
        let key = |proto, phantom: &str, port| {
            let key = SessionKey::new(proto, phantom.parse().unwrap(), CLIENT.into(), port);
            (key.unwrap(), Duration::from_secs(600))
        };
        let of = |phantom| [key(Proto::Tcp, phantom, TCP_PORT), key(Proto::Udp, phantom, UDP_PORT)];
        PHANTOMS.into_iter().flat_map(of).collect()
    }
}

#[test]
fn checksums_that_nobody_computed_are_completed() {
    in_namespace("offload::checksums_that_nobody_computed_are_completed", || {
        tokio::runtime::Runtime::new().unwrap().block_on(sessions());
    });
}

async fn sessions() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    std::fs::write(dir.join("privkey"), [0x11; 32]).unwrap();
    let text = "detector_filter_list = [\"127.0.0.1\"]\nredis_url = \"\"\n";
    std::fs::write(dir.join("app_config.toml"), text).unwrap();
    let hub = Hub::new([7; 16], DEFAULT_QUEUE, Arc::new(Four));
    hub.serve(&dir.join(session::socket_name(0))).unwrap();
    tokio::task::block_in_place(|| through_the_station(dir));
}

fn through_the_station(dir: &Path) {
    for of in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter"), "0").unwrap();
    }
    run("ip link set lo up");
    run("ip link add tap0 type veth peer name gen0 address 02:00:00:00:00:01");
    run("ip link set tap0 up");
    run("ip addr add 192.122.190.7/32 dev lo");
    run("ip addr add 2001:48a8:687f:1::7/128 dev lo nodad");
    for client in ["203.0.113.9", "2001:db8::9"] {
        run(&format!("ip route add {client} dev tap0"));
        run(&format!("ip neigh add {client} lladdr 02:00:00:00:00:01 dev tap0"));
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "offload::client", "--nocapture"]).env(ROLE, "client");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = Detector(command.spawn().unwrap());
    let mut said = BufReader::new(client.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("here")));
    run(&format!("ip link set gen0 netns {}", client.0.id()));

    spread_frames_of("afp:tap0", dir);
    let mut detector = Detector::start(dir);
    until("the detector reads its queue", || {
        shm::monitor(dir, 98).is_ok_and(|reader| reader == detector.0.id().to_string())
    });
    PHANTOMS.iter().for_each(|phantom| echo(phantom.parse().unwrap()));
    let stop = Arc::new(AtomicBool::new(false));
    let watching = {
        let (stop, mut tun) = (Arc::clone(&stop), capture::open("afp:tun0").unwrap());
        std::thread::spawn(move || {
            let mut seen = BTreeMap::new();
            while !stop.load(Ordering::Relaxed) {
                tun.burst(64, Duration::from_millis(20), &mut |frame| look(&frame, &mut seen))
                    .unwrap();
            }
            seen
        })
    };
    client.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let rest: Vec<String> = said.collect();
    assert!(rest.iter().any(|line| line.contains("all of it came back")), "{rest:?}");
    stop.store(true, Ordering::Relaxed);
    let seen = watching.join().unwrap();
    let kinds = ["TCP over IPv4", "TCP over IPv6", "UDP over IPv4", "UDP over IPv6"];
    assert!(kinds.iter().all(|kind| seen.contains_key(kind)), "{seen:?}");
    detector.signal(rustix::process::Signal::TERM);
    assert!(detector.0.wait().unwrap().success());
}

/// Checks a packet that comes out of the tun device, and counts its kind.
fn look(frame: &capture::Frame<'_>, seen: &mut BTreeMap<&'static str, u32>) {
    let Ok(headers) = PacketHeaders::from_ip_slice(frame.data) else { return };
    let payload = headers.payload.slice();
    let (kind, wanted, found) = match (headers.net, headers.transport) {
        (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Tcp(tcp))) => {
            ("TCP over IPv4", tcp.calc_checksum_ipv4(&ip, payload).unwrap(), tcp.checksum)
        }
        (Some(NetHeaders::Ipv6(ip, _)), Some(TransportHeader::Tcp(tcp))) => {
            ("TCP over IPv6", tcp.calc_checksum_ipv6(&ip, payload).unwrap(), tcp.checksum)
        }
        (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Udp(udp))) => {
            ("UDP over IPv4", udp.calc_checksum_ipv4(&ip, payload).unwrap(), udp.checksum)
        }
        (Some(NetHeaders::Ipv6(ip, _)), Some(TransportHeader::Udp(udp))) => {
            ("UDP over IPv6", udp.calc_checksum_ipv6(&ip, payload).unwrap(), udp.checksum)
        }
        _ => return,
    };
    // Segments that go in as one are completed by the kernel, where it cuts them.
    let kind = if frame.checksum_incomplete { "joined segments" } else { kind };
    assert!(frame.checksum_incomplete || found == wanted, "{kind}: {found:04x}, not {wanted:04x}");
    *seen.entry(kind).or_default() += 1;
}

/// Sends back what comes to a phantom.
fn echo(phantom: IpAddr) {
    let listener = TcpListener::bind((phantom, TCP_PORT)).unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut content = Vec::new();
            connection.read_to_end(&mut content).unwrap();
            connection.write_all(&content).unwrap();
        }
    });
    let socket = UdpSocket::bind((phantom, UDP_PORT)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..len], from).unwrap();
        }
    });
}

/// Run by the test above in a network of its own; does nothing when run on its own.
#[test]
fn client() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    println!("here");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    run("ip link set lo up");
    run("ip addr add 203.0.113.9/24 dev gen0");
    run("ip addr add 2001:db8::9/64 dev gen0 nodad");
    run("ip link set gen0 up");
    for phantom in PHANTOMS {
        run(&format!("ip route add {phantom} dev gen0"));
        run(&format!("ip neigh add {phantom} lladdr 02:00:00:00:00:02 dev gen0"));
    }
    let features = run("ethtool -k gen0");
    assert!(features.contains("tx-checksumming: on"), "{features}");
    let content: Vec<u8> =
        (0..BYTES / 4).flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_be_bytes()).collect();
    for phantom in PHANTOMS.map(|phantom| phantom.parse::<IpAddr>().unwrap()) {
        // Small writes and large ones, odd lengths too.
        let to = SocketAddr::new(phantom, TCP_PORT);
        let mut connection = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection.set_nodelay(true).unwrap();
        let (small, large) = content.split_at(4001);
        small.chunks(333).for_each(|part| connection.write_all(part).unwrap());
        connection.write_all(large).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        connection.read_to_end(&mut back).unwrap();
        assert!(back == content, "{} bytes of {}", back.len(), content.len());

        let from = if phantom.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(from).unwrap();
        socket.connect((phantom, UDP_PORT)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        for len in [1, 2, 3, 100, 333, 1200, 1447] {
            socket.send(&content[..len]).unwrap();
            let mut buffer = [0; 2048];
            let came = socket.recv(&mut buffer).unwrap();
            assert!(buffer[..came] == content[..len], "{came} of {len}");
        }
    }
    println!("all of it came back");
}
