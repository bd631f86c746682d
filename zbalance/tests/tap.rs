//! The balancer as a process, on a veth pair in a network namespace, with real consumers.
//!
//! The test binary runs itself again inside the namespaces (`--exact inside`), and there once more
//! as the consumer that gets killed (`--exact consumer`).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
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
struct Process(Child, std::io::Lines<BufReader<ChildStdout>>);

impl Process {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self(child, lines)
    }

    fn balancer(dir: &Path, line: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zbalance"));
        command.args(line.split_whitespace()).env("CJ_IPC_DIR", dir);
        Self::start(&mut command)
    }

    fn says(&mut self, text: &str) {
        let line = self.1.by_ref().map_while(Result::ok).find(|line| line.contains(text));
        assert!(line.is_some(), "it never said {text:?}");
    }

    /// SIGTERM, and everything said from then on.
    fn terminate(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let rest: Vec<String> = self.1.by_ref().map_while(Result::ok).collect();
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
    ip("route add local 10.8.0.0/24 dev lo");
}

/// Two sets of two queues: each packet once in every set, a flow in one queue only.
fn counts_are_right(dir: &Path) {
    let sender = Sender::new(40);
    let line = "-i afp:tap0 -c 98 -n 2,2 -m 1 -g 0 -p -z";
    let mut balancer = Process::balancer(dir, line);
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

/// The balancer is killed 20 times and comes back with another number of queues.
fn the_balancer_is_killed(dir: &Path) {
    let sender = Sender::new(8);
    let mut consumers = [consumer_of(dir, 0), consumer_of(dir, 1)];
    for round in 0..20u32 {
        let queues = 2 + round % 3;
        // Queues beyond the second have no consumer, which costs these two nothing.
        let line = format!("-i afp:tap0 -c 98 -n {queues} -m all -g 0 -z");
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
    // Nothing of 20 balancers is still mapped.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let regions = maps.lines().filter(|line| line.contains("/memfd:conjure-")).count();
    assert_eq!(regions, 0, "{maps}");
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
    counts_are_right(dir.path());
    a_consumer_is_killed(dir.path());
    the_balancer_is_killed(dir.path());
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
    let (code, text) = run("-i -c 98 -n 4 -m 1 -g 0 -z");
    assert_eq!(code, 64, "{text}");
    let (code, text) = run("-i pcap:/nowhere/x.pcap -n 1");
    assert!(code == 69 && text.contains("/nowhere/x.pcap"), "{code}: {text}");
    let header = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1].map(u32::to_le_bytes).concat();
    let file = dir.path().join("empty.pcap");
    std::fs::write(&file, header).unwrap();
    assert_eq!(run(&format!("--check-config -i pcap:{} -n 1 -g 99", file.display())).0, 0);
    assert!(!dir.path().join("ingest-103.sock").exists(), "a check leaves something behind");
}
