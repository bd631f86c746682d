//! AF_XDP on interfaces of a network namespace, into frames of a balancer.
//!
//! The test binary runs itself again inside the namespaces (`--exact inside`).

use std::net::UdpSocket;
use std::os::fd::BorrowedFd;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use capture::{
    AgainstXdp, Burst, Handed, Hook, OpenError, Position, Sorting, Source, Xdp, XdpName, XdpOptions,
};
use packet::hash::SymmetricHash;
use rustix::process::{Resource, Rlimit};
use shm::{Producer, Server, ServerOptions};

const SMALL: XdpOptions<'_> = XdpOptions {
    entries: 512,
    zero_copy: true,
    generic: true,
    prefilter: false,
    fast_path: None,
    sorting: None,
};

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn name(interface: &str, queue: Option<u32>) -> XdpName {
    XdpName { interface: interface.to_owned(), queue }
}

/// A producer with frames to lend, and its server.
fn producer() -> (tempfile::TempDir, Server, Producer) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ServerOptions::new(dir.path().to_owned(), 98, vec![1]);
    options.slots = 128;
    options.working_set = 4096;
    let (server, mut producers) = Server::bind(options, [1; 16]).unwrap();
    (dir, server, producers.remove(0))
}

/// Packets that hold `mark`, until there are `count` of them or 5 s are over.
fn read(xdp: &mut Xdp, producer: &Producer, mark: &[u8], count: usize) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut packets = Vec::new();
    while packets.len() < count && Instant::now() < deadline {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let burst = xdp.burst(64, Duration::from_millis(20), true, &mut |pieces, reception| {
            assert!(now.abs_diff(u128::from(reception.timestamp)) < 60_000_000_000);
            assert_eq!(reception.queue, None);
            let packet: Vec<u8> =
                pieces.iter().flat_map(|piece| producer.bytes(piece).to_vec()).collect();
            if packet.windows(mark.len()).any(|window| window == mark) {
                packets.push(packet);
            }
        });
        assert!(matches!(burst, Ok(Burst::Frames(_))));
    }
    packets
}

/// The source of a successor, which gets copies of the descriptors.
fn hand_over(descriptors: Vec<BorrowedFd<'_>>, position: Position) -> Box<dyn Source> {
    let position = Position::decode(&position.encode()).unwrap();
    let descriptors = descriptors.into_iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
    capture::take_over("xdp:tap0", Handed { descriptors, position }).unwrap()
}

/// The same as [`read`] for a successor.
fn read_copies(source: &mut dyn Source, mark: &[u8], count: usize) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut packets = Vec::new();
    while packets.len() < count && Instant::now() < deadline {
        let burst = source.burst(64, Duration::from_millis(20), &mut |frame| {
            if frame.data.windows(mark.len()).any(|window| window == mark) {
                packets.push(frame.data.to_vec());
            }
        });
        assert!(matches!(burst, Ok(Burst::Frames(_))));
    }
    packets
}

