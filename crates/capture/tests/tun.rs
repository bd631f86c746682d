//! Batches through real tun devices, in network namespaces of this test's own.
//!
//! The test binary runs itself again inside the namespaces (`--exact inside`), and once more as the
//! client with a stack of its own (`--exact client`).

#[allow(dead_code)]
mod flows;

use capture::LiveFrames;
use capture::tun::{Batch, Sent, Tun};
use flows::Flow;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

const ROLE: &str = "CAPTURE_TUN_TEST_ROLE";
const PATIENCE: Duration = Duration::from_secs(60);
/// Where clients are, and what they dial.
const CLIENTS: [&str; 2] = ["203.0.113.9", "2001:db8::9"];
const PHANTOMS: [&str; 2] = ["192.0.2.7:443", "[2001:48a8:687f:1::7]:443"];
/// Bytes of an upload, which are also the download.
const BYTES: usize = 8 << 20;

fn run(line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn content() -> Vec<u8> {
    (0..BYTES as u32 / 4).flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_be_bytes()).collect()
}

/// This test binary again, as `role` in a process of its own.
fn again(mut command: Command, role: &str) -> Command {
    command.args(["--exact", role, "--nocapture"]).env(ROLE, role);
    command
}

#[test]
fn batches_through_the_kernel() {
    if let Err(error) = std::fs::File::options().write(true).open("/dev/net/tun") {
        println!("skipped: needs /dev/net/tun: {error}");
        return;
    }
    let command = Command::new(std::env::current_exe().unwrap());
    let output = again(command, "inside").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    print!("{text}");
    assert!(output.status.success() && text.contains("all of it came"), "{text}");
}

/// Run by the test above inside the namespaces; does nothing when run on its own.
#[test]
fn inside() {
    if std::env::var(ROLE).as_deref() != Ok("inside") {
        return;
    }
    lab::isolate::enter().unwrap();
    for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
    }
    for of in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter"), "0").unwrap();
    }
    run("ip link set lo up");
    the_last_who_attaches_says_what_a_device_takes();
    what_the_kernel_cuts_is_what_came_in();
    a_connection_in_each_family(Tun::open_for_batches("tun0").unwrap());
    let tun = Tun::open_for_batches("tun0").unwrap();
    match LiveFrames::open(&[&tun, &tun]) {
        Ok(mut ways) => {
            a_connection_in_each_family(tun.with_live_frames(ways.remove(1)));
            what_the_kernel_refuses_is_written();
        }
        Err(error) => println!("skipped: needs live frames: {error}"),
    }
    println!("all of it came");
}

/// A device is made without headers, taken with them, passed on, and taken without them again.
fn the_last_who_attaches_says_what_a_device_takes() {
    run("ip tuntap add mode tun name tun7");
    for round in 0..2 {
        let device = Tun::open_for_batches("tun7").unwrap();
        assert!(device.takes_batches());
        assert!(device.send(&[0x45; 20]).is_ok(), "round {round}");
        let copy = device.as_fd().try_clone_to_owned().unwrap();
        let heir = Tun::from_attached("tun7", copy).unwrap();
        assert!(heir.takes_batches());
        drop((device, heir));
        let device = Tun::open("tun7").unwrap();
        assert!(!device.takes_batches());
        assert!(device.send(&[0x45; 20]).is_ok(), "round {round}");
        let copy = device.as_fd().try_clone_to_owned().unwrap();
        assert!(!Tun::from_attached("tun7", copy).unwrap().takes_batches());
    }
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(Tun::from_attached("tun7", file.into()).is_err());
    run("ip link del tun7");
}

