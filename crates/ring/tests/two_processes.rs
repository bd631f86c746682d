//! Balancer and consumers as processes of their own, killed at any moment.
//!
//! The children are this test binary started again: with `RING_ROLE` set, the test of that name acts
//! a part and never returns by itself.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shm::{Consumer, ConsumerOptions, ConsumerState, Event, Meta, Producer, Server, ServerOptions};

const CLUSTER: u32 = 98;
static NUMBER: AtomicU64 = AtomicU64::new(0);
const PATIENCE: Duration = Duration::from_secs(60);

/// A child that is killed when the test ends, however it ends.
struct Part {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Part {
    fn start(role: &str, dir: &Path, argument: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "part", "--nocapture"])
            .env("RING_ROLE", role)
            .env("RING_DIR", dir)
            .env("RING_ARGUMENT", argument)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits for a line that starts with `word` and returns the rest of it.
    fn wait_for(&mut self, word: &str) -> String {
        for line in &mut self.lines {
            let line = line.unwrap();
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
        }
        panic!("child ended without saying '{word}'");
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Already dead is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The entry of the children; does nothing in the parent.
#[test]
fn part() {
    let Ok(role) = std::env::var("RING_ROLE") else {
        return;
    };
    let dir = std::env::var_os("RING_DIR").unwrap();
    let argument: u16 = std::env::var("RING_ARGUMENT").unwrap().parse().unwrap();
    let dir = Path::new(&dir);
    match role.as_str() {
        "consumer" => play_consumer(dir, argument),
        "balancer" => play_balancer(dir, argument),
        other => panic!("no such part: {other}"),
    }
}

/// Receives for ever, checks every packet, tells about attaching and about every 1000 packets.
fn play_consumer(dir: &Path, queue: u16) {
    let mut consumer = Consumer::detached(ConsumerOptions::new(dir.to_owned(), CLUSTER, queue));
    let (mut state, mut received, mut said) = (ConsumerState::Detached, 0u64, 0u64);
    let mut expected = None;
    loop {
        for frame in consumer.receive(Duration::from_millis(50)).iter() {
            let number = check(frame.data);
            // The balancer counts up; packets may be missing but never come twice or late.
            assert!(expected.is_none_or(|e| number >= e), "{number} after {expected:?}");
            expected = Some(number + 1);
            received += 1;
        }
        if consumer.state() != state {
            state = consumer.state();
            expected = None;
            match state {
                ConsumerState::Attached { generation } => println!("\nattached {generation}"),
                ConsumerState::Detached => println!("\ndetached"),
            }
        }
        if received / 1000 > said {
            said = received / 1000;
            println!("\nreceived {received}");
        }
    }
}

/// Sends to all its queues for ever.
fn play_balancer(dir: &Path, queues: u16) {
    let (mut server, mut producer) = bind(dir, u32::from(queues));
    println!("\nready");
    std::thread::spawn(move || {
        loop {
            server.poll(Duration::from_millis(20), &mut |queues| {
                let processed: Vec<String> =
                    queues.iter().map(|q| q.processed.to_string()).collect();
                processed.join(",")
            });
        }
    });
    for number in 0.. {
        producer.send(&numbered(number), &Meta::default(), (1 << queues) - 1);
        if number % 32 == 0 {
            producer.flush();
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn bind(dir: &Path, queues: u32) -> (Server, Producer) {
    let mut options = ServerOptions::new(dir.to_owned(), CLUSTER, vec![queues]);
    options.slots = 256;
    options.working_set = 64;
    let (server, mut producers) = Server::bind(options, [9; 16]).unwrap();
    (server, producers.remove(0))
}

fn numbered(number: u64) -> [u8; 64] {
    let mut packet = [number as u8; 64];
    packet[..8].copy_from_slice(&number.to_le_bytes());
    packet
}

fn check(packet: &[u8]) -> u64 {
    let number = u64::from_le_bytes(*packet.first_chunk().unwrap());
    assert_eq!(packet, numbered(number), "torn packet");
    number
}

/// Runs server and producer for as long as `go_on` says.
fn serve(
    server: &mut Server,
    producer: &mut Producer,
    targets: u64,
    mut go_on: impl FnMut(&Server, &[Event]) -> bool,
) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let events = server.poll(Duration::ZERO, &mut |_| String::new());
        if !go_on(server, &events) {
            return;
        }
        assert!(Instant::now() < deadline, "{:?}", server.queues());
        for _ in 0..32 {
            // Consumers insist on rising numbers through the whole test.
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            producer.send(&numbered(number), &Meta::default(), targets);
        }
        producer.flush();
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn consumer_killed_while_it_holds_frames() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, mut producer) = bind(dir.path(), 2);
    let mut steady = Part::start("consumer", dir.path(), "1");
    for generation in 1..=5 {
        let mut victim = Part::start("consumer", dir.path(), "0");
        serve(&mut server, &mut producer, 0b11, |server, _| {
            let q = &server.queues()[0];
            q.generation != generation || q.processed < generation * 3000
        });
        let before = server.queues()[0].enqueued;
        victim.kill();
        let mut detached = false;
        serve(&mut server, &mut producer, 0b11, |_, events| {
            detached |= events
                .iter()
                .any(|e| matches!(e, Event::Detached { queue: 0, corrupt: false, .. }));
            !detached
        });
        producer.tick();
        let status = &server.queues()[0];
        assert!(status.consumer.is_none() && status.enqueued >= before);
        assert_eq!(status.outstanding, 0, "what the dead consumer held is free again");
    }
    let status = server.queues().remove(1);
    assert_eq!(status.generation, 1, "the other consumer noticed nothing");
    assert!(status.processed > 0);
    steady.kill();
}

#[test]
fn stopped_consumer_is_told_as_hung_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, mut producer) = bind(dir.path(), 2);
    let sleeper = Part::start("consumer", dir.path(), "0");
    let mut steady = Part::start("consumer", dir.path(), "1");
    serve(&mut server, &mut producer, 0b11, |s, _| s.queues().iter().any(|q| q.processed < 1000));
    sleeper.signal(rustix::process::Signal::STOP);
    let mut hung = 0;
    serve(&mut server, &mut producer, 0b11, |_, events| {
        hung += events.iter().filter(|e| matches!(e, Event::Hung { queue: 0, .. })).count();
        hung == 0
    });
    let (stuck, moving) = (server.queues()[0].clone(), server.queues()[1].processed);
    assert!(stuck.hung && stuck.dropped_full + stuck.dropped_quota > 0);
    serve(&mut server, &mut producer, 0b11, |s, events| {
        assert!(!events.iter().any(|e| matches!(e, Event::Hung { .. })), "said twice");
        s.queues()[1].processed < moving + 3000
    });
    sleeper.signal(rustix::process::Signal::CONT);
    let mut recovered = false;
    serve(&mut server, &mut producer, 0b11, |_, events| {
        recovered |= events.iter().any(|e| matches!(e, Event::Recovered { queue: 0, .. }));
        !recovered
    });
    steady.kill();
}

#[test]
fn balancer_killed_and_restarted_with_other_queues() {
    let dir = tempfile::tempdir().unwrap();
    let mut consumer = Part::start("consumer", dir.path(), "0");
    for round in 0..6u32 {
        let queues = 1 + round % 4;
        let mut balancer = Part::start("balancer", dir.path(), &queues.to_string());
        balancer.wait_for("ready");
        assert_eq!(consumer.wait_for("attached"), "1", "round {round}");
        consumer.wait_for("received");
        balancer.kill();
        consumer.wait_for("detached");
    }
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(left.len() <= 2, "only socket and lock may be left: {left:?}");
    consumer.kill();
}

/// Frames that are with nobody.
fn free_frames(producer: &mut Producer) -> usize {
    let loans = producer.lend(u32::MAX);
    let count = loans.len();
    loans.into_iter().for_each(|loan| producer.settle(loan));
    count
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Consumers die at any moment, also before they are attached and while they hold frames; packets come all the
/// time.
#[test]
fn seven_hundred_killed_consumers_leak_no_frame() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, mut producer) = bind(dir.path(), 3);
    let frames = free_frames(&mut producer);
    let mut dice = Dice(7);
    let start = |queue: usize| Part::start("consumer", dir.path(), &queue.to_string());
    let mut steady = start(2);
    serve(&mut server, &mut producer, 0b111, |s, _| s.queues()[2].processed < 1000);
    let mut victims = [start(0), start(1)];
    let (mut attached, mut held) = (0, 0);
    for _ in 0..700 {
        let queue = dice.below(2) as usize;
        // Half of them are given the time to attach.
        let may_attach = dice.below(2) == 0;
        let (mut rounds, mut seen) = (dice.below(20), false);
        serve(&mut server, &mut producer, 0b111, |server, _| {
            seen = server.queues()[queue].consumer.is_some();
            rounds = rounds.saturating_sub(1);
            rounds > 0 || (may_attach && !seen)
        });
        let victim = &mut victims[queue];
        assert!(victim.child.try_wait().unwrap().is_none(), "it died by itself");
        attached += u32::from(seen);
        held += u32::from(server.queues()[queue].outstanding > 0);
        victim.kill();
        *victim = start(queue);
    }
    assert!(attached > 300 && held > 100, "{attached} were attached, {held} held frames");
    let before = server.queues()[2].processed;
    serve(&mut server, &mut producer, 0b111, |s, _| s.queues()[2].processed < before + 1000);
    let status = server.queues().remove(2);
    assert_eq!((status.generation, status.bad_returns), (1, 0), "the third noticed nothing");
    assert!(steady.child.try_wait().unwrap().is_none());
    victims.iter_mut().for_each(Part::kill);
    steady.kill();
    serve(&mut server, &mut producer, 0, |s, _| s.queues().iter().any(|q| q.consumer.is_some()));
    producer.tick();
    assert!(server.queues().iter().all(|queue| queue.outstanding == 0), "{:?}", server.queues());
    assert_eq!(free_frames(&mut producer), frames);
}