/// Run by the test below inside the namespaces; does nothing when run on its own.
#[test]
fn inside() {
    if std::env::var_os("CAPTURE_TEST_INSIDE").is_none() {
        return;
    }
    lab::isolate::enter().unwrap();
    ip(
        "link add tap0 numrxqueues 2 numtxqueues 2 mtu 9000 type veth peer name gen0 numrxqueues 2 numtxqueues 2 mtu 9000",
    );
    ip("addr add 10.9.0.1/24 dev gen0");
    ip("link set gen0 up");
    ip("link set tap0 up");
    ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev gen0");
    let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
    let send = |content: &[u8]| {
        assert_eq!(socket.send_to(content, "10.9.0.2:9").unwrap(), content.len());
    };
    let (_dir, _server, mut producer) = producer();
    let memory = producer.memory();

    // More packets than there are frames: each frame goes round.
    let mut xdp = Xdp::open(&name("tap0", None), SMALL, &memory).unwrap();
    let attachment = xdp.attachment().clone();
    assert_eq!(
        (attachment.hook, attachment.zero_copy, attachment.queues),
        (Hook::Native, false, 2)
    );
    let frames = SMALL.frames(2);
    xdp.lend(producer.lend(frames));
    for round in 0..100u32 {
        for number in 0..50u32 {
            send(format!("plain {:06}", 50 * round + number).as_bytes());
        }
        let mut packets = read(&mut xdp, &producer, b"plain ", 50);
        assert_eq!(packets.len(), 50, "round {round}: {:?}", xdp.statistics());
        // Two queues, each in order.
        packets.sort_by(|a, b| a[a.len() - 6..].cmp(&b[b.len() - 6..]));
        for (number, packet) in (50 * round..).zip(&packets) {
            // Nobody's address on this side: the interface is promiscuous.
            assert_eq!(packet[..6], [2, 0, 0, 0, 0, 2]);
            assert_eq!(packet[12..14], [0x08, 0x00]);
            assert!(packet.ends_with(format!("{number:06}").as_bytes()), "packet {number}");
        }
    }

    // A packet longer than a frame comes in parts.
    if attachment.fragments {
        let long: Vec<u8> =
            b"jumbo ".iter().copied().chain((0..8000u32).map(|n| n as u8)).collect();
        send(&long);
        let packets = read(&mut xdp, &producer, b"jumbo ", 1);
        assert!(
            packets.len() == 1
                && packets[0].ends_with(&long)
                && packets[0].len() == long.len() + 42
        );
    }
    let statistics = xdp.statistics();
    assert!(statistics.received >= 5000 && statistics.dropped == 0, "{statistics:?}");

    // Who does not read loses packets, and they are counted; afterwards it goes on.
    for _ in 0..4000 {
        send(b"flood");
    }
    let kept = read(&mut xdp, &producer, b"flood", 4000);
    let lost = xdp.statistics().dropped;
    assert!(lost > 0 && kept.len() as u64 + lost >= 4000, "{} kept, {lost} lost", kept.len());
    send(b"after the flood");
    assert_eq!(read(&mut xdp, &producer, b"after the flood", 1).len(), 1);

    // What reads it when nobody says how.
    let against = |interface| capture::against_xdp(interface).unwrap();
    assert_eq!(against("tap0"), Some(AgainstXdp::Veth));
    ip("link add bridge0 type bridge");
    assert_eq!(against("bridge0"), None);
    ip("addr add 10.9.1.1/24 dev bridge0");
    assert!(against("bridge0").unwrap().to_string().contains("10.9.1.1"));
    let all = XdpOptions::for_queues(name("tap0", None).queues().unwrap());
    assert_eq!(
        (all.entries, all.frames(2), name("tap0", Some(0)).queues().unwrap()),
        (32_768, 65_536, 1)
    );
    assert_eq!(XdpOptions::for_queues(3).entries, 16_384);

    // One reader of an interface.
    let second = Xdp::open(&name("tap0", None), SMALL, &memory).unwrap_err();
    assert!(matches!(&second, OpenError::XdpBusy { .. }), "{second}");

    // A successor reads on where it stood, and then its successor; the program stays where it is.
    send(b"before the hand-over");
    let position = xdp.hand_over();
    let mut heir = hand_over(xdp.descriptors(), position);
    assert_eq!(read_copies(&mut *heir, b"before the hand-over", 1).len(), 1);
    for round in 0..100u32 {
        for number in 0..50u32 {
            send(format!("heir {:06}", 50 * round + number).as_bytes());
        }
        let mut packets = read_copies(&mut *heir, b"heir ", 50);
        assert_eq!(packets.len(), 50, "round {round}: {:?}", heir.statistics());
        packets.sort_by(|a, b| a[a.len() - 6..].cmp(&b[b.len() - 6..]));
        for (number, packet) in (50 * round..).zip(&packets) {
            assert!(packet.ends_with(format!("{number:06}").as_bytes()), "packet {number}");
        }
        if round == 50 {
            let position = heir.hand_over(&mut |_| panic!("nothing was begun")).unwrap();
            heir = hand_over(heir.descriptors(), position);
        }
    }
    if attachment.fragments {
        let long: Vec<u8> =
            b"jumbo ".iter().copied().chain((0..8000u32).map(|n| n as u8)).collect();
        send(&long);
        let packets = read_copies(&mut *heir, b"jumbo ", 1);
        assert!(packets.len() == 1 && packets[0].ends_with(&long));
    }
    let statistics = heir.statistics();
    assert!(statistics.received >= 2450 && statistics.dropped == 0, "{statistics:?}");
    drop(heir);

    // When it closes all frames are back, and packets go to the host.
    let (loans, _) = xdp.close();
    assert_eq!(loans.len(), frames as usize);
    let mut host = capture::open("afp:tap0").unwrap();
    send(b"to the host");
    let mut seen = 0;
    let deadline = Instant::now() + Duration::from_secs(5);
    while seen == 0 && Instant::now() < deadline {
        host.burst(64, Duration::from_millis(20), &mut |frame| {
            seen += usize::from(frame.data.ends_with(b"to the host"));
        })
        .unwrap();
    }
    assert_eq!(seen, 1);
    drop(host);

    // One queue only: the other goes on into the host.
    let wrong = Xdp::open(&name("tap0", Some(2)), SMALL, &memory).unwrap_err().to_string();
    assert_eq!(wrong, "tap0: there is no receive queue 2; it has 2 (0 to 1)");
    let mut one = Xdp::open(&name("tap0", Some(1)), SMALL, &memory).unwrap();
    one.lend(loans);
    assert_eq!(one.attachment().queues, 1);
    let (loans, _) = one.close();
    assert_eq!(loans.len(), frames as usize);

    // Not all sockets can be had that sorting takes: those of the receive queues take all packets.
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let few = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64 + 12;
    let set = |limit| rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
    set(Rlimit { current: Some(few), ..limit });
    let sorting = Some(Sorting { hash: SymmetricHash::new(1), queues: 30, sockets: 64 });
    let sorted = XdpOptions { sorting, ..SMALL };
    let mut unsorted = Xdp::open(&name("tap0", None), sorted, &memory).unwrap();
    set(limit);
    let attachment = unsorted.attachment();
    let refused = attachment.refused.last().unwrap();
    assert_eq!((attachment.sorted, refused.way), (false, "sorted"));
    assert_eq!(refused.cause, "Too many open files (os error 24)");
    unsorted.lend(loans);
    for number in 0..20 {
        send(format!("unsorted {number}").as_bytes());
    }
    assert_eq!(read(&mut unsorted, &producer, b"unsorted ", 20).len(), 20);
    let (loans, _) = unsorted.close();
    assert_eq!(loans.len(), frames as usize);

    // An interface whose driver has no hook.
    ip("link set lo up");
    let mut generic = Xdp::open(&name("lo", None), SMALL, &memory).unwrap();
    assert_eq!(generic.attachment().hook, Hook::Generic);
    generic.lend(loans);
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"in circles", "127.0.0.1:9").unwrap();
    assert_eq!(read(&mut generic, &producer, b"in circles", 1).len(), 1);
    drop(generic);

    // The interface goes away.
    let (_dir, _server, mut producer) = self::producer();
    let mut gone = Xdp::open(&name("tap0", None), SMALL, &producer.memory()).unwrap();
    gone.lend(producer.lend(frames));
    ip("link del tap0");
    let deadline = Instant::now() + Duration::from_secs(5);
    while gone.burst(64, Duration::from_millis(20), true, &mut |_, _| {}).is_ok() {
        assert!(Instant::now() < deadline, "the interface that is gone goes unnoticed");
    }
    let (loans, standby) = gone.close();
    assert_eq!(loans.len(), frames as usize);
    let missing =
        Xdp::open(&name("tap0", None), SMALL, &producer.memory()).unwrap_err().to_string();
    assert_eq!(missing, "tap0: no such interface; here are: bridge0, lo");

    // What is left goes on when the interface is there again.
    let (standby, error) = standby.start().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    ip("link add tap0 type veth peer name gen1");
    ip("link set tap0 up");
    ip("link set gen1 up");
    assert!(standby.start().is_ok());
}

#[test]
fn interfaces_of_a_namespace() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--nocapture"])
        .env("CAPTURE_TEST_INSIDE", "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
