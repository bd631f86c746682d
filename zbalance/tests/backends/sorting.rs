//! Packets that the kernel gives to their queues: those that the balancer would give them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use packet::distribution::{Mode, Spreader, Target, frame_hash};
use packet::hash::SymmetricHash;
use shm::{Consumer, ConsumerOptions, ConsumerState};

use crate::frames::HEAD;
use crate::life::NO_ZERO_COPY;
use crate::station::{Balancer, CLUSTER, Sender, command, ip, state, until};

const QUEUES: u32 = 4;
const FLOWS: u32 = 40;
const LIMIT: Duration = Duration::from_secs(60);

/// A packet of a flow, one way or the other, with its number at the end. Of eight flows two have nothing that the
/// kernel judges, and two have VLAN 5.
fn frame(number: u32) -> Vec<u8> {
    let flow = (number % FLOWS) as u8;
    let mut pair = [[10, 9, flow, 1], [192, 0, 2, flow]];
    if number / FLOWS % 2 == 1 {
        pair.reverse();
    }
    let v4 = |first: u8, place: u8| {
        let header = [first, 0, 0, 40, 0, 1, place, 0, 64, 17, 0, 0];
        [&header[..], &pair.concat(), &[0; 20]].concat()
    };
    let v6 = [&[0x60, 0, 0, 0, 0, 24, 17, 64][..], &pair.concat().repeat(4), &[0; 20]].concat();
    let rest = match flow % 8 {
        0 => [&[0x88, 0xb5][..], &[flow; 30]].concat(),
        1 => [&[0x88, 0x47, 0, 1, 0x21, 64][..], &v4(0x45, 0)].concat(),
        2 => [&[0x08, 0][..], &v4(0x45, 0)].concat(),
        3 => [&[0x86, 0xdd][..], &v6].concat(),
        4 => [&[0x81, 0, 0, 5, 0x08, 0][..], &v4(0x45, 0)].concat(),
        5 => [&[0x88, 0xa8, 0, 9, 0x81, 0, 0, 5, 0x86, 0xdd][..], &v6].concat(),
        6 => [&[0x08, 0][..], &v4(0x45, 0x20)].concat(),
        _ => [&[0x08, 0][..], &v4(0x46, 0)].concat(),
    };
    [&HEAD[..], &rest, &number.to_be_bytes()].concat()
}

fn frames(numbers: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    numbers.map(frame).collect()
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(*frame.last_chunk().unwrap())
}

/// The kernel does not judge these.
fn is_looked_at(frame: &[u8]) -> bool {
    number(frame) % FLOWS % 8 < 2
}

/// Which packets have the time of their arrival.
#[derive(Clone, Copy, PartialEq)]
enum Stamped {
    All,
    LookedAt,
    Some,
    None,
}

/// The consumers of all queues.
struct Consumers(Vec<Consumer>);

impl Consumers {
    fn attach(dir: &Path) -> Self {
        let consumer =
            |queue| Consumer::detached(ConsumerOptions::new(dir.to_owned(), CLUSTER, queue as u16));
        let mut consumers = Self((0..QUEUES).map(consumer).collect());
        until("all consumers attach", || {
            let attached = |consumer: &mut Consumer| {
                consumer.receive(Duration::from_millis(1));
                matches!(consumer.state(), ConsumerState::Attached { .. })
            };
            consumers.0.iter_mut().all(attached).then_some(())
        });
        consumers
    }

    /// Gives back what was read.
    fn wait(&mut self) {
        for consumer in &mut self.0 {
            let burst = consumer.receive(Duration::from_millis(1));
            assert!(!burst.iter().any(|frame| frame.data.starts_with(&HEAD)), "a packet too many");
        }
    }

