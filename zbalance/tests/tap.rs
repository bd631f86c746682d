//! The balancer as a process, on a veth pair in a network namespace, with real consumers.
//!
//! The test binary runs itself again inside the namespaces (`--exact inside`), and there once more
//! as the consumer that gets killed (`--exact consumer`).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use shm::{Consumer, ConsumerOptions, ConsumerState};

const CLUSTER: u32 = 98;
const LIMIT: Duration = Duration::from_secs(10);

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A child process that ends with the test, and its output line by line.
struct Process(Child, std::io::Lines<BufReader<ChildStdout>>, Option<std::fs::File>);

impl Process {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self(child, lines, records::file("zbalance", records::Clients::Hidden))
    }

    fn balancer(dir: &Path, line: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zbalance"));
        command.args(line.split_whitespace()).env("CJ_IPC_DIR", dir);
        Self::start(&mut command)
    }

    fn says(&mut self, text: &str) {
        assert!(self.lines().any(|line| line.contains(text)), "it never said {text:?}");
    }

    /// What it says from now on.
    fn lines(&mut self) -> impl Iterator<Item = String> {
        let Self(_, lines, kept) = self;
        lines.map_while(Result::ok).inspect(move |line| {
            if let Some(kept) = kept {
                writeln!(kept, "{line}").unwrap();
            }
        })
    }

    /// SIGTERM, and everything said from then on.
    fn terminate(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let rest: Vec<String> = self.lines().collect();
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
        rest.join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn consumer_of(dir: &Path, queue: u16) -> Consumer {
    Consumer::detached(ConsumerOptions::new(dir.to_owned(), CLUSTER, queue))
}

fn attach(consumer: &mut Consumer) {
    let deadline = Instant::now() + LIMIT;
    while !matches!(consumer.state(), ConsumerState::Attached { .. }) {
        assert!(Instant::now() < deadline, "not attached");
        consumer.receive(Duration::from_millis(5));
    }
}

/// Source address and number of the test's packets in what is queued.
fn take(consumer: &mut Consumer, out: &mut Vec<([u8; 4], u32)>) {
    for frame in consumer.receive(Duration::from_millis(5)).iter() {
        let data = frame.data;
        if data.len() == 46 && data[12..14] == [8, 0] && data[36..38] == 7777u16.to_be_bytes() {
            let number = u32::from_be_bytes(data[42..46].try_into().unwrap());
            out.push((data[26..30].try_into().unwrap(), number));
        }
    }
}

struct Sender(Vec<UdpSocket>);

impl Sender {
    /// `count` senders with an address each.
    fn new(count: u8) -> Self {
        let socket = |n| UdpSocket::bind((std::net::Ipv4Addr::new(10, 8, 0, n), 0)).unwrap();
        Self((1..=count).map(socket).collect())
    }

    fn send(&self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let socket = &self.0[number as usize % self.0.len()];
            assert_eq!(socket.send_to(&number.to_be_bytes(), "10.9.0.2:7777").unwrap(), 4);
        }
    }
}

fn network() {
    // Without IPv6 the kernel sends nothing by itself.
    for name in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        if Path::new(&path).exists() {
            std::fs::write(path, "1").unwrap();
        }
    }
    ip("link add tap0 type veth peer name gen0");
    ip("link set lo up");
    ip("link set gen0 up");
    ip("link set tap0 up");
    ip("addr add 10.9.0.1/24 dev gen0");
    ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev gen0");
    ip("route replace local 10.8.0.0/24 dev lo");
}

