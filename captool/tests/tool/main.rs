//! The tool as a process: what tshark reads of its files, on an interface, and beside a detector.

mod database;

use std::fmt::Write as _;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use database::{Value, database};
use shm::{Consumer, ConsumerOptions, Meta, Server, ServerOptions};

const LIMIT: Duration = Duration::from_secs(10);
/// Clients of two networks, and one that nobody knows.
const CLIENT: [u8; 4] = [198, 51, 100, 77];
const OTHER: [u8; 4] = [203, 0, 113, 200];
const PHANTOM: [u8; 4] = [192, 0, 2, 1];

fn databases(dir: &Path) {
    let asn = |number| Value::Map(vec![("autonomous_system_number", Value::Number(number))]);
    let country =
        |code| Value::Map(vec![("country", Value::Map(vec![("iso_code", Value::Text(code))]))]);
    let networks = [
        ("198.51.96.0/20", asn(64_500)),
        ("203.0.113.0/25", asn(64_501)),
        ("2001:db8::/48", asn(64_502)),
    ];
    std::fs::write(dir.join("asn.mmdb"), database(&networks)).unwrap();
    let networks = [("198.51.96.0/20", country("ZZ")), ("2001:db8::/32", country("XX"))];
    std::fs::write(dir.join("cc.mmdb"), database(&networks)).unwrap();
}

fn captool(dir: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_captool"));
    command.current_dir(dir).env("CJ_IPC_DIR", dir).args(line.split_whitespace());
    command.args(["--asn-db", "asn.mmdb", "--cc-db", "cc.mmdb"]);
    command
}

fn run(dir: &Path, line: &str) -> String {
    let output = captool(dir, line).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{line}: {said}");
    said
}

/// Fields of every packet, as tshark reads them.
fn fields(dir: &Path, file: &str, names: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command.current_dir(dir).args(["-n", "-r", file, "-T", "fields", "-E", "separator=|"]);
    for name in names {
        command.args(["-e", name]);
    }
    let output = command.output().expect("tshark");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

fn checksum_free(protocol: u8, source: [u8; 4], destination: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let length = (20 + rest.len() as u16).to_be_bytes();
    let mut ip = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
    ip.extend_from_slice(&source);
    ip.extend_from_slice(&destination);
    ip.extend_from_slice(rest);
    ip
}

fn tcp(source: ([u8; 4], u16), destination: ([u8; 4], u16), flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut rest = Vec::new();
    rest.extend_from_slice(&source.1.to_be_bytes());
    rest.extend_from_slice(&destination.1.to_be_bytes());
    rest.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 255, 255, 0, 0, 0, 0]);
    rest.extend_from_slice(payload);
    checksum_free(6, source.0, destination.0, &rest)
}

fn udp(source: ([u8; 4], u16), destination: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let mut rest = Vec::new();
    rest.extend_from_slice(&source.1.to_be_bytes());
    rest.extend_from_slice(&destination.1.to_be_bytes());
    rest.extend_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    rest.extend_from_slice(&[0, 0]);
    rest.extend_from_slice(payload);
    checksum_free(17, source.0, destination.0, &rest)
}

/// An Ethernet frame with these VLAN tags.
fn frame(tags: &[u16], ip: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    for tag in tags {
        frame.extend_from_slice(&tag.to_be_bytes());
        frame.extend_from_slice(&[0, 9]);
    }
    let kind: u16 = if ip[0] >> 4 == 6 { 0x86dd } else { 0x0800 };
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(ip);
    frame
}

/// A classic capture with one packet every second.
fn pcap(link: u32, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut out = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, link].map(u32::to_le_bytes).concat();
    for (second, packet) in packets.iter().enumerate() {
        let length = packet.len() as u32;
        let header = [1_700_000_000 + second as u32, 250_000, length, length];
        out.extend_from_slice(&header.map(u32::to_le_bytes).concat());
        out.extend_from_slice(packet);
    }
    out
}