/// The balancer dies at any moment; its consumers find the next one by themselves.
#[test]
fn three_hundred_killed_balancers_leave_consumers_that_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut dice = Dice(11);
    let mut consumers = ["0", "1"].map(|queue| Part::start("consumer", dir.path(), queue));
    for _ in 0..300 {
        let mut balancer = Part::start("balancer", dir.path(), "2");
        if dice.below(4) > 0 {
            balancer.wait_for("ready");
        }
        std::thread::sleep(Duration::from_micros(dice.below(20_000)));
        assert!(balancer.child.try_wait().unwrap().is_none(), "it died by itself");
        balancer.kill();
    }
    let mut last = Part::start("balancer", dir.path(), "2");
    last.wait_for("ready");
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The first of a new balancer may come while it still gets ready.
        let processed = shm::monitor(dir.path(), CLUSTER).unwrap_or_default();
        let mut counts = processed.split(',').map(|count| count.parse().unwrap_or(0u64));
        if counts.all(|count| count > 1000) {
            break;
        }
        assert!(Instant::now() < deadline, "processed by the last: {processed}");
        std::thread::sleep(Duration::from_millis(20));
    }
    for consumer in &mut consumers {
        assert!(consumer.child.try_wait().unwrap().is_none(), "a consumer died");
        consumer.kill();
    }
    last.kill();
}
