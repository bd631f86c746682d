//! Whole DTLS tunnels on a virtual clock over a network that misbehaves.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use dtls::{Config, Peek, peek};
use keys::SharedSecret;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use transports::dtls::{
    Ended, HEARTBEAT, HEARTBEAT_INTERVAL, HEARTBEAT_WINDOW, MAX_DATAGRAM, OPENING_LIMIT, Party,
    Session,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const UNIX_TIME: u64 = 1_795_600_000;
const CLIENT: usize = 0;
const STATION: usize = 1;

/// What the path does: parts of a thousand that are lost, and that come late.
#[derive(Debug, Clone, Copy, Default)]
struct Path {
    loss: u32,
    reordered: u32,
}

/// Two ends of one tunnel.
struct Pair {
    sides: [Session; 2],
    /// Next timer that is in the heap already, per side.
    armed: [Option<Instant>; 2],
}

impl Pair {
    fn new(number: u64, station_dials: bool, unordered: bool, now: Instant) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(number);
        let secret = SharedSecret::new(&[&number.to_be_bytes()[..], b"-a-shared-secret"].concat());
        let dials = Config::client(&secret, UNIX_TIME);
        let listens = Config::server(&secret, UNIX_TIME);
        let (station, client) = if station_dials { (dials, listens) } else { (listens, dials) };
        Self {
            sides: [
                Session::new(Party::Client, client, now, &mut rng),
                Session::new(Party::Station { unordered }, station, now, &mut rng),
            ],
            armed: [None; 2],
        }
    }
}

/// Time, number, pair, side, and the datagram that arrives, or a timer.
type Event = Reverse<(Instant, u64, usize, usize, Option<Vec<u8>>)>;

struct Network {
    pairs: Vec<Pair>,
    events: BinaryHeap<Event>,
    spare: Vec<Vec<u8>>,
    now: Instant,
    number: u64,
    path: Path,
    rng: ChaCha20Rng,
}

impl Network {
    fn new(pairs: Vec<Pair>, path: Path, now: Instant) -> Self {
        let rng = ChaCha20Rng::seed_from_u64(99);
        let (events, spare) = (BinaryHeap::new(), Vec::new());
        let mut network = Self { pairs, events, spare, now, number: 0, path, rng };
        for pair in 0..network.pairs.len() {
            network.transmit(pair);
        }
        network
    }

    fn chance(&mut self, of_thousand: u32) -> bool {
        of_thousand > 0 && self.rng.next_u32() % 1000 < of_thousand
    }

    fn push(&mut self, at: Instant, pair: usize, side: usize, datagram: Option<Vec<u8>>) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, pair, side, datagram)));
    }

    fn transmit(&mut self, pair: usize) {
        for side in [CLIENT, STATION] {
            loop {
                let mut datagram = self.spare.pop().unwrap_or_default();
                let session = &mut self.pairs[pair].sides[side];
                if session.poll_transmit(self.now, &mut datagram).is_none() {
                    self.spare.push(datagram);
                    break;
                }
                assert!(datagram.len() <= MAX_DATAGRAM);
                if self.chance(self.path.loss) {
                    datagram.clear();
                    self.spare.push(datagram);
                    continue;
                }
                let mut delay = 20 * MS;
                if self.chance(self.path.reordered) {
                    delay += MS * (self.rng.next_u32() % 15);
                }
                self.push(self.now + delay, pair, 1 - side, Some(datagram));
            }
            let pair_state = &mut self.pairs[pair];
            let timer = pair_state.sides[side].poll_timeout();
            if let Some(at) = timer
                && pair_state.armed[side].is_none_or(|armed| at < armed)
            {
                pair_state.armed[side] = Some(at);
                self.push(at, pair, side, None);
            }
        }
    }

    /// Goes on to the next event; the pair that it happened to.
    fn step(&mut self) -> Option<usize> {
        let Reverse((at, _, pair, side, datagram)) = self.events.pop()?;
        self.now = self.now.max(at);
        let session = &mut self.pairs[pair].sides[side];
        match datagram {
            Some(mut datagram) => {
                session.handle_datagram(self.now, &mut datagram);
                datagram.clear();
                self.spare.push(datagram);
            }
            None => {
                self.pairs[pair].armed[side] = None;
                let session = &mut self.pairs[pair].sides[side];
                if session.poll_timeout().is_some_and(|due| due <= self.now) {
                    session.handle_timeout(self.now);
                }
            }
        }
        Some(pair)
    }

    fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            assert!(self.now < end, "not done");
            let pair = self.step().expect("something is always to come");
            self.transmit(pair);
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.events.peek().is_some_and(|Reverse((at, ..))| *at <= end) {
            if let Some(pair) = self.step() {
                self.transmit(pair);
            }
        }
        self.now = end;
    }

    fn client(&mut self) -> &mut Session {
        &mut self.pairs[0].sides[CLIENT]
    }

    fn station(&mut self) -> &mut Session {
        &mut self.pairs[0].sides[STATION]
    }

    fn open(&mut self) {
        self.run_until(60 * SECOND, |n| n.pairs[0].sides.iter().all(Session::is_open));
    }
}