/// Two sets of two queues: each packet once in every set, a flow in one queue only.
fn counts_are_right(dir: &Path, source: &str) {
    let sender = Sender::new(40);
    let line = format!("-i {source} -c 98 -n 2,2 -m 1 -g 0 -p -z");
    let mut balancer = Process::balancer(dir, &line);
    balancer.says("zbalance: ready");
    let mut consumers: Vec<Consumer> = (0..4).map(|queue| consumer_of(dir, queue)).collect();
    consumers.iter_mut().for_each(attach);
    let mut got = vec![Vec::new(); 4];
    sender.send(0..2000);
    let deadline = Instant::now() + LIMIT;
    while got.iter().map(Vec::len).sum::<usize>() < 4000 && Instant::now() < deadline {
        for (consumer, out) in consumers.iter_mut().zip(&mut got) {
            take(consumer, out);
        }
    }
    for set in got.chunks(2) {
        let mut numbers: Vec<u32> = set.iter().flatten().map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        assert!(numbers.iter().copied().eq(0..2000), "{} packets", numbers.len());
        let mut queues = BTreeMap::new();
        for (queue, packets) in set.iter().enumerate() {
            assert!(!packets.is_empty(), "a queue without any of 40 flows");
            for (source, _) in packets {
                assert_eq!(*queues.entry(*source).or_insert(queue), queue, "a flow was split");
            }
        }
    }
    // SIGHUP changes nothing.
    let pid = rustix::process::Pid::from_child(&balancer.0);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    sender.send(2000..2010);
    let (mut more, deadline) = (Vec::new(), Instant::now() + LIMIT);
    while more.len() < 20 && Instant::now() < deadline {
        consumers.iter_mut().for_each(|consumer| take(consumer, &mut more));
    }
    assert_eq!(more.len(), 20);
    let text = balancer.terminate();
    let value = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
    };
    assert_eq!((value("ClusterId:"), value("TotQueues:"), value("Applications:")), (98, 4, 2));
    assert!(value("Packets:") >= 2010);
    assert_eq!(value("Forwarded:"), 2 * value("Packets:"));
    assert_eq!(value("Processed:"), value("Forwarded:"));
    assert_eq!(value("Q0Dropped:") + value("Q3Dropped:"), 0);
    let stats = std::fs::read_to_string(dir.join("stats/98")).unwrap();
    assert!(stats.starts_with("ClusterId:    98\nTotQueues:    4\nApplications: 2\n"), "{stats}");
}

/// A consumer that is killed costs nobody else a packet, and its queue is free at once.
fn a_consumer_is_killed(dir: &Path) {
    let sender = Sender::new(1);
    let mut balancer = Process::balancer(dir, "-i zc:tap0 -c 98 -n 1,1 -m 1 -g -1");
    balancer.says("zbalance: ready");
    let mut steady = consumer_of(dir, 0);
    attach(&mut steady);
    let (mut got, mut next) = (Vec::new(), 0);
    for _ in 0..5 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "consumer", "--nocapture"]).env("ZBALANCE_TEST_CONSUMER", dir);
        let mut victim = Process::start(&mut command);
        sender.send(next..next + 100);
        victim.says("attached");
        victim.0.kill().unwrap();
        sender.send(next + 100..next + 200);
        victim.0.wait().unwrap();
        next += 200;
        let deadline = Instant::now() + LIMIT;
        while got.len() < next as usize && Instant::now() < deadline {
            take(&mut steady, &mut got);
        }
        assert!(got.iter().map(|(_, number)| *number).eq(0..next), "{} of {next}", got.len());
    }
    balancer.terminate();
}

/// Files below `dir`.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

/// Files, and what the balancer and this process hold.
type Footprint = (Vec<std::path::PathBuf>, (u64, usize), (u64, usize));

/// Shared memory of queues that a process has mapped, in bytes, and the descriptors that it holds.
fn held(pid: u32) -> (u64, usize) {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let size = |line: &str| {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        u64::from_str_radix(to, 16).unwrap() - u64::from_str_radix(from, 16).unwrap()
    };
    let mapped = maps.lines().filter(|line| line.contains("/memfd:conjure-")).map(size).sum();
    (mapped, std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
}

/// P05: the balancer is killed 20 times and comes back with another number of queues.
fn the_balancer_is_killed(dir: &Path, source: &str) {
    let sender = Sender::new(8);
    let mut footprints: BTreeMap<u32, Footprint> = BTreeMap::new();
    let mut consumers = [consumer_of(dir, 0), consumer_of(dir, 1)];
    for round in 0..20u32 {
        let queues = 2 + round % 3;
        // Queues beyond the second have no consumer, which costs these two nothing.
        let line = format!("-i {source} -c 98 -n {queues} -m all -g 0 -z");
        let mut balancer = Process::balancer(dir, &line);
        balancer.says("zbalance: ready");
        consumers.iter_mut().for_each(attach);
        sender.send(round * 50..(round + 1) * 50);
        for consumer in &mut consumers {
            let (mut got, deadline) = (Vec::new(), Instant::now() + LIMIT);
            while got.len() < 50 && Instant::now() < deadline {
                take(consumer, &mut got);
            }
            let numbers = got.iter().map(|(_, number)| *number);
            assert!(numbers.eq(round * 50..(round + 1) * 50), "round {round}: {}", got.len());
        }
        // Each time the same files, mapped memory and descriptors, here and in the balancer.
        let found = (files(dir), held(balancer.0.id()), held(std::process::id()));
        let first = footprints.entry(queues).or_insert_with(|| found.clone());
        assert_eq!(*first, found, "round {round} left something behind");
        balancer.0.kill().unwrap();
        balancer.0.wait().unwrap();
        let deadline = Instant::now() + LIMIT;
        for consumer in &mut consumers {
            while consumer.state() != ConsumerState::Detached {
                assert!(Instant::now() < deadline, "the death went unnoticed");
                consumer.receive(Duration::from_millis(5));
            }
        }
    }
    // Nothing of 20 balancers is still mapped, and nothing has a name that outlives them.
    assert_eq!(held(std::process::id()).0, 0);
    for name in ["/dev/shm", "/dev/hugepages"] {
        let Ok(entries) = std::fs::read_dir(name) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(!name.contains("conjure") && !name.contains("ingest"), "{name}");
        }
    }
}