    /// Takes packets until all of `sent` have come: each is in the queue that a hash with this seed chooses, as it was
    /// sent, and those of each direction of a flow are in their order: the two may come by different receive queues.
    fn check(&mut self, sent: &[Vec<u8>], seed: u64, stamped: Stamped) {
        let mut got = vec![Vec::new(); self.0.len()];
        let deadline = Instant::now() + LIMIT;
        while got.iter().map(Vec::len).sum::<usize>() < sent.len() && Instant::now() < deadline {
            for (consumer, got) in self.0.iter_mut().zip(&mut got) {
                for frame in consumer.receive(Duration::from_millis(2)).iter() {
                    if frame.data.starts_with(&HEAD) {
                        let has_time = frame.timestamp().is_some();
                        assert_eq!(frame.hash().is_some(), has_time);
                        let is_so = match stamped {
                            Stamped::All => has_time,
                            Stamped::LookedAt => has_time == is_looked_at(frame.data),
                            Stamped::Some => true,
                            Stamped::None => !has_time,
                        };
                        assert!(is_so, "time: {has_time}, {:02x?}", frame.data);
                        got.push(frame.data.to_vec());
                    }
                }
            }
        }
        let (hash, mut spreader) = (SymmetricHash::new(seed), Spreader::new(Mode::Ip, QUEUES));
        let mut expected = vec![Vec::new(); self.0.len()];
        for frame in sent {
            match spreader.target(frame_hash(Mode::Ip, &hash, frame), 0) {
                Target::One(queue) => expected[queue as usize].push(frame.clone()),
                other => panic!("{other:?}"),
            }
        }
        for (queue, (mut got, expected)) in got.into_iter().zip(expected).enumerate() {
            let mut latest = [None; 2 * FLOWS as usize];
            for frame in &got {
                let latest = &mut latest[(number(frame) % (2 * FLOWS)) as usize];
                assert!(
                    *latest < Some(number(frame)),
                    "queue {queue}: {latest:?} before {frame:02x?}"
                );
                *latest = Some(number(frame));
            }
            got.sort_by_key(|frame| number(frame));
            assert!(got == expected, "queue {queue}: {} of {}", got.len(), expected.len());
        }
    }
}

/// Sends packets and checks where they come out.
fn passes(
    sender: &mut Sender,
    consumers: &mut Consumers,
    numbers: std::ops::Range<u32>,
    stamped: Stamped,
) {
    let sent = frames(numbers);
    sender.send(&sent);
    consumers.check(&sent, SEED, stamped);
}

const SEED: u64 = 7;

pub(crate) fn in_the_kernel() {
    ip(
        "link add wide0 numrxqueues 2 numtxqueues 2 type veth peer name far0 numrxqueues 2 numtxqueues 2",
    );
    ip("link set far0 up");
    ip("link set wide0 up");
    let dir = tempfile::tempdir().unwrap();
    let mut sender = Sender::new("packet", "far0");
    as_in_user_space(dir.path(), &mut sender);
    behind_a_filter(dir.path(), &mut sender);
    behind_the_prefilter(dir.path(), &mut sender);
    where_it_cannot_be(dir.path());
}

fn attachment() -> String {
    format!("wide0: AF_XDP, native, copy, 2 queue(s), rings of 32768, sorted; {NO_ZERO_COPY}")
}

/// Alone, under the eyes of a mirror, and while successors go on in the same rings.
fn as_in_user_space(dir: &Path, sender: &mut Sender) {
    let line = |seed: u64, more: &str| {
        command(dir, &format!("-i xdp:wide0 -c {CLUSTER} -n {QUEUES} -z --hash-seed {seed} {more}"))
    };
    let balancer = Balancer::start(&mut line(SEED, ""), &attachment());
    let mut consumers = Consumers::attach(dir);
    passes(sender, &mut consumers, 0..800, Stamped::LookedAt);

    let mirrors = |count: usize| {
        let have = |state: serde_json::Value| state["mirrors"].as_array().map(Vec::len);
        until("who looks on", || (state(dir).and_then(have) == Some(count)).then_some(()));
    };
    let mut dump = Command::new(env!("CARGO_BIN_EXE_zdump"));
    dump.args(["-n", "400", "-c", &CLUSTER.to_string(), "-w"]).arg(dir.join("dump.pcapng"));
    let dump = dump.env("CJ_IPC_DIR", dir).stderr(Stdio::piped()).spawn().unwrap();
    mirrors(1);
    passes(sender, &mut consumers, 800..1200, Stamped::All);
    let said = dump.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("400 packets written") && !said.contains("faster"), "{said}");
    mirrors(0);
    passes(sender, &mut consumers, 1200..1400, Stamped::LookedAt);

    // A successor reads all sockets of its predecessor, and looks at what is in them; so does the next one, with a key
    // of its own.
    let sent = frames(1400..4400);
    let mut more = line(SEED, "--take-over");
    let balancer = std::thread::scope(|scope| {
        scope.spawn(|| sent.chunks(50).for_each(|chunk| sender.send(chunk)));
        succeed(balancer, &mut more, |is_over| {
            consumers.check(&sent, SEED, Stamped::Some);
            while !is_over() {
                consumers.wait();
            }
        })
    });
    let balancer = succeed(balancer, &mut line(SEED + 2, "--take-over"), |is_over| {
        while !is_over() {
            consumers.wait();
        }
    });
    let sent = frames(4400..4800);
    sender.send(&sent);
    // Copied, for consumers that want to know nothing of them.
    consumers.check(&sent, SEED + 2, Stamped::None);
    balancer.terminate();
    balancer.end();
}