fn one(station_dials: bool, unordered: bool, path: Path) -> Network {
    let now = Instant::now();
    Network::new(vec![Pair::new(7, station_dials, unordered, now)], path, now)
}

/// Number of concurrent sessions of [`a_thousand_sessions_move_a_mebibyte_each`].
const SESSIONS: usize = 1000;
const MIB: usize = 1 << 20;

/// Each session moves 1 MiB, half of them up and half down, all at one time.
#[test]
fn a_thousand_sessions_move_a_mebibyte_each() {
    let now = Instant::now();
    let pairs = (0..SESSIONS as u64).map(|n| Pair::new(n, n % 4 < 2, false, now)).collect();
    let mut network = Network::new(pairs, Path { loss: 20, reordered: 50 }, now);
    let mut block = vec![0; 65_536];
    ChaCha20Rng::seed_from_u64(1).fill_bytes(&mut block);
    block.extend_from_within(..);
    // What a session carries from `at` on: a rotation of the block of its own.
    let content = |session: usize, at: usize| {
        let start = (session * 977 + at) % 65_536;
        &block[start..start + 65_536]
    };
    let (mut written, mut read) = (vec![0; SESSIONS], vec![0; SESSIONS]);
    let mut done = 0;
    while done < SESSIONS {
        let pair = network.step().expect("every session has something to come");
        let from = pair % 2;
        let sides = &mut network.pairs[pair].sides;
        if sides.iter().all(Session::is_open) {
            while written[pair] < MIB {
                let bytes = content(pair, written[pair]);
                let most = bytes.len().min(MIB - written[pair]);
                match sides[from].write(&bytes[..most]) {
                    0 => break,
                    n => written[pair] += n,
                }
            }
            loop {
                let bytes = sides[1 - from].readable();
                let n = bytes.len().min(32_768);
                if n == 0 {
                    break;
                }
                assert!(bytes[..n] == content(pair, read[pair])[..n], "session {pair}");
                sides[1 - from].consume(n);
                read[pair] += n;
                done += usize::from(read[pair] == MIB);
            }
        }
        let ended = sides.iter().find_map(Session::ended);
        assert_eq!(ended, None, "session {pair}");
        network.transmit(pair);
        assert!(network.now - now < 600 * SECOND, "{done} of {SESSIONS} are done");
    }
    assert!(read.iter().all(|n| *n == MIB));
    let again: u64 =
        network.pairs.iter().flat_map(|p| &p.sides).map(|s| s.counters().retransmitted).sum();
    assert!(again > 0, "nothing was lost");
    println!("{SESSIONS} sessions done after {:?}, {again} chunks sent again", network.now - now);
}

