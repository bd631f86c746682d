//! zcount and zdump at a balancer that plays a recording for ever, beside its consumers.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use capture::pcapng::{LINK_ETHERNET, PcapngWriter, Record};
use capture::recording::Recording;
use shm::{Consumer, ConsumerOptions, Reads};

const CLUSTER: u32 = 4098;

/// A child process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

/// A frame of UDP over IPv4 between hosts that `n` chooses, to port 53 when it is even.
fn frame(n: u8) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0, 0, 32, 0, n, 0, 0, 64, 17, 0, 0]);
    frame.extend([192, 0, 2, n, 198, 51, 100, n]);
    frame.extend([0x30, n, 0, if n.is_multiple_of(2) { 53 } else { 54 }, 0, 12, 0, 0, n, n, n, n]);
    frame
}

fn record(path: &Path, frames: &[Vec<u8>]) {
    let mut writer = PcapngWriter::new(std::fs::File::create(path).unwrap()).unwrap();
    writer.interface(LINK_ETHERNET, 65_535, None).unwrap();
    for (n, data) in (0..).zip(frames) {
        let time = 1_700_000_000_000_000_000 + n * 1_000_000;
        let length = data.len();
        writer.packet(&Record { interface: 0, data, length, time, comments: &[] }).unwrap();
    }
}

struct Bench {
    balancer: Process,
    stop: Arc<AtomicBool>,
    consumers: Option<std::thread::JoinHandle<u64>>,
    // Outlives the balancer, which reads from it.
    dir: tempfile::TempDir,
}