/// One TCP connection with VLAN tags, one UDP flow, segments without a beginning, and strangers.
fn traffic() -> Vec<Vec<u8>> {
    let (client, phantom) = ((CLIENT, 40_000), (PHANTOM, 443));
    vec![
        frame(&[0x8100], &tcp(client, phantom, 0x02, b"")),
        frame(&[0x8100], &tcp(phantom, client, 0x12, b"")),
        frame(&[], &tcp(client, phantom, 0x18, b"hello")),
        frame(&[], &tcp((CLIENT, 40_001), phantom, 0x18, b"no beginning")),
        frame(&[0x88a8, 0x8100], &udp((OTHER, 5_000), (PHANTOM, 53), b"query")),
        frame(&[], &udp((OTHER, 5_000), ([192, 0, 2, 9], 53), b"excepted")),
        frame(&[], &udp((CLIENT, 1), (OTHER, 2), b"not a target")),
    ]
}

#[test]
fn tshark_reads_what_was_captured() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    databases(dir);
    std::fs::create_dir(dir.join("in")).unwrap();
    std::fs::write(dir.join("in/a.pcap"), pcap(1, &traffic())).unwrap();
    let v6 = {
        let mut ip = vec![0x60, 0, 0, 0, 0, 12, 17, 64];
        ip.extend_from_slice(&"2001:db8::77".parse::<std::net::Ipv6Addr>().unwrap().octets());
        ip.extend_from_slice(&"2001:db8:ffff::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        ip.extend_from_slice(&[0x13, 0x88, 0x01, 0xbb, 0, 12, 0, 0, 1, 2, 3, 4]);
        ip
    };
    std::fs::write(dir.join("in/b.pcap"), pcap(101, &[v6])).unwrap();
    let said =
        run(dir, "-t 192.0.2.0/24,2001:db8:ffff::/48 --except 192.0.2.8/29 -p in -o out.pcapng.gz");
    assert!(said.contains("5 packets of 3 flows written"), "{said}");

    let info =
        Command::new("capinfos").current_dir(dir).args(["-M", "out.pcapng.gz"]).output().unwrap();
    let info = String::from_utf8_lossy(&info.stdout).into_owned();
    assert!(info.contains("Number of interfaces in file: 2"), "{info}");
    assert!(info.contains("Number of packets:   5"), "{info}");

    let names = [
        "ip.src",
        "ip.dst",
        "tcp.srcport",
        "tcp.dstport",
        "frame.interface_id",
        "frame.time_epoch",
        "frame.comment",
    ];
    let packets = fields(dir, "out.pcapng.gz", &names);
    assert_eq!(packets.len(), 5);
    let (syn, answer) = (&packets[0], &packets[1]);
    assert!(syn[0].starts_with("198.51.") && syn[0] != "198.51.100.77", "{syn:?}");
    assert_eq!((&syn[1], &syn[3], &*syn[4]), (&"192.0.2.1".to_owned(), &"443".to_owned(), "0"));
    assert_eq!((&answer[1], &answer[3]), (&syn[0], &syn[2]), "one pseudonym for a flow");
    assert_eq!(syn[5], "1700000000.250000000");
    for comment in ["cc:ZZ", "asn:64500", "subnet:198.51.96.0/20", "sublen:20"] {
        assert!(syn[6].contains(comment), "{syn:?}");
    }
    // Of a client that no database knows nothing is kept.
    let unknown = packets.iter().find(|p| p[6].contains("asn:0")).unwrap();
    assert!(unknown[6].contains("subnet:0.0.0.0/0"), "{unknown:?}");
    let six = fields(
        dir,
        "out.pcapng.gz",
        &["ipv6.src", "ipv6.dst", "frame.interface_id", "frame.comment"],
    );
    let six = six.iter().find(|p| p[2] == "1").unwrap();
    assert!(six[0].starts_with("2001:db8:") && six[0] != "2001:db8::77", "{six:?}");
    assert_eq!(six[1], "2001:db8:ffff::1");
    assert!(six[3].contains("cc:XX") && six[3].contains("sublen:48"), "{six:?}");

    let options = std::fs::read_to_string(dir.join("out.cfg")).unwrap();
    assert!(options.contains("targets = [\"192.0.2.0/24\", \"2001:db8:ffff::/48\"]"), "{options}");
}

