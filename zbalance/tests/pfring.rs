//! The balancer as a process that fills queues of PF_RING ZC, with a recording fake in the library's place and its own
//! view of `/proc/net`. Runs in a network namespace of its own.
#![cfg(feature = "pfring")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use pfring::{Consumer, Library};
use pfring_fake::Fake;

/// Nothing here takes longer on a busy machine; it is no measurement.
const LIMIT: Duration = Duration::from_secs(20);
const ZC: &str =
    "Name: tap0\nAddress: 02:00:00:00:00:01\nPolling Mode: NAPI/ZC\nRX Slot Size: 1600\n";

/// The fake, and what the kernel's module says.
struct Stage {
    dir: PathBuf,
    fake: Fake,
}

impl Stage {
    fn new(dir: &Path) -> Self {
        let fake = Fake::build(dir);
        std::fs::create_dir_all(dir.join("net/pf_ring/dev/tap0")).unwrap();
        std::fs::copy("/proc/self/net/dev", dir.join("net/dev")).unwrap();
        let this = Self { dir: dir.to_owned(), fake };
        this.module("PF_RING Version          : 8.9.0 (unknown)\n", ZC);
        this
    }

    fn module(&self, info: &str, device: &str) {
        std::fs::write(self.dir.join("net/pf_ring/info"), info).unwrap();
        std::fs::write(self.dir.join("net/pf_ring/dev/tap0/info"), device).unwrap();
    }

    /// The balancer, which finds the fake's library and this module.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg("mount --bind \"$STAGE\" /proc/$$/net && exec \"$0\" \"$@\"");
        command.arg(env!("CARGO_BIN_EXE_zbalance")).args(line.split_whitespace());
        command.env("STAGE", self.dir.join("net")).env("CJ_IPC_DIR", self.dir.join("ipc"));
        command.env("PFRING_FAKE_NAME", "zbalance").env_remove("CJ_USER");
        self.fake.offer(&mut command);
        command
    }

    fn run(&self, line: &str, change: impl FnOnce(&mut Command)) -> (i32, String) {
        let mut command = self.command(line);
        change(&mut command);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        (status.code().unwrap_or_else(|| panic!("signal {:?}: {text}", status.signal())), text)
    }

    /// Forgets what was called, and what packets there were.
    fn clear(&self) {
        for name in ["log-zbalance", "packets-zc:tap0"] {
            // There may be none yet.
            let _ = std::fs::remove_file(self.dir.join(name));
        }
    }
}

/// A balancer that ends with the test, and what it says.
struct Balancer(Child, std::io::Lines<BufReader<ChildStdout>>);

impl Balancer {
    fn start(stage: &Stage, line: &str) -> Self {
        stage.clear();
        let mut child = stage.command(line).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self(child, lines)
    }

    /// What it says until this.
    fn says(&mut self, text: &str) -> Vec<String> {
        let mut said = Vec::new();
        for line in self.1.by_ref().map_while(Result::ok) {
            said.push(line);
            if said.last().is_some_and(|line| line.contains(text)) {
                return said;
            }
        }
        panic!("it never said {text:?}: {said:#?}");
    }