/// Frames with VLAN tags come out of the kernel, which takes tags off, as they were on the wire; and
/// a monitor of the control socket sees them counted.
fn tags_stay_and_the_monitor_counts(dir: &Path, source: &str) {
    let line = format!("-i {source} -c 98 -n 1,2 -m 1 -g 0 -z");
    let mut balancer = Process::balancer(dir, &line);
    balancer.says("zbalance: ready");
    let mut consumers = [consumer_of(dir, 0), consumer_of(dir, 1), consumer_of(dir, 2)];
    consumers.iter_mut().for_each(attach);
    let frames: Vec<Vec<u8>> = [
        "",                    // no tag
        "8100 0064",           // 802.1Q, VLAN 100
        "8100 efff",           // priority 7, VLAN 4095
        "88a8 0ffe 8100 2001", // 802.1ad around 802.1Q
        "8100 0001 8100 0002 8100 0003",
    ]
    .iter()
    .map(|tags| tagged(tags))
    .collect();
    let expected: Vec<Vec<u8>> = (0..10).flat_map(|_| frames.clone()).collect();
    send_raw("gen0", &expected);
    let mut got: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 3];
    let deadline = Instant::now() + LIMIT;
    while got.iter().map(Vec::len).sum::<usize>() < 100 && Instant::now() < deadline {
        for (consumer, out) in consumers.iter_mut().zip(&mut got) {
            for frame in consumer.receive(Duration::from_millis(5)).iter() {
                if frame.data.ends_with(MARK) {
                    out.push(frame.data.to_vec());
                }
            }
        }
    }
    assert!(got[0] == expected, "{:02x?}", got[0].iter().take(5).collect::<Vec<_>>());
    // One pair of addresses, whatever the tags: one queue of the second set, in order.
    let second: Vec<_> = got[1..].iter().filter(|queue| !queue.is_empty()).collect();
    assert!(second.len() == 1 && *second[0] == expected, "split over the second set");

    let text = shm::monitor(dir, CLUSTER).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["cluster"], 98);
    assert!(json["uptime_ms"].as_u64().is_some_and(|ms| ms > 0 && ms < 600_000), "{text}");
    let interface = &json["interfaces"][0];
    assert_eq!((&interface["name"], &interface["down"]), (&source.into(), &false.into()));
    let received = interface["received"].as_u64().unwrap();
    assert!(received >= 50 && interface["dropped"] == 0 && interface["reopened"] == 0, "{text}");
    let queues = json["queues"].as_array().unwrap();
    assert_eq!(queues.len(), 3);
    for (number, queue) in queues.iter().enumerate() {
        assert_eq!(queue["queue"], number);
        assert_eq!(queue["set"], usize::from(number > 0));
        assert_eq!(queue["consumer"], std::process::id());
        assert_eq!(queue["hung"], false);
        for drops in ["dropped_full", "dropped_quota", "no_frame"] {
            assert_eq!(queue[drops], 0, "{text}");
        }
        assert!(queue["heartbeat_age_ms"].as_u64().is_some(), "{text}");
    }
    let sum = |field: &str, queues: &[serde_json::Value]| -> u64 {
        queues.iter().map(|queue| queue[field].as_u64().unwrap()).sum()
    };
    assert_eq!(sum("enqueued", &queues[..1]), received);
    assert_eq!(sum("enqueued", &queues[1..]), received);
    drop(consumers);
    let deadline = Instant::now() + LIMIT;
    loop {
        let text = shm::monitor(dir, CLUSTER).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        if json["queues"].as_array().unwrap().iter().all(|queue| queue["consumer"].is_null()) {
            break;
        }
        assert!(Instant::now() < deadline, "consumers that left are still shown: {text}");
    }
    balancer.terminate();
}