/// The kernel forwards to a device that takes no large segments, and so cuts them.
fn what_the_kernel_cuts_is_what_came_in() {
    let (into, out) = (Tun::open_for_batches("tun0").unwrap(), Tun::open("out0").unwrap());
    run("ip route add 192.0.2.0/24 dev out0");
    run("ip -6 route add 2001:48a8:687f:1::/64 dev out0");
    let mut batch = Batch::new();
    let mut buffer = vec![0; 70_000];
    for (family, len) in [(0, 1448), (1, 1428), (0, 37), (1, 1)] {
        let to = PHANTOMS[family].parse::<std::net::SocketAddr>().unwrap().ip();
        let mut flow = Flow::new(CLIENTS[family].parse().unwrap(), to, 40_000);
        let mut packets: Vec<Vec<u8>> = (0..100)
            .map(|at| flow.segment(if at % 30 == 29 { 0x18 } else { 0x10 }, &vec![at; len]))
            .collect();
        // A wrong checksum stays as it is.
        let at = flows::ip_len(&packets[50]);
        packets[50][at + 16] ^= 0x40;
        packets.push(flow.segment(0x10, &[]));
        packets.push(flow.segment(0x11, &[]));
        packets.iter().for_each(|packet| assert!(batch.push(packet)));
        let mut writes = 0;
        let sent = batch.flush(|parts| {
            writes += 1;
            rustix::io::writev(&into, parts)?;
            Ok(())
        });
        assert_eq!((sent.packets, sent.lost), (102, 0), "{:?}", sent.error);
        assert!(writes <= 9, "{writes} writes");
        for (number, packet) in packets.iter_mut().enumerate() {
            // The host counts as a hop.
            if family == 0 {
                packet[8] -= 1;
                packet[10..12].fill(0);
                let checksum = !flows::sum(&[&packet[..20]]);
                packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            } else {
                packet[7] -= 1;
            }
            let came = next(&out, &mut buffer, CLIENTS[family]);
            assert!(buffer[..came] == **packet, "packet {number} of {len} bytes, family {family}");
        }
    }
    drop((into, out));
}

/// The interface of a way is gone: the kernel refuses, which is said once, and every packet is written.
fn what_the_kernel_refuses_is_written() {
    let gone = Tun::open("tun8").unwrap();
    let live = LiveFrames::open(&[&gone]).unwrap().remove(0);
    drop(gone);
    let (into, out) = (Tun::open_for_batches("tun0").unwrap(), Tun::open("out0").unwrap());
    let into = into.with_live_frames(live);
    run("ip route add 198.51.100.0/24 dev out0");
    let (mut batch, mut buffer) = (into.batch(), vec![0; 70_000]);
    for refused in [true, false] {
        let ports = 50_000..50_000 + LiveFrames::FEWEST as u16;
        let flow =
            |port| Flow::new(CLIENTS[0].parse().unwrap(), "198.51.100.7".parse().unwrap(), port);
        ports.clone().for_each(|port| assert!(batch.push(&flow(port).segment(0x10, &[]))));
        let sent = into.flush(&mut batch);
        assert_eq!((sent.packets, sent.lost), (ports.len() as u64, 0), "{:?}", sent.error);
        assert_eq!((sent.together, sent.alone.is_some()), (0, refused), "{:?}", sent.alone);
        for port in ports {
            next(&out, &mut buffer, CLIENTS[0]);
            assert_eq!(buffer[20..22], port.to_be_bytes());
        }
    }
}