#[test]
fn limits_hold() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    databases(dir);
    let mut packets = Vec::new();
    for port in 0..10 {
        for _ in 0..10 {
            packets.push(frame(&[], &udp((CLIENT, 6000 + port), (PHANTOM, 53), b"a")));
            packets.push(frame(&[], &udp(([203, 0, 113, 7], 6000 + port), (PHANTOM, 53), b"b")));
        }
    }
    std::fs::write(dir.join("in.pcap"), pcap(1, &packets)).unwrap();
    for (limits, written, flows) in [
        ("", 200, 20),
        ("--lp 7", 7, 2),
        ("--lf 3", 30, 3),
        ("--ppf 2", 40, 20),
        ("--lpa 5", 10, 2),
        ("--lfa 1", 20, 2),
        ("--lpc 4 -c ZZ", 4, 1),
        ("--lfc 2 -c ZZ", 20, 2),
        ("-a 64501", 100, 10),
        ("--v6", 0, 0),
    ] {
        let said = run(dir, &format!("-t 192.0.2.0/24 -p in.pcap {limits}"));
        let expected = format!("{written} packets of {flows} flows written");
        assert!(said.contains(&expected), "{limits}: {said}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let fails = |line: &str, code: i32, texts: &[&str]| {
        let output = captool(dir, line).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        for text in texts {
            assert!(said.contains(text), "{line}: {said}");
        }
    };
    fails("-t 192.0.2.0/24 -p none.pcap", 66, &["--asn-db asn.mmdb", "GeoLite2"]);
    databases(dir);
    fails("-t 192.0.2.0/24 -p none.pcap", 66, &["none.pcap"]);
    std::fs::write(dir.join("text"), "no capture, but long enough for a header").unwrap();
    fails(
        "-t 192.0.2.0/24 -p text",
        66,
        &["text: found magic number", "expected a pcap or pcapng file"],
    );
    fails("-t 192.0.2.0/24 -i none0", 69, &["none0", "lo"]);
    fails("-t 192.0.2.0/24 --cluster 7 --set 1", 69, &["cluster 7", "zbalance"]);
    fails("-t 192.0.2.0/24 -p text -o none/out.gz", 73, &["none/out.gz"]);
}

/// A child that ends with the test.
struct Process(Child);