/// An outer header of a GRE tunnel that carries `frame`.
fn tunnelled(frame: &[u8]) -> Vec<u8> {
    let mut outer = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0, 0x45, 0];
    outer.extend(u16::try_from(24 + frame.len()).unwrap().to_be_bytes());
    outer.extend([0, 0, 0, 0, 64, 47, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0, 0, 0x65, 0x58]);
    outer.extend(frame);
    outer
}

/// The flows of one tunnel are spread over the queues, with its headers or without; and VLANs have queues of
/// their own.
fn what_is_inside_a_tunnel_is_sent(dir: &Path, source: &str) {
    let flows: Vec<Vec<u8>> = (0..64u8)
        .map(|n| {
            let mut frame = tagged("");
            frame[26..30].copy_from_slice(&[10, 7, 0, n]);
            frame
        })
        .collect();
    let outer: Vec<Vec<u8>> = flows.iter().map(|frame| tunnelled(frame)).collect();
    let received = |line: &str, queues: u16, sent: &[Vec<u8>], expected: usize| {
        let mut balancer = Process::balancer(dir, &format!("-i {source} -c 98 -z {line}"));
        balancer.says("zbalance: ready");
        let mut consumers: Vec<Consumer> =
            (0..queues).map(|queue| consumer_of(dir, queue)).collect();
        consumers.iter_mut().for_each(attach);
        send_raw("gen0", sent);
        let mut got: Vec<Vec<Vec<u8>>> = vec![Vec::new(); usize::from(queues)];
        let deadline = Instant::now() + LIMIT;
        while got.iter().map(Vec::len).sum::<usize>() < expected && Instant::now() < deadline {
            for (consumer, out) in consumers.iter_mut().zip(&mut got) {
                let burst = consumer.receive(Duration::from_millis(5));
                out.extend(burst.iter().map(|f| f.data.to_vec()).filter(|f| f.ends_with(MARK)));
            }
        }
        balancer.terminate();
        got
    };
    for (line, sent, expected) in [
        ("-n 4 -m auto", &outer, &outer),
        ("-n 4 -m auto --decap", &outer, &flows),
        ("-n 4 -m 7", &outer, &outer),
        ("-n 4 -m gre --decap", &flows, &flows),
    ] {
        let got = received(line, 4, sent, 64);
        assert!(
            got.iter().all(|queue| !queue.is_empty()),
            "{line}: {:?}",
            got.iter().map(Vec::len)
        );
        let mut all: Vec<_> = got.concat();
        all.sort();
        let mut expected = expected.clone();
        expected.sort();
        assert!(all == expected, "{line}: {} frames", all.len());
    }
    let got = received("-n 4 -m ip", 4, &outer, 64);
    assert_eq!(
        got.iter().filter(|queue| !queue.is_empty()).count(),
        1,
        "the outer addresses are the same"
    );

    let mapped: Vec<Vec<u8>> = ["88b5 0064", "88b5 0007", "8100 0064", "88b5 2065"]
        .iter()
        .map(|tags| tagged(tags))
        .collect();
    let got = received("-m vlan-map -M 100,7 -Y 0x88b5", 3, &mapped, 3);
    let expected = [vec![mapped[2].clone()], vec![tagged("8100 0064")], vec![tagged("8100 0007")]];
    assert!(got == expected, "{got:02x?}");
}

/// Only what an expression names is spread; a changed file holds after a reload, which the confined process can
/// still read.
fn an_expression_filters(dir: &Path, source: &str) {
    let file = dir.join("expression");
    std::fs::write(&file, "udp dst port 7777\n").unwrap();
    let line = format!("-i {source} -c 98 -n 1 -z -f {}", file.display());
    let mut balancer = Process::balancer(dir, &line);
    balancer.says("zbalance: ready");
    let mut consumer = consumer_of(dir, 0);
    attach(&mut consumer);
    let sender = Sender::new(1);
    let mut send = |numbers: std::ops::Range<u32>, until: u32| {
        sender.send(numbers);
        let (mut got, deadline) = (Vec::new(), Instant::now() + LIMIT);
        while got.last().is_none_or(|(_, number)| *number + 1 < until) && Instant::now() < deadline
        {
            take(&mut consumer, &mut got);
        }
        got.iter().map(|(_, number)| *number).collect::<Vec<u32>>()
    };
    let mut reload = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let pid = rustix::process::Pid::from_child(&balancer.0);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        balancer.says(&format!("reloaded {}", file.display()));
    };
    assert_eq!(send(0..50, 50), (0..50).collect::<Vec<u32>>());
    // The number is the first word behind the header.
    reload("udp[8:4] >= 80");
    assert_eq!(send(50..100, 100), (80..100).collect::<Vec<u32>>());
    reload("ip");
    assert_eq!(send(100..120, 120), (100..120).collect::<Vec<u32>>());
    balancer.terminate();
}