/// The next packet from `source`; the host speaks to its own links too.
fn next(device: &Tun, buffer: &mut [u8], source: &str) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match device.receive(buffer) {
            Ok(len) => {
                let from = match source.parse().unwrap() {
                    std::net::IpAddr::V4(ip) => buffer[12..16] == ip.octets(),
                    std::net::IpAddr::V6(ip) => buffer[8..24] == ip.octets(),
                };
                if from {
                    return len;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(Instant::now() < deadline, "nothing comes");
                std::thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A client with a stack of its own uploads to this one, which sends all of it back.
fn a_connection_in_each_family(tun: Tun) {
    let wire = Tun::open("wire0").unwrap();
    run("ip addr replace 192.0.2.7/32 dev lo");
    run("ip addr replace 2001:48a8:687f:1::7/128 dev lo nodad");
    run("ip route add 203.0.113.0/24 dev tun0");
    run("ip -6 route add 2001:db8::/64 dev tun0");
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--"]).arg(std::env::current_exe().unwrap());
    let mut client =
        again(unshare, "client").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut words = client.stdout.take().unwrap();
    read_until(&mut words, "in a network of its own");
    run(&format!("ip link set wire0 netns {}", client.id()));
    let servers: Vec<_> = PHANTOMS
        .map(|phantom| {
            let listener = TcpListener::bind(phantom).unwrap();
            std::thread::spawn(move || serve(&listener))
        })
        .into();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pump = scope.spawn(|| pump(&tun, &wire, &over));
        client.stdin.take().unwrap().write_all(b"go\n").unwrap();
        read_until(&mut words, "all of it came back");
        servers.into_iter().for_each(|server| server.join().unwrap());
        over.store(true, Relaxed);
        let (sent, bursts) = pump.join().unwrap();
        println!("{} packets in {bursts} bursts, {} together", sent.packets, sent.together);
        assert!(sent.packets as usize > 2 * BYTES / 1500 && bursts < sent.packets);
        assert_eq!((sent.lost, sent.alone.map(|e| e.to_string())), (0, None), "{:?}", sent.error);
        assert_eq!(sent.together > 500, tun.batch().keeps_acknowledgements_apart());
    });
    assert!(client.wait().unwrap().success());
}

fn read_until(words: &mut impl Read, wanted: &str) {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(wanted.as_bytes()) {
        let n = words.read(&mut byte).unwrap();
        assert!(n == 1, "the client said: {}", String::from_utf8_lossy(&text));
        text.push(byte[0]);
    }
}

/// Carries packets both ways until it is over, in bursts of what is there; what became of those from the client, and
/// the number of their bursts.
fn pump(tun: &Tun, wire: &Tun, over: &AtomicBool) -> (Sent, u64) {
    let (mut batch, mut buffer) = (tun.batch(), vec![0; 70_000]);
    let (mut all, mut bursts) = (Sent::default(), 0);
    let deadline = Instant::now() + PATIENCE;
    while !over.load(Relaxed) {
        for _ in 0..120 {
            let Ok(len) = wire.receive(&mut buffer) else { break };
            assert!(batch.push(&buffer[..len]));
        }
        let sent = tun.flush(&mut batch);
        let mut idle = sent.packets == 0;
        bursts += u64::from(!idle);
        all.add(sent);
        for _ in 0..100 {
            let Ok(len) = tun.receive(&mut buffer) else { break };
            // The client's queue is full: it is sent again.
            let _ = wire.send(&buffer[..len]);
            idle = false;
        }
        if idle {
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::yield_now();
        }
    }
    (all, bursts)
}

/// Takes an upload, checks it, and sends it back.
fn serve(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut upload = Vec::new();
    stream.read_to_end(&mut upload).unwrap();
    assert!(upload == content());
    stream.write_all(&upload).unwrap();
}

/// Run by the test above in a network namespace of its own; does nothing when run on its own.
#[test]
fn client() {
    if std::env::var(ROLE).as_deref() != Ok("client") {
        return;
    }
    println!("in a network of its own");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    run("ip addr add 203.0.113.9/24 dev wire0");
    run("ip addr add 2001:db8::9/64 dev wire0 nodad");
    run("ip link set wire0 up");
    run("ip route add default dev wire0");
    run("ip -6 route add default dev wire0");
    for phantom in PHANTOMS {
        let mut stream = TcpStream::connect(phantom).unwrap();
        stream.write_all(&content()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut download = Vec::new();
        stream.read_to_end(&mut download).unwrap();
        assert!(download == content(), "{} bytes", download.len());
    }
    println!("all of it came back");
}