impl Process {
    fn finish(mut self) -> String {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let mut said = String::new();
        std::io::Read::read_to_string(self.0.stderr.as_mut().unwrap(), &mut said).unwrap();
        assert!(self.0.wait().unwrap().success(), "{said}");
        said
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A set of its own: the tool reads there what the detector reads too, and when it stands still the
/// detector loses nothing.
#[test]
fn a_running_balancer_is_watched_and_its_detector_is_not_disturbed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    databases(dir);
    let mut options = ServerOptions::new(dir.to_owned(), 98, vec![1, 1]);
    options.slots = 128;
    options.working_set = 64;
    let (mut server, mut producers) = Server::bind(options, [1; 16]).unwrap();
    let describe = |queues: &[shm::QueueStatus]| {
        let mut text = String::from("{\"queues\": [");
        for q in queues {
            let comma = if q.queue == 0 { "" } else { "," };
            let pid = q.consumer.map_or("null".to_owned(), |pid| pid.to_string());
            write!(
                text,
                "{comma}{{\"queue\": {}, \"set\": {}, \"consumer\": {pid}}}",
                q.queue, q.set
            )
            .unwrap();
        }
        text + "]}"
    };
    let wait = Duration::from_millis(5);
    let detector = ConsumerOptions::new(dir.to_owned(), 98, 0);
    let detector = std::thread::spawn(move || Consumer::connect(detector));
    while !detector.is_finished() {
        server.poll(wait, &mut |queues| describe(queues));
    }
    let mut detector = detector.join().unwrap().unwrap();

    let mut command = captool(dir, "-t 192.0.2.0/24 --cluster 98 --set 1");
    let tool = Process(command.stderr(Stdio::piped()).spawn().unwrap());
    let start = Instant::now();
    while server.queues()[1].consumer.is_none() {
        assert!(start.elapsed() < LIMIT, "the tool did not attach");
        server.poll(wait, &mut |queues| describe(queues));
        producers[0].tick();
    }
    let meta =
        Meta { timestamp: Some(1_700_000_000_000_000_000), hash: None, flags: 0, interface: 0 };
    let packet = frame(&[], &udp((CLIENT, 7), (PHANTOM, 53), b"watched"));
    let mut received = 0;
    let mut send = |producers: &mut Vec<shm::Producer>, server: &mut Server| {
        producers[0].send(&packet, &meta, 0b11);
        producers[0].flush();
        server.poll(Duration::ZERO, &mut |queues| describe(queues));
        received += detector.receive(wait).len();
        received
    };
    for n in 1..=20 {
        assert_eq!(send(&mut producers, &mut server), n);
    }
    let start = Instant::now();
    while server.queues()[1].processed < 20 {
        assert!(start.elapsed() < LIMIT, "the tool reads nothing");
        server.poll(wait, &mut |queues| describe(queues));
        producers[0].tick();
    }
    // Stopped, it takes nothing from the detector but its own queue's packets.
    let pid = tool.0.id().to_string();
    assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    for n in 21..=1020 {
        assert_eq!(send(&mut producers, &mut server), n);
    }
    let queues = server.queues();
    assert_eq!(
        queues[0].dropped_full + queues[0].dropped_quota + queues[0].no_frame,
        0,
        "{queues:?}"
    );
    assert!(
        queues[1].dropped_full + queues[1].dropped_quota + queues[1].no_frame > 0,
        "{queues:?}"
    );
    assert!(Command::new("kill").args(["-CONT", &pid]).status().unwrap().success());
    let said = tool.finish();
    assert!(said.contains("attached to 1 queue(s) of set 1"), "{said}");

    // The detector's packets, without taking them.
    let mut command = captool(dir, "-t 192.0.2.0/24 --cluster 98 --lp 5 -o seen.pcapng.gz");
    let mut tool = Process(command.stderr(Stdio::piped()).spawn().unwrap());
    let (start, mut sent, mut received) = (Instant::now(), 0, 0);
    while tool.0.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < LIMIT, "the tool sees nothing");
        let targets = producers[0].mirrored(0b01);
        producers[0].send(&packet, &meta, targets);
        producers[0].flush();
        sent += 1;
        server.poll(wait, &mut |queues| describe(queues));
        received += detector.receive(wait).len();
    }
    assert!(tool.0.wait().unwrap().success());
    assert_eq!(fields(dir, "seen.pcapng.gz", &["ip.dst"]).len(), 5);
    assert_eq!(received, sent, "the detector got them all");

    let packets = fields(dir, "out.pcapng.gz", &["ip.dst", "udp.dstport", "frame.comment"]);
    assert!(packets.len() >= 20, "{}", packets.len());
    assert!(
        packets.iter().all(|p| p[0] == "192.0.2.1" && p[2].contains("asn:64500")),
        "{:?}",
        packets[0]
    );
}

/// Run by the test below inside a network namespace; does nothing when run on its own.
#[test]
fn inside() {
    if std::env::var_os("CAPTOOL_TEST_INSIDE").is_none() {
        return;
    }
    lab::isolate::enter().unwrap();
    let ip = |line: &str| {
        let done = Command::new("ip").args(line.split_whitespace()).status().unwrap();
        assert!(done.success(), "ip {line}");
    };
    ip("link add tap0 type veth peer name gen0");
    ip("link set lo up");
    ip("link set gen0 up");
    ip("link set tap0 up");
    ip("addr add 198.51.100.77/24 dev gen0");
    ip("neigh add 198.51.100.9 lladdr 02:00:00:00:00:02 dev gen0");
    ip("route add 192.0.2.0/24 via 198.51.100.9");
    let dir = tempfile::tempdir().unwrap();
    databases(dir.path());
    let mut command = captool(dir.path(), "-t 192.0.2.0/24 -i tap0 --lp 5 --timeout 20s");
    let mut tool = Process(command.stderr(Stdio::piped()).spawn().unwrap());
    let socket = UdpSocket::bind("198.51.100.77:0").unwrap();
    let start = Instant::now();
    while tool.0.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < LIMIT, "five packets are enough");
        socket.send_to(b"live", "192.0.2.1:9999").unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let packets = fields(dir.path(), "out.pcapng.gz", &["ip.src", "ip.dst", "udp.dstport"]);
    assert_eq!(packets.len(), 5);
    assert!(
        packets.iter().all(|p| p[0] != "198.51.100.77" && p[1] == "192.0.2.1" && p[2] == "9999")
    );
    println!("five packets captured");
}

#[test]
fn on_an_interface() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--nocapture"])
        .env("CAPTOOL_TEST_INSIDE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("five packets captured"), "{said}");
}