/// Balancers follow each other while packets come through AF_XDP: the program stays on the interface and its
/// rings change hands, so every packet comes, in its order. The last of them sees the interface go away.
fn successors_of_af_xdp(dir: &Path) {
    const COUNT: u32 = 3000;
    let mut balancer = Process::balancer(dir, "-i xdp:tap0 -c 98 -n 1 -z");
    balancer.says("zbalance: ready");
    let mut consumer = consumer_of(dir, 0);
    attach(&mut consumer);
    let sending = std::thread::spawn(|| {
        let sender = Sender::new(1);
        for number in 0..COUNT {
            sender.send(number..number + 1);
            std::thread::sleep(Duration::from_micros(200));
        }
    });
    let (mut got, deadline) = (Vec::new(), Instant::now() + LIMIT);
    for sent in [500, 1500] {
        while got.len() < sent && Instant::now() < deadline {
            take(&mut consumer, &mut got);
        }
        let mut old = balancer;
        balancer = Process::balancer(dir, "-i xdp:tap0 -c 98 -n 1 -z --take-over");
        while old.0.try_wait().unwrap().is_none() && Instant::now() < deadline {
            take(&mut consumer, &mut got);
        }
        assert_eq!(old.0.wait().unwrap().code(), Some(0));
    }
    while got.len() < COUNT as usize && Instant::now() < deadline {
        take(&mut consumer, &mut got);
    }
    sending.join().unwrap();
    assert!(
        got.iter().map(|(_, number)| *number).eq(0..COUNT),
        "{} packets: {:?}",
        got.len(),
        shm::monitor(dir, CLUSTER)
    );
    // A consumer that reads nothing meanwhile finds what was queued for it, and then the new one.
    let mut old = balancer;
    Sender::new(1).send(COUNT..COUNT + 50);
    balancer = Process::balancer(dir, "-i xdp:tap0 -c 98 -n 1 -z --take-over");
    assert_eq!(old.0.wait().unwrap().code(), Some(0));
    got.clear();
    let deadline = Instant::now() + LIMIT;
    while got.len() < 50 && Instant::now() < deadline {
        take(&mut consumer, &mut got);
    }
    assert!(got.iter().map(|(_, number)| *number).eq(COUNT..COUNT + 50), "{} packets", got.len());
    while consumer.receive(Duration::from_millis(5)).is_empty()
        && consumer.statistics().attaches < 4
    {
        assert!(Instant::now() < deadline, "not attached to the new one");
    }
    goes_away(dir, &mut consumer, COUNT + 50);
    balancer.terminate();
}

/// A frame of an EtherType, with what follows that.
fn of_type(ethertype: u16, rest: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1][..], &ethertype.to_be_bytes(), rest].concat()
}

/// An IPv4 packet of this protocol, a fragment at `place` in units of 8 bytes.
fn ipv4(protocol: u8, place: u8) -> Vec<u8> {
    let header = [0x45, 0, 0, 20 + MARK.len() as u8, 0, 7, 0, place, 64, protocol, 0, 0];
    [&header[..], &[10, 9, 0, 1, 10, 9, 0, 2], MARK].concat()
}

/// An IPv6 packet with these headers, each of 8 bytes and named by the one before.
fn ipv6(headers: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, MARK.len() as u8, headers[0], 64];
    packet.extend([9; 32]);
    for next in &headers[1..] {
        packet.extend([*next, 0, 0, 0, 0, 0, 0, 0]);
    }
    packet.extend(MARK);
    packet
}