#[test]
fn both_roles_open_and_the_hello_names_the_registration() {
    for station_dials in [false, true] {
        for seed in 0..20 {
            let path = Path { loss: 150, reordered: 300 };
            let now = Instant::now();
            let pair = Pair::new(seed, station_dials, false, now);
            let mut network = Network::new(vec![pair], path, now);
            let limit = network.now + OPENING_LIMIT;
            while network.now < limit
                && !network.pairs[0].sides.iter().all(Session::is_open)
                && network.pairs[0].sides.iter().all(|s| s.ended().is_none())
            {
                let pair = network.step().unwrap();
                network.transmit(pair);
            }
            // With a seventh of the datagrams lost, not every opening succeeds within its limit.
            if network.client().is_open() && network.station().is_open() {
                network.client().write(b"request");
                network.run_until(60 * SECOND, |n| n.station().readable() == b"request");
            }
        }
    }
    let secret = SharedSecret::new(b"some secret");
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    let config = Config::client(&secret, UNIX_TIME);
    let mut session = Session::new(Party::Client, config, Instant::now(), &mut rng);
    let mut hello = Vec::new();
    session.poll_transmit(Instant::now(), &mut hello).unwrap();
    let Peek::Hello(random) = peek(&hello) else { panic!("{hello:?}") };
    assert_eq!(random.tag(), &keys::dtls::client_hello_random(&secret));
}

#[test]
fn heartbeats_are_heard_never_read_and_never_answered() {
    for station_dials in [false, true] {
        let mut network = one(station_dials, false, Path { loss: 20, reordered: 100 });
        network.open();
        network.run_for(300 * SECOND);
        let heard = network.station().heartbeats();
        let expected = 300 / HEARTBEAT_INTERVAL.as_secs();
        assert!((expected - 2..=expected + 1).contains(&heard), "{heard}");
        assert!(network.station().readable().is_empty());
        assert!(network.client().readable().is_empty());
        assert_eq!(network.client().counters().messages, 0, "the station says nothing");
        assert_eq!(network.station().ended(), None);
        network.station().write(HEARTBEAT);
        network.run_until(SECOND, |n| n.client().readable() == HEARTBEAT);
    }
}

#[test]
fn a_silent_client_is_closed_at_the_end_of_a_window() {
    let mut network = one(false, false, Path::default());
    network.open();
    network.run_for(7 * SECOND);
    let heard = network.now;
    // Nothing of the client arrives any more.
    while network.station().ended().is_none() {
        let waiting: Vec<_> = network.events.drain().collect();
        for event in waiting {
            if event.0.3 == STATION && event.0.4.is_some() {
                continue;
            }
            network.events.push(event);
        }
        if let Some(pair) = network.step() {
            network.transmit(pair);
        }
    }
    assert_eq!(network.station().ended(), Some(Ended::Silent));
    assert!(network.station().is_read_to_end());
    let silence = network.now - heard;
    assert!(silence <= 2 * HEARTBEAT_WINDOW, "{silence:?}");
}

#[test]
fn a_close_is_told_in_order_and_a_lone_side_gives_up() {
    for closer in [CLIENT, STATION] {
        let mut network = one(closer == CLIENT, false, Path::default());
        network.open();
        network.pairs[0].sides[closer].write(b"the last words");
        network.pairs[0].sides[closer].finish();
        network.run_until(9 * SECOND, |n| n.pairs[0].sides[closer].is_delivered());
        let now = network.now;
        network.pairs[0].sides[closer].close(now);
        network.transmit(0);
        network.run_until(9 * SECOND, |n| n.pairs[0].sides[1 - closer].ended().is_some());
        let other = &mut network.pairs[0].sides[1 - closer];
        assert_eq!(other.ended(), Some(Ended::Peer));
        assert_eq!(other.readable(), b"the last words");
        assert!(!other.is_read_to_end());
        other.consume(14);
        assert!(other.is_read_to_end());
        assert_eq!(other.write(b"more"), 0);
        network.run_for(60 * SECOND);
        assert!(network.pairs[0].sides.iter().all(Session::is_gone));
        assert!(network.pairs[0].sides.iter().all(|side| side.poll_timeout().is_none()));
    }
    // Nobody answers: DTLS gives up first.
    let mut network = one(true, false, Path { loss: 1000, reordered: 0 });
    network.run_for(OPENING_LIMIT + SECOND);
    assert!(matches!(network.station().ended(), Some(Ended::Dtls(_))));
    assert!(matches!(network.client().ended(), Some(Ended::Dtls(_) | Ended::NoStream)));
}