impl Bench {
    fn balancer(dir: &Path) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zbalance"));
        command.arg("-i").arg(format!("pcap:{}", dir.join("in.pcapng").display()));
        command.args(["-c", &CLUSTER.to_string(), "-n", "2", "--loop", "--pps", "4000"]);
        Process(command.env("CJ_IPC_DIR", dir).stdout(Stdio::null()).spawn().unwrap())
    }

    /// A balancer with two consumers, which play their part until the end.
    fn new(frames: &[Vec<u8>]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        record(&dir.path().join("in.pcapng"), frames);
        let balancer = Self::balancer(dir.path());
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, path) = (Arc::clone(&stop), dir.path().to_owned());
        let consumers = std::thread::spawn(move || {
            let options = |queue| ConsumerOptions::new(path.clone(), CLUSTER, queue);
            let mut consumers = [0, 1].map(|queue| Consumer::detached(options(queue)));
            while !stopped.load(Ordering::Relaxed) {
                for consumer in &mut consumers {
                    consumer.receive(Duration::from_millis(2));
                }
            }
            consumers.iter().map(|consumer| consumer.statistics().dropped).sum()
        });
        let bench = Self { balancer, stop, consumers: Some(consumers), dir };
        bench
            .until(|state| state["queues"].as_array().unwrap().iter().all(|q| q["processed"] != 0));
        bench
    }

    fn state(&self) -> serde_json::Value {
        let text = shm::monitor(self.dir.path(), CLUSTER).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Waits until the balancer's state is as wanted.
    fn until(&self, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        for _ in 0..2_000 {
            let state = self.state();
            if state["queues"].is_array() && wanted(&state) {
                return state;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it never came: {}", self.state());
    }

    fn tool(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(words).env("CJ_IPC_DIR", self.dir.path()).env_remove("CJ_CLUSTER_ID");
        command
    }

    fn run(&self, program: &str, words: &[&str]) -> (Option<i32>, String, Output) {
        let output = self.tool(program, words).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text, output)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

const ZCOUNT: &str = env!("CARGO_BIN_EXE_zcount");
const ZDUMP: &str = env!("CARGO_BIN_EXE_zdump");

#[test]
fn they_look_on_and_no_consumer_loses_a_packet() {
    let frames: Vec<Vec<u8>> = (0..100).map(frame).collect();
    let mut bench = Bench::new(&frames);
    let cluster = CLUSTER.to_string();

    // Every packet once, in the order in which they come, with names of inputs.
    let file = bench.dir.path().join("out.pcapng");
    let path = file.display().to_string();
    let (code, text, _) = bench.run(ZDUMP, &["-c", &cluster, "-w", &path, "-n", "1000"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("1000 packets written"), "{text}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = std::fs::read(&file).unwrap();
    let name = format!("pcap:{}/in.pcapng", bench.dir.path().display());
    assert!(bytes.windows(name.len()).any(|w| w == name.as_bytes()), "no interface {name}");
    let mut dumped = Recording::read(std::io::Cursor::new(bytes), &file).unwrap();
    let (mut next, mut time, mut count) = (None, 0, 0);
    while let Some(packet) = dumped.packet().unwrap() {
        let n = packet.data[19];
        assert_eq!(packet.data, frames[usize::from(n)]);
        assert_eq!(n, next.unwrap_or(n), "a packet is missing or came twice");
        assert!(packet.time > time, "times go on from round to round");
        (next, time, count) = (Some((n + 1) % 100), packet.time, count + 1);
    }
    assert_eq!(count, 1000);

    // One queue's packets that match an expression, cut, to a pipe.
    let words = ["-c", &cluster, "-i", "1", "-f", "udp dst port 53", "-s", "40", "-n", "50"];
    let (code, text, output) = bench.run(ZDUMP, &words);
    assert_eq!(code, Some(0), "{text}");
    let mut dumped =
        Recording::read(std::io::Cursor::new(output.stdout), Path::new("pipe")).unwrap();
    while let Some(packet) = dumped.packet().unwrap() {
        assert_eq!((packet.data[37], packet.data.len(), packet.length), (53, 40, 46));
    }

    // A reader that has seen enough is no fault.
    let words = ["-c", cluster.as_str(), "-n", "100000000"];
    let mut dumping = bench.tool(ZDUMP, &words);
    let mut dumping =
        Process(dumping.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    dumping.0.stdout.take().unwrap().read_exact(&mut [0; 1000]).unwrap();
    assert_eq!(dumping.0.wait().unwrap().code(), Some(0));
    let mut said = String::new();
    dumping.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");

    // Counting, as the reference writes it and as JSON.
    let (code, text, _) = bench.run(ZCOUNT, &["-c", &cluster, "--seconds", "2", "-t"]);
    assert_eq!(code, Some(0), "{text}");
    let last = text.lines().rev().take(2).collect::<Vec<_>>();
    assert!(last[0].starts_with("Actual Stats: ") && last[0].contains(" Gbps"), "{text}");
    assert!(last[1].contains(" pkts (0 drops) - "), "{text}");
    assert!(!last[0].contains(" 0.00 pps"), "nothing came since: {text}");
    let (_, _, output) = bench.run(ZCOUNT, &["-c", &cluster, "--json", "-n", "1500", "--set", "0"]);
    let line = String::from_utf8(output.stdout).unwrap();
    let json: serde_json::Value = serde_json::from_str(line.lines().last().unwrap()).unwrap();
    assert_eq!((&json["packets"], &json["bytes"]), (&1500.into(), &(1500 * 70).into()));
    let (_, _, output) = bench.run(ZCOUNT, &["-c", &cluster, "-n", "1", "-v"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("[46 bytes][interface 0]\n0000 02 02 "), "{text}");

    bench.stop.store(true, Ordering::Relaxed);
    assert_eq!(bench.consumers.take().unwrap().join().unwrap(), 0, "consumers lost packets");
}

#[test]
fn what_is_wrong_is_named_and_a_restart_is_waited_for() {
    let mut bench = Bench::new(&(0..10).map(frame).collect::<Vec<_>>());
    let cluster = CLUSTER.to_string();
    let (code, text, _) = bench.run(ZCOUNT, &["-c", "77"]);
    assert_eq!(code, Some(69));
    assert!(text.contains(&format!("are clusters {CLUSTER}: choose with -c")), "{text}");
    let (code, text, _) = bench.run(ZCOUNT, &["-c", &cluster, "-i", "0", "--take"]);
    let (code_2, text_2, _) = bench.run(ZCOUNT, &["-c", &cluster, "-i", "9"]);
    assert_eq!((code, code_2), (Some(69), Some(69)));
    assert!(text.contains("queue 0 is held by process"), "{text}");
    assert!(text_2.contains("queue 9 of cluster 4098 does not exist"), "{text_2}");
    let (code, text, _) = bench.run(ZDUMP, &["-c", &cluster, "-f", "udp dst prt 53"]);
    assert_eq!(code, Some(64));
    assert!(text.contains("`udp dst prt 53` is no filter expression"), "{text}");

    let start = |bench: &Bench| {
        let mut command = bench.tool(ZCOUNT, &["-c", &cluster]);
        Process(command.stderr(Stdio::piped()).spawn().unwrap())
    };
    let (first, mut second) = (start(&bench), start(&bench));
    let state = bench.until(|state| state["mirrors"].as_array().unwrap().len() == 2);
    assert_eq!(state["mirrors"][0]["queues"], serde_json::json!([0, 1]));
    let (code, text, _) = bench.run(ZDUMP, &["-c", &cluster, "-w", "/dev/null"]);
    assert_eq!(code, Some(69));
    assert!(text.contains(&first.0.id().to_string()), "who has the mirrors: {text}");
    signal(&first.0, rustix::process::Signal::KILL);
    bench.until(|state| state["mirrors"].as_array().unwrap().len() == 1);

    // The other one lives through a death of the balancer.
    bench.balancer.0.kill().unwrap();
    bench.balancer.0.wait().unwrap();
    let mut lines = BufReader::new(second.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "zcount: zbalance has gone; waiting for it"));
    bench.balancer = Bench::balancer(bench.dir.path());
    assert!(lines.any(|line| line == "zcount: zbalance is back"));
    bench.until(|state| state["mirrors"].as_array().unwrap().len() == 1);
    signal(&second.0, rustix::process::Signal::TERM);
    assert_eq!(second.0.wait().unwrap().code(), Some(0));
}

/// A detector asks for no times, and gets none; somebody who takes a queue to write it down gets those at which the
/// packets were received, and so does who looks on.
#[test]
fn times_come_when_somebody_wants_them() {
    let dir = tempfile::tempdir().unwrap();
    let frames: Vec<Vec<u8>> = (0..10).map(frame).collect();
    record(&dir.path().join("in.pcapng"), &frames);
    let _balancer = Bench::balancer(dir.path());
    let folder = || dir.path().to_owned();
    let mut detector = Consumer::detached(ConsumerOptions::new(folder(), CLUSTER, 0));
    let mut times = |many: usize, wanted: bool| {
        // Packets from before are of another mind.
        let settled = Instant::now() + Duration::from_millis(300);
        let (mut seen, deadline) = (0, Instant::now() + Duration::from_secs(20));
        while seen < many {
            assert!(Instant::now() < deadline, "{seen} packets with wanted={wanted}");
            for packet in detector.receive(Duration::from_millis(2)).iter() {
                if Instant::now() < settled {
                    continue;
                }
                // The recording's, moved on for each time that it has been played.
                let is_of_then = |time| time / 1_000_000_000_000 == 1_700_000;
                assert_eq!(packet.timestamp().map(is_of_then), wanted.then_some(true));
                assert_eq!(packet.hash().is_some(), wanted);
                seen += 1;
            }
        }
    };
    times(100, false);
    for reads in [Reads::Queue(1), Reads::MirrorOfQueue(1)] {
        let options = ConsumerOptions::sleeping(folder(), CLUSTER, reads);
        let writing = Consumer::connect(options).unwrap();
        times(100, true);
        drop(writing);
        times(100, false);
    }
}

/// A recording whose end is missing is played to there, and not again.
#[test]
fn a_broken_recording_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.pcapng");
    record(&path, &(0..10).map(frame).collect::<Vec<_>>());
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 10]).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_zbalance"));
    command.arg("-i").arg(format!("pcap:{}", path.display())).args(["-c", "98", "-n", "1"]);
    let mut balancer =
        Process(command.env("CJ_IPC_DIR", dir.path()).stderr(Stdio::piped()).spawn().unwrap());
    let mut consumer = Consumer::detached(ConsumerOptions::new(dir.path().to_owned(), 98, 0));
    let mut packets = 0;
    let code = loop {
        packets += consumer.receive(Duration::from_millis(10)).len();
        if let Some(status) = balancer.0.try_wait().unwrap() {
            break status.code();
        }
    };
    assert_eq!((code, packets), (Some(0), 9));
    let mut said = String::new();
    balancer.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("it ends here"), "{said}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_zbalance"));
    let output = command.args(["-i", "eth7", "-n", "1", "--loop"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(text.contains("--loop: is for recordings; no source is pcap:FILE"), "{text}");
}