/// What is neither TCP nor UDP stays in the kernel and is counted there, also after the balancer was replaced; the
/// rest comes, of what the hosts send too.
fn what_no_detector_needs_stays_in_the_kernel(dir: &Path) {
    let line = "-i xdp:tap0 -c 98 -n 1 -z -p --prefilter";
    let mut balancer = Process::balancer(dir, line);
    balancer.says("tap0: AF_XDP, native, copy, 1 queue(s), rings of 32768, prefilter");
    balancer.says("zbalance: ready");
    let mut consumer = consumer_of(dir, 0);
    attach(&mut consumer);
    let dropped = [
        of_type(0x0806, MARK),
        of_type(0x88cc, MARK),
        of_type(0x0800, &ipv4(1, 0)),
        of_type(0x8100, &[&[0, 100, 0x08, 0][..], &ipv4(47, 0)].concat()),
        of_type(0x86dd, &ipv6(&[58])),
        of_type(0x86dd, &ipv6(&[0, 43, 60, 44, 58])),
    ];
    let kept = [
        of_type(0x0800, &ipv4(6, 0)),
        of_type(0x0800, &ipv4(1, 1)),
        of_type(0x88a8, &[&[0, 7, 0x81, 0, 0, 100, 0x08, 0][..], &ipv4(17, 0)].concat()),
        of_type(0x86dd, &ipv6(&[6])),
        of_type(0x86dd, &ipv6(&[0, 44, 60, 17])),
        of_type(0x0800, &[0x54, 0, 0, 1]),
    ];
    let mark = of_type(0x0800, &ipv4(132, 9));
    let counted = |at_least: u64| {
        let deadline = Instant::now() + LIMIT;
        loop {
            let text = shm::monitor(dir, CLUSTER).unwrap();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            let count = json["interfaces"][0]["prefiltered"].as_u64().unwrap();
            if count >= at_least {
                return count;
            }
            assert!(Instant::now() < deadline, "{text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    // Frames that come until the mark does.
    let mut until_mark = |sent: &[Vec<u8>]| {
        send_raw("gen0", &[sent, std::slice::from_ref(&mark)].concat());
        let (mut got, deadline) = (Vec::new(), Instant::now() + LIMIT);
        while !got.contains(&mark) {
            assert!(Instant::now() < deadline, "{got:02x?}");
            got.extend(consumer.receive(Duration::from_millis(5)).iter().map(|f| f.data.to_vec()));
        }
        got.retain(|frame| *frame != mark);
        got
    };
    let both = |n: usize| [dropped[n].clone(), kept[n].clone()];
    let mixed: Vec<Vec<u8>> = (0..6).flat_map(both).collect();
    assert_eq!(until_mark(&mixed), kept);
    assert_eq!(counted(6), 6);
    let text = shm::monitor(dir, CLUSTER).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&json["interfaces"][0]["received"], &json["interfaces"][0]["filtered"]),
        (&7.into(), &0.into())
    );

    // What a host sends: ARP for a neighbour that nobody is, echo requests, a connection, datagrams of three
    // fragments each.
    let output = Command::new("ping").args(["-c", "1", "-W", "1", "10.9.0.9"]).output();
    output.expect("ping is needed");
    let arp = counted(7);
    let output = Command::new("ping").args("-c 4 -i 0.1 -W 1 -s 4000 10.9.0.2".split(' ')).output();
    output.expect("ping is needed");
    assert!(counted(arp + 4) >= arp + 4, "the first fragment of each echo request");
    let other = std::net::SocketAddr::from(([10, 9, 0, 2], 443));
    std::net::TcpStream::connect_timeout(&other, Duration::from_millis(100)).unwrap_err();
    let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
    assert_eq!(socket.send_to(&[7; 4000], "10.9.0.2:9").unwrap(), 4000);
    let seen = until_mark(&[]);
    let of = |protocol: u8, first: bool| {
        let is = |f: &&Vec<u8>| {
            f[12..14] == [8, 0] && f[23] == protocol && (f[20] & 0x1f == 0 && f[21] == 0) == first
        };
        seen.iter().filter(is).count()
    };
    assert_eq!((of(1, true), of(1, false)), (0, 8), "of ICMP the later fragments alone");
    assert_eq!((of(17, true), of(17, false)), (1, 2));
    assert!(of(6, true) >= 1 && seen.iter().all(|frame| frame[12..14] == [8, 0]));

    // The program stays where it is when another balancer goes on, and then another; each counts for itself.
    for (attaches, before) in [(2, 11), (3, 12)] {
        let mut old = balancer;
        balancer = Process::balancer(dir, &format!("{line} --take-over"));
        assert_eq!(old.0.wait().unwrap().code(), Some(0));
        let said: Vec<String> = old.lines().collect();
        let count = said.iter().find_map(|line| line.strip_prefix("IFPrefilter:"));
        assert!(count.is_some_and(|n| n.trim().parse::<u64>().unwrap() >= before), "{said:?}");
        balancer.says("zbalance: ready");
        let deadline = Instant::now() + LIMIT;
        while consumer.statistics().attaches < attaches {
            assert!(Instant::now() < deadline, "not attached to the new one");
            consumer.receive(Duration::from_millis(5));
        }
        send_raw("gen0", &[&mixed[..], &mixed, std::slice::from_ref(&mark)].concat());
        let (mut got, deadline) = (Vec::new(), Instant::now() + LIMIT);
        while !got.contains(&mark) {
            assert!(Instant::now() < deadline, "{got:02x?}");
            let burst = consumer.receive(Duration::from_millis(5));
            got.extend(burst.iter().map(|f| f.data.to_vec()));
        }
        let expected: Vec<Vec<u8>> = kept.iter().chain(&kept).chain([&mark]).cloned().collect();
        got.retain(|frame| expected.contains(frame));
        assert_eq!(got, expected);
        assert_eq!(counted(12), 12);
    }
    let text = balancer.terminate();
    assert!(text.contains("IFPrefilter:"), "{text}");
}

fn the_interface_of_af_xdp_goes_away(dir: &Path) {
    let mut balancer = Process::balancer(dir, "-i xdp:tap0 -c 98 -n 1 -z");
    balancer.says("tap0: AF_XDP, native, copy, 1 queue(s)");
    balancer.says("zbalance: ready");
    let mut consumer = consumer_of(dir, 0);
    attach(&mut consumer);
    goes_away(dir, &mut consumer, 0);
    balancer.terminate();
}

/// The interface that AF_XDP reads is deleted and made again: the balancer goes on, without privilege. Packets
/// have numbers from `next`.
fn goes_away(dir: &Path, consumer: &mut Consumer, mut next: u32) {
    let sender = Sender::new(1);
    let mut all_arrive = |consumer: &mut Consumer| {
        sender.send(next..next + 50);
        let (mut got, deadline) = (Vec::new(), Instant::now() + LIMIT);
        while got.len() < 50 && Instant::now() < deadline {
            take(consumer, &mut got);
        }
        assert!(got.iter().map(|(_, number)| *number).eq(next..next + 50), "{} packets", got.len());
        next += 50;
    };
    all_arrive(consumer);
    let down = |is: bool| {
        let deadline = Instant::now() + LIMIT;
        loop {
            let text = shm::monitor(dir, CLUSTER).unwrap();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            if json["interfaces"][0]["down"] == is {
                return;
            }
            assert!(Instant::now() < deadline, "{text}");
        }
    };
    ip("link del tap0");
    down(true);
    network();
    down(false);
    all_arrive(consumer);
}

/// A file of options, a filter of VLANs, and a process in the background that logs to a file.
fn in_the_background(dir: &Path) {
    let (conf, log, pid) = (dir.join("cluster.conf"), dir.join("log"), dir.join("pid"));
    let text = format!(
        "# two VLANs\n-i=afp:tap0\n-c 98\n-n=1\n-m \"1\"\n-x=100,4094\n-d\n-l={}\n-P={}\n-R=1000\n",
        log.display(),
        pid.display()
    );
    std::fs::write(&conf, text).unwrap();
    std::fs::write(&log, "of an earlier run\n").unwrap();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zbalance"));
        command.arg(&conf).env("CJ_IPC_DIR", dir).output().unwrap()
    };
    // It returns when all is ready; a failure is said here and has its own exit code.
    let output = start();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("zbalance: ready"), "{said}{errors}");
    assert_eq!(errors, "zbalance: -R is ignored: frames carry the kernel's time stamps\n");
    let second = start();
    assert_eq!(second.status.code(), Some(69), "{}", String::from_utf8_lossy(&second.stderr));

    let mut consumer = consumer_of(dir, 0);
    attach(&mut consumer);
    let tags = ["", "8100 0064", "8100 efff", "88a8 0ffe 8100 2001", "8100 0001 8100 0064"];
    let frames: Vec<Vec<u8>> = tags.iter().map(|tags| tagged(tags)).collect();
    send_raw("gen0", &frames);
    let (mut got, deadline) = (Vec::new(), Instant::now() + LIMIT);
    while got.len() < 3 && Instant::now() < deadline {
        got.extend(consumer.receive(Duration::from_millis(5)).iter().map(|f| f.data.to_vec()));
    }
    assert!(got == [1, 3, 4].map(|n| frames[n].clone()), "{got:02x?}");
    let json: serde_json::Value =
        serde_json::from_str(&shm::monitor(dir, CLUSTER).unwrap()).unwrap();
    assert!(json["interfaces"][0]["filtered"].as_u64().is_some_and(|n| n >= 2), "{json}");

    let number: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    let balancer = rustix::process::Pid::from_raw(number).unwrap();
    let session = rustix::process::getsid(Some(balancer)).unwrap();
    assert_eq!(session, balancer, "it is still in the session of its starter");
    rustix::process::kill_process(balancer, rustix::process::Signal::TERM).unwrap();
    let deadline = Instant::now() + LIMIT;
    while pid.exists() {
        assert!(Instant::now() < deadline, "the pid file stays");
        std::thread::sleep(Duration::from_millis(10));
    }
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.starts_with("zbalance: ready") && text.contains("ClusterId:    98"), "{text}");
    std::fs::remove_file(&log).unwrap();
    std::fs::remove_file(&conf).unwrap();
}