#[test]
fn a_farewell_that_is_lost_is_repeated_to_who_goes_on() {
    let mut network = one(false, false, Path::default());
    network.open();
    network.run_for(SECOND);
    let now = network.now;
    network.client().close(now);
    let mut lost = Vec::new();
    while network.client().poll_transmit(now, &mut lost).is_some() {}
    assert!(!lost.is_empty());
    network.station().write(b"anybody?");
    network.transmit(0);
    network.run_until(SECOND, |n| n.station().ended().is_some());
    assert_eq!(network.station().ended(), Some(Ended::Peer));
    network.run_for(9 * SECOND);
    assert!(network.pairs[0].sides.iter().all(Session::is_gone));
}

/// P18: the client ends its direction, the answer comes three seconds later and takes a while.
#[test]
fn a_half_close_leaves_the_answer_alone() {
    let mut network = one(false, false, Path { loss: 20, reordered: 50 });
    network.open();
    network.client().write(b"request");
    network.client().finish();
    network.run_until(60 * SECOND, |n| n.station().readable() == b"request");
    network.station().consume(7);
    network.run_until(60 * SECOND, |n| n.station().is_read_to_end());
    network.run_for(3 * SECOND);
    let (mut written, mut read) = (0, 0);
    let block = [0x5a; 4096];
    // Slow enough to need no heartbeats for longer than a window.
    while read < MIB {
        let most = block.len().min(MIB - written);
        written += network.station().write(&block[..most]);
        network.run_for(500 * MS);
        let n = network.client().readable().len();
        read += n;
        network.client().consume(n);
    }
    network.station().finish();
    network.run_until(60 * SECOND, |n| n.client().is_read_to_end());
    assert_eq!(network.station().ended(), None);
    assert_eq!((written, read), (MIB, MIB));
}

/// P24: whatever is injected into an open session or a handshake, it lives on and nothing is
/// answered.
#[test]
fn injected_datagrams_change_nothing() {
    let junk: Vec<Vec<u8>> = vec![
        Vec::new(),
        vec![22],
        vec![0x15, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 40],
        vec![0x15, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0],
        [&[0x17, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 99, 0, 40][..], &[7; 40]].concat(),
        [&[0x17, 0xfe, 0xfd, 0, 9, 0, 0, 0, 0, 0, 99, 0, 40][..], &[7; 40]].concat(),
        [&[0x16, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 40][..], &[1; 40]].concat(),
        b"Hello world".to_vec(),
        vec![0xff; 1400],
    ];
    for station_dials in [false, true] {
        let mut network = one(station_dials, false, Path::default());
        let now = network.now;
        for step in 0..400 {
            let datagram = junk[step % junk.len()].clone();
            network.push(now + MS * step as u32, 0, step / 9 % 2, Some(datagram));
        }
        network.open();
        network.client().write(b"request");
        network.run_until(9 * SECOND, |n| n.station().readable() == b"request");
        network.run_for(SECOND);
        assert!(network.pairs[0].sides.iter().all(|side| side.ended().is_none()));
    }
}

#[test]
fn an_unordered_station_delivers_whole_messages() {
    let mut network = one(true, true, Path { loss: 30, reordered: 200 });
    network.open();
    let mut expected = 0;
    for n in 1..=200u32 {
        let message = vec![n as u8; 100 * (1 + n as usize % 50)];
        while network.station().writable() < message.len() {
            network.run_for(10 * MS);
        }
        assert_eq!(network.station().write(&message), message.len());
        expected += message.len();
        network.run_for(MS);
    }
    let mut read = Vec::new();
    network.run_until(60 * SECOND, |network| {
        let bytes = network.client().readable().to_vec();
        network.client().consume(bytes.len());
        read.extend(bytes);
        read.len() == expected
    });
    let mut counts = [0usize; 256];
    read.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    for (n, count) in counts.into_iter().enumerate().skip(1).take(200) {
        assert_eq!(count, 100 * (1 + n % 50));
    }
}