/// Lets a successor take over while `meanwhile` runs, which is told whether it has.
fn succeed(
    balancer: Balancer,
    command: &mut Command,
    meanwhile: impl FnOnce(&dyn Fn() -> bool),
) -> Balancer {
    std::thread::scope(|scope| {
        let succession = scope.spawn(|| {
            let next = Balancer::start(command, "xdp:wide0: goes on where the predecessor was");
            balancer.end();
            next
        });
        meanwhile(&|| succession.is_finished());
        succession.join().unwrap()
    })
}

/// A filter that comes with a reload decides over all packets, and one that goes leaves them to the kernel again.
fn behind_a_filter(dir: &Path, sender: &mut Sender) {
    let file = dir.join("cluster.conf");
    let write = |more: &str| {
        let text =
            format!("-i=xdp:wide0\n-c={CLUSTER}\n-n={QUEUES}\n-z\n--hash-seed={SEED}\n{more}");
        std::fs::write(&file, text).unwrap();
    };
    write("");
    let mut balancer = Balancer::start(&mut command(dir, file.to_str().unwrap()), &attachment());
    let mut consumers = Consumers::attach(dir);
    passes(sender, &mut consumers, 0..200, Stamped::LookedAt);
    write("-x=5\n");
    balancer.reload();
    let sent = frames(200..600);
    sender.send(&sent);
    let taken: Vec<Vec<u8>> =
        sent.into_iter().filter(|frame| matches!(number(frame) % FLOWS % 8, 4 | 5)).collect();
    consumers.check(&taken, SEED, Stamped::All);
    write("");
    balancer.reload();
    passes(sender, &mut consumers, 600..800, Stamped::LookedAt);
    balancer.terminate();
    balancer.end();
}

/// Both stages of the program: what is neither TCP nor UDP goes nowhere, the rest to its queue.
fn behind_the_prefilter(dir: &Path, sender: &mut Sender) {
    let line = format!("-i xdp:wide0 -c {CLUSTER} -n {QUEUES} -z --hash-seed {SEED} --prefilter");
    let said = attachment().replace("sorted", "prefilter, sorted");
    let balancer = Balancer::start(&mut command(dir, &line), &said);
    let mut consumers = Consumers::attach(dir);
    let sent = frames(0..400);
    sender.send(&sent);
    let kept: Vec<Vec<u8>> = sent.into_iter().filter(|frame| !is_looked_at(frame)).collect();
    consumers.check(&kept, SEED, Stamped::LookedAt);
    balancer.terminate();
    balancer.end();
}

/// Too many sockets, and a hook that has no sorting: the balancer spreads, and says so.
fn where_it_cannot_be(dir: &Path) {
    let wide = "wide0: AF_XDP, native, copy, 2 queue(s), rings of 32768";
    let many = "32 queues behind 2 receive queue(s) take 66 sockets, of 64 that there may be";
    let lo = "lo: AF_XDP, generic, copy, 1 queue(s), rings of 32768; not native: Operation not supported (os error 95)";
    for (source, queues, said) in [
        ("wide0", 32, format!("{wide}; not sorted: {many}; {NO_ZERO_COPY}")),
        ("lo", 4, format!("{lo}; not sorted: only in the driver")),
        (
            "wide0@1",
            31,
            format!(
                "wide0: AF_XDP, native, copy, 1 queue(s), rings of 32768, sorted; {NO_ZERO_COPY}"
            ),
        ),
    ] {
        let mut command = command(dir, &format!("-i xdp:{source} -c {CLUSTER} -n {queues} -z"));
        let balancer = Balancer::start(&mut command, &said);
        balancer.terminate();
        balancer.end();
    }
}