/// Ends every frame of the VLAN test.
const MARK: &[u8] = b"behind the tags";

/// A datagram with `tags` between addresses and type.
fn tagged(tags: &str) -> Vec<u8> {
    let digits: String = tags.split_whitespace().collect();
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for at in (0..digits.len()).step_by(2) {
        frame.push(u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
    }
    frame.extend([8, 0, 0x45, 0, 0, 28 + MARK.len() as u8, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend([10, 9, 0, 1, 10, 9, 0, 2, 0x1e, 0x61, 0x1e, 0x61]);
    frame.extend([0, 8 + MARK.len() as u8, 0, 0]);
    frame.extend(MARK);
    frame
}

/// Sends whole frames on an interface. A packet socket wants an address that safe Rust cannot make.
fn send_raw(interface: &str, frames: &[Vec<u8>]) {
    const PROGRAM: &str = "import socket, sys\n\
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
        s.bind((sys.argv[1], 0))\n\
        for frame in sys.argv[2:]: s.send(bytes.fromhex(frame))\n";
    let hex = |frame: &Vec<u8>| frame.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM, interface]).args(frames.iter().map(hex));
    assert!(command.status().expect("python3 is needed").success());
}

/// Run by `inside`: reads queue 1 until it is killed.
#[test]
fn consumer() {
    let Some(dir) = std::env::var_os("ZBALANCE_TEST_CONSUMER") else { return };
    let mut consumer = consumer_of(Path::new(&dir), 1);
    attach(&mut consumer);
    println!("attached");
    loop {
        consumer.receive(Duration::from_millis(5));
    }
}

/// Run by the test below inside the namespaces; does nothing when run on its own.
#[test]
fn inside() {
    if std::env::var_os("ZBALANCE_TEST_INSIDE").is_none() {
        return;
    }
    lab::isolate::enter().unwrap();
    network();
    let dir = tempfile::tempdir().unwrap();
    in_the_background(dir.path());
    a_consumer_is_killed(dir.path());
    for source in ["afp:tap0", "xdp:tap0"] {
        counts_are_right(dir.path(), source);
        tags_stay_and_the_monitor_counts(dir.path(), source);
        what_is_inside_a_tunnel_is_sent(dir.path(), source);
        an_expression_filters(dir.path(), source);
        the_balancer_is_killed(dir.path(), source);
    }
    what_no_detector_needs_stays_in_the_kernel(dir.path());
    successors_of_af_xdp(dir.path());
    the_interface_of_af_xdp_goes_away(dir.path());
    println!("all is balanced");
}

#[test]
fn on_a_tap() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--nocapture"])
        .env("ZBALANCE_TEST_INSIDE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("all is balanced"), "{said}");
}

#[test]
fn what_is_wrong_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let run = |line: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_zbalance"))
            .args(line.split_whitespace())
            .env("CJ_IPC_DIR", dir.path())
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = run("-i afp:none7 -c 98 -n 4 -m 1 -g 0 -z");
    assert!(code == 69 && text.contains("none7") && text.contains("lo"), "{code}: {text}");
    let (code, text) = run("-i lo -n 1 -f /nonexistent/bpf");
    assert!(code == 78 && text.contains("/nonexistent/bpf: No such file"), "{code}: {text}");
    let (code, text) = run("-i -c 98 -n 4 -m 1 -g 0 -z");
    assert_eq!(code, 64, "{text}");
    let (code, text) = run("-i lo -n 1 -D no-such-user");
    assert!(code == 64 && text.contains("there is no user `no-such-user`"), "{code}: {text}");
    let (code, text) = run("/nowhere/cluster.conf");
    assert!(code == 78 && text.contains("/nowhere/cluster.conf"), "{code}: {text}");
    let (code, text) = run("-i pcap:/nowhere/x.pcap -n 1 -d");
    assert!(code == 69 && text.contains("/nowhere/x.pcap"), "{code}: {text}");
    let (code, text) = run("-i pcap:/nowhere/x.pcap -n 1");
    assert!(code == 69 && text.contains("/nowhere/x.pcap"), "{code}: {text}");
    let header = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1].map(u32::to_le_bytes).concat();
    let file = dir.path().join("empty.pcap");
    std::fs::write(&file, header).unwrap();
    assert_eq!(run(&format!("--check-config -i pcap:{} -n 1 -g 99", file.display())).0, 0);
    assert!(!dir.path().join("ingest-103.sock").exists(), "a check leaves something behind");
}