    fn terminate(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let rest: Vec<String> = self.1.by_ref().map_while(Result::ok).collect();
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
        rest.join("\n")
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn attach(library: &'static Library, queue: u32) -> Consumer {
    let deadline = Instant::now() + LIMIT;
    loop {
        match Consumer::attach(library, 98, queue) {
            Ok(consumer) => return consumer,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Takes packets of all consumers until there are `wanted` of them.
fn take(consumers: &mut [Consumer], wanted: usize) -> Vec<Vec<Vec<u8>>> {
    let mut got = vec![Vec::new(); consumers.len()];
    let deadline = Instant::now() + LIMIT;
    while got.iter().map(Vec::len).sum::<usize>() < wanted {
        assert!(
            Instant::now() < deadline,
            "{} of {wanted}",
            got.iter().map(Vec::len).sum::<usize>()
        );
        for (consumer, out) in consumers.iter_mut().zip(&mut got) {
            consumer.burst(&mut |packets| out.extend(packets.iter().map(|p| p.to_vec()))).unwrap();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    got
}

fn ipv4(protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend(from.into_iter().chain(to));
    packet.extend(payload);
    packet
}

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&[2; 12][..], &kind.to_be_bytes(), payload].concat()
}

/// A packet of a flow, in one direction or the other, with a number at its end.
fn numbered(number: u16) -> Vec<u8> {
    let flow = (number / 2 % 40) as u8;
    let (client, server) = ([10, 8, 0, flow], [10, 9, 0, 1]);
    let (from, to) = if number.is_multiple_of(2) { (client, server) } else { (server, client) };
    ethernet(0x0800, &ipv4(17, from, to, &[&[0; 8][..], &number.to_be_bytes()].concat()))
}

/// Two sets of queues: each packet once in every set, both directions of a flow in one queue.
fn packets_are_spread(stage: &Stage, library: &'static Library) {
    let pid_file = stage.dir.join("pid");
    let line = format!("-i zc:tap0 -c 98 -n 3,1 -m 1 -g -1 -p -z -P {}", pid_file.display());
    let mut balancer = Balancer::start(stage, &line);
    let said = balancer.says("zbalance: ready").join("\n");
    for part in ["tap0: PF_RING ZC 8.9.0", "4 consumer queues", "queue 3: detector -i zc:98@3"] {
        assert!(said.contains(part), "{said}");
    }
    let pid: u32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    assert_eq!(pid, balancer.0.id());
    let mut consumers: Vec<Consumer> = (0..4).map(|queue| attach(library, queue)).collect();
    let sent: Vec<Vec<u8>> = (0..800).map(numbered).collect();
    stage.fake.packets("zc:tap0", sent.iter().map(Vec::as_slice));
    let got = take(&mut consumers, 1600);
    let numbers = |packets: &[Vec<u8>]| -> Vec<u16> {
        packets.iter().map(|p| u16::from_be_bytes([p[p.len() - 2], p[p.len() - 1]])).collect()
    };
    assert_eq!(
        numbers(&got[3]),
        (0..800).collect::<Vec<_>>(),
        "a set of one queue gets all, in order"
    );
    assert_eq!(got[3], sent);
    let mut queues = BTreeMap::new();
    let mut all = Vec::new();
    for (queue, packets) in got[..3].iter().enumerate() {
        assert!(!packets.is_empty(), "a queue without any of 40 flows");
        for number in numbers(packets) {
            all.push(number);
            assert_eq!(*queues.entry(number / 2 % 40).or_insert(queue), queue, "a flow was split");
        }
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(0..800));
    drop(consumers);
    let text = balancer.terminate();
    let value = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
    };
    assert_eq!((value("ClusterId:"), value("TotQueues:"), value("Applications:")), (98, 4, 2));
    assert_eq!((value("Packets:"), value("Forwarded:"), value("Processed:")), (800, 1600, 1600));
    assert_eq!((value("Q3Packets:"), value("Q3Dropped:")), (800, 0));
    assert!(stage.fake.statistics().contains("Forwarded:    1600"), "{}", stage.fake.statistics());
    let file = std::fs::read_to_string(stage.dir.join("ipc/stats/98")).unwrap();
    assert!(file.contains("Processed:    1600"), "{file}");
    assert!(!pid_file.exists());

    assert_eq!(stage.fake.violations("zbalance"), Vec::<String>::new());
    let calls = stage.fake.calls("zbalance");
    // One device, four queues of 8,192 and 16: 32,768 + 4 * 8,208 + 8.
    let start = [
        "create_cluster 98 1600 0 65608 -1 - 0 = 0",
        "open_device 98 zc:tap0 0 0 = 0",
        "create_queue_pool_pair 98 8192 16 = 0",
        "create_queue_pool_pair 98 8192 16 = 1",
        "create_queue_pool_pair 98 8192 16 = 2",
        "create_queue_pool_pair 98 8192 16 = 3",
        "create_multi_queue 4 = 0",
        "create_buffer_pool 98 8 = 0",
        "get_packet_handle_from_pool 98 working = 1",
        "recv_pkt_burst zc:tap0 8 0 = 8",
    ];
    assert_eq!(calls[..start.len()], start, "{:#?}", &calls[..start.len()]);
    let end = ["release_packet_handle_to_pool 98 working", "destroy_cluster 98"];
    assert_eq!(calls[calls.len() - 2..], end);
    let between = &calls[start.len()..calls.len() - 2];
    let known =
        |call: &&String| call.starts_with("recv_pkt_burst") || call.starts_with("send_pkt_multi");
    assert_eq!(between.iter().find(|call| !known(call)), None);
    // Whatever is in a burst can be seen once the burst is over.
    let flushed =
        between.iter().any(|call| call.starts_with("send_pkt_multi") && call.contains(" 1 = 2"));
    assert!(flushed, "{between:#?}");
}

/// One set needs no copies; tunnels are taken off, and tags of the map put right, in the buffer itself.
fn packets_are_changed_in_place(stage: &Stage, library: &'static Library) {
    let inner = ipv4(6, [10, 0, 0, 1], [10, 0, 0, 2], b"inside");
    let outer = ipv4(47, [192, 0, 2, 1], [192, 0, 2, 2], &[&[0, 0, 8, 0][..], &inner].concat());
    let mut balancer = Balancer::start(stage, "-i zc:tap0 -c 98 -n 1 --decap -z -q 64 -b 20");
    balancer.says("zbalance: ready");
    let mut consumers = [attach(library, 0)];
    stage.fake.packets("zc:tap0", [&ethernet(0x0800, &outer)[..], &numbered(7)]);
    let got = take(&mut consumers, 2).remove(0);
    assert_eq!(got, [ethernet(0x0800, &inner), numbered(7)]);
    drop(consumers);
    balancer.terminate();
    assert_eq!(stage.fake.violations("zbalance"), Vec::<String>::new());
    let calls = stage.fake.calls("zbalance");
    assert!(calls.contains(&"create_queue_pool_pair 98 64 32 = 0".to_owned()), "{calls:#?}");
    assert!(!calls.iter().any(|call| call.contains("multi")), "{calls:#?}");

    let frame = |vlan: u8| ethernet(0x8585, &[0, vlan, 8, 0, 1, 2, 3]);
    let mut balancer = Balancer::start(stage, "-i zc:tap0 -c 98 -m vlan-map -M 100,7 -z -q 64");
    balancer.says("zbalance: ready");
    let mut consumers: Vec<Consumer> = (0..3).map(|queue| attach(library, queue)).collect();
    stage.fake.packets("zc:tap0", [&frame(7)[..], &frame(8), &numbered(1), &frame(100)]);
    let got = take(&mut consumers, 3);
    let tagged = |vlan: u8| ethernet(0x8100, &[0, vlan, 8, 0, 1, 2, 3]);
    assert_eq!(got, [vec![numbered(1)], vec![tagged(100)], vec![tagged(7)]]);
    drop(consumers);
    balancer.terminate();
    assert_eq!(stage.fake.violations("zbalance"), Vec::<String>::new());
}

/// An interface that comes back is read on; without a licence it does not come back.
fn errors_of_the_device_go_by_unless_the_demo_is_over(stage: &Stage, library: &'static Library) {
    let start = |plan: &str| {
        stage.clear();
        let mut command = stage.command("-i zc:tap0 -c 98 -n 1 -z -q 64");
        command.env("PFRING_FAKE_FAIL", plan).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut child = start("pfring_zc_recv_pkt_burst@3=19");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut balancer = Balancer(child, lines);
    balancer.says("zbalance: ready");
    let mut complaints = BufReader::new(balancer.0.stderr.take().unwrap()).lines();
    let mut complains = |text: &str| {
        let found = complaints.by_ref().map_while(Result::ok).find(|line| line.contains(text));
        assert!(found.is_some(), "it never said {text:?}");
    };
    complains("zc:tap0: PF_RING ZC cannot receive (error -1)");
    let mut consumers = [attach(library, 0)];
    stage.fake.packets("zc:tap0", [&numbered(1)[..]]);
    complains("zc:tap0: receives again");
    assert_eq!(take(&mut consumers, 1), [[numbered(1)]]);
    drop(consumers);
    balancer.terminate();

    let output = start("pfring_zc_recv_pkt_burst@50=-6").wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{text}");
    assert!(text.contains("demo mode (error -6)") && text.contains("/etc/pf_ring"), "{text}");
    let calls = stage.fake.calls("zbalance");
    assert_eq!(calls.last().map(String::as_str), Some("destroy_cluster 98"));
    assert_eq!(stage.fake.violations("zbalance"), Vec::<String>::new());
}

/// What cannot be made is named with its remedy, and by the exit code.
fn failures_are_named(stage: &Stage) {
    for (plan, code, parts) in [
        ("pfring_zc_create_cluster=105", 69, ["No buffer space", "vm.nr_hugepages="]),
        ("pfring_zc_create_cluster=97", 69, ["not supported", "modprobe pf_ring"]),
        ("pfring_zc_create_cluster=88", 69, ["non-socket", "hugetlbfs"]),
        ("pfring_zc_create_cluster=1", 77, ["not permitted", "CAP_SYS_ADMIN"]),
        ("pfring_zc_open_device=19", 69, ["zc:tap0", "pf_ringcfg --list-interfaces"]),
        ("pfring_zc_create_queue_pool_pair@2=12", 69, ["create_queue_pool_pair", "-q"]),
    ] {
        stage.clear();
        let line = "-i zc:tap0 -c 98 -n 2 -z";
        let (found, text) = stage.run(line, |command| {
            command.env("PFRING_FAKE_FAIL", plan);
        });
        assert_eq!(found, code, "{plan}: {text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{plan}: {text}");
        assert_eq!(stage.fake.violations("zbalance"), Vec::<String>::new(), "{plan}");
    }
}

/// Without library, module or driver the interface is read without PF_RING, and the reason is said.
fn what_is_not_there_is_done_without(stage: &Stage) {
    let check = |line: &str, reason: &str, change: &dyn Fn(&mut Command)| {
        stage.clear();
        let (code, text) = stage.run(&format!("--check-config -i {line} -c 98 -n 1"), change);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains(": not PF_RING: ") && text.contains(reason), "{reason}: {text}");
        assert!(text.contains("source(s) open, configuration good"), "{text}");
        assert_eq!(stage.fake.journal("zbalance"), "", "{reason}");
    };
    let same = |_: &mut Command| {};
    check("zc:tap0", "libpfring.so cannot be loaded", &|command| {
        command.env_remove("LD_LIBRARY_PATH");
    });
    check("zc:tap0", "library is 8.8.0.1 and its kernel module 8.9.0", &|command| {
        command.env("PFRING_FAKE_VERSION", "8.8.0.1");
    });
    check("zc:tap0,afp:gen0", "a cluster has ZC devices alone", &same);
    check("zc:tap0,zc:gen0", "does not know gen0", &same);
    stage.module("PF_RING Version          : 8.9.0 (unknown)\n", "Polling Mode: NAPI\n");
    check("zc:tap0", "Polling Mode: NAPI", &same);
    std::fs::remove_file(stage.dir.join("net/pf_ring/info")).unwrap();
    check("zc:tap0", "modprobe pf_ring", &same);
    stage.module("PF_RING Version          : 8.9.0 (unknown)\n", ZC);
    let (code, text) = stage.run("--check-config -i zc:tap0 -c 98 -n 4", |_| {});
    assert!(code == 0 && text.contains("65608 buffers"), "{code}: {text}");
    let (code, text) = stage.run("--take-over -i zc:tap0 -c 98 -n 4", |_| {});
    assert!(code == 69 && text.contains("cluster 98 is one of PF_RING"), "{code}: {text}");
    assert_eq!(stage.fake.journal("zbalance"), "", "neither makes a cluster");
}

/// Run by the test below inside the namespaces; does nothing when run on its own.
#[test]
fn inside() {
    let Some(dir) = std::env::var_os("ZBALANCE_TEST_PFRING") else { return };
    lab::isolate::enter().unwrap();
    let link = ["link", "add", "tap0", "type", "veth", "peer", "name", "gen0"];
    assert!(Command::new("ip").args(link).status().unwrap().success());
    assert!(Command::new("ip").args(["link", "set", "tap0", "up"]).status().unwrap().success());
    assert!(Command::new("ip").args(["link", "set", "gen0", "up"]).status().unwrap().success());
    let stage = Stage::new(Path::new(&dir));
    let library = Library::open(stage.fake.library().as_os_str()).unwrap();
    what_is_not_there_is_done_without(&stage);
    failures_are_named(&stage);
    packets_are_spread(&stage, library);
    packets_are_changed_in_place(&stage, library);
    errors_of_the_device_go_by_unless_the_demo_is_over(&stage, library);
    assert_eq!(stage.fake.violations("consumer"), Vec::<String>::new());
    println!("all is produced");
}

#[test]
fn as_a_producer_of_zc() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--nocapture"])
        .env("ZBALANCE_TEST_PFRING", dir.path())
        .env("PFRING_FAKE", dir.path())
        .env("PFRING_FAKE_NAME", "consumer")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("all is produced"), "{said}");
}
