//! A consumer that writes whatever it likes into the memory it shares with the balancer.

use std::time::Duration;

use proptest::prelude::*;

use crate::abi::{FrameFlags, ring};
use crate::consumer::connect_as;
use crate::handshake::{ANY_SET, Answer, Hello, Role};
use crate::packed::{Packed, State};
use crate::queue::{QueueMap, Ring};
use crate::{Consumer, ConsumerOptions, Event, Meta, Producer, Server, ServerOptions};
use std::sync::atomic::Ordering;

const SLOTS: u32 = 64;

struct Balancer {
    _dir: tempfile::TempDir,
    server: Server,
    producer: Producer,
}

/// The attacker's end: the connection keeps the queue, the ring is all that it can write.
struct Attacker {
    _socket: std::os::fd::OwnedFd,
    ring: Ring,
}

fn balancer() -> Balancer {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ServerOptions::new(dir.path().to_owned(), 98, vec![2]);
    options.slots = SLOTS;
    options.working_set = 64;
    let (server, mut producers) = Server::bind(options, [3; 16]).unwrap();
    Balancer { _dir: dir, server, producer: producers.remove(0) }
}

impl Balancer {
    /// Serves until `client` has what it wants.
    fn until<T: Send + 'static>(&mut self, client: impl FnOnce() -> T + Send + 'static) -> T {
        let client = std::thread::spawn(client);
        while !client.is_finished() {
            self.poll();
        }
        self.producer.tick();
        client.join().unwrap()
    }

    fn poll(&mut self) -> Vec<Event> {
        self.server.poll(Duration::from_millis(2), &mut |_| String::new())
    }

    /// An attacker that says how it returns frames.
    fn attacker(&mut self, in_order: bool) -> Attacker {
        let path = self.server.path().to_owned();
        let hello = Hello { in_order, ..Hello::new(Role::Consumer, ANY_SET, 0) };
        let (socket, answer, fds) =
            self.until(move || connect_as(&path, hello, Duration::from_secs(5))).unwrap();
        let Answer::Welcome { producers, slots, .. } = answer else { panic!("{answer:?}") };
        let queue = QueueMap::open(&fds[1], producers, slots).unwrap();
        Attacker { _socket: socket, ring: Ring::new(queue, 0) }
    }

    fn victim(&mut self) -> Consumer {
        let dir = self.server.path().parent().unwrap().to_owned();
        self.until(move || Consumer::connect(ConsumerOptions::new(dir, 98, 1))).unwrap()
    }
}

/// What the attacker writes.
#[derive(Debug, Clone)]
enum Lie {
    /// A control word of the ring.
    Word(usize, u64),
    /// A return entry, and one more of them.
    Return(u64),
    /// A descriptor, as if it were the producer.
    Descriptor(u64, u64, u32),
}

fn lies() -> impl Strategy<Value = Lie> {
    let number = prop_oneof![
        any::<u64>(),
        0u64..300,
        Just(u64::MAX),
        (0u64..200).prop_map(|frame| frame * 2048)
    ];
    let word = prop_oneof![
        Just(ring::PROD),
        Just(ring::CONS),
        Just(ring::RPROD),
        Just(ring::RCONS),
        Just(ring::DROPPED),
        Just(ring::DROPPED_QUOTA),
        Just(ring::PROCESSED)
    ];
    prop_oneof![
        (word, number.clone()).prop_map(|(word, value)| Lie::Word(word, value)),
        number.clone().prop_map(Lie::Return),
        (any::<u64>(), number, any::<u32>()).prop_map(|(i, a, l)| Lie::Descriptor(i, a, l)),
    ]
}

fn tell(ring: &Ring, lie: &Lie) {
    match *lie {
        Lie::Word(offset, value) => ring.word(offset).store(value, Ordering::SeqCst),
        Lie::Return(address) => {
            let at = ring.word(ring::RPROD).load(Ordering::SeqCst);
            ring.return_entry(at).store(address, Ordering::SeqCst);
            ring.word(ring::RPROD).store(at.wrapping_add(1), Ordering::SeqCst);
        }
        Lie::Descriptor(index, address, len) => ring.put(
            index,
            crate::abi::Descriptor {
                address,
                len,
                flags: FrameFlags::MORE_FRAGMENTS,
                interface: 0,
            },
        ),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever one consumer writes, the balancer goes on and the other consumer gets everything.
    #[test]
    fn lies_harm_only_the_liar(
        lies in proptest::collection::vec(lies(), 1..40),
        in_order: bool,
    ) {
        let mut balancer = balancer();
        let mut victim = balancer.victim();
        let mut attacker = balancer.attacker(in_order);
        for (number, lie) in (0u64..).zip(&lies) {
            for copy in 0..3 {
                let packet = (number * 3 + copy).to_le_bytes();
                balancer.producer.send(&packet, &Meta::default(), 0b11);
            }
            balancer.producer.flush();
            tell(&attacker.ring, lie);
            let burst = victim.receive(Duration::from_secs(5));
            let got: Vec<u64> = burst
                .iter()
                .map(|frame| u64::from_le_bytes(frame.data.try_into().unwrap()))
                .collect();
            prop_assert_eq!(got, (number * 3..number * 3 + 3).collect::<Vec<_>>());
            balancer.producer.tick();
            for event in balancer.poll() {
                if matches!(event, Event::Detached { queue: 0, corrupt: true, .. }) {
                    attacker = balancer.attacker(in_order);
                }
            }
        }
        drop(attacker);
        victim.release();
        while balancer.server.queues()[0].consumer.is_some() {
            balancer.poll();
        }
        balancer.producer.tick();
        for queue in balancer.server.queues() {
            prop_assert_eq!(queue.outstanding, 0);
            prop_assert!(queue.processed <= queue.enqueued);
        }
        prop_assert_eq!(victim.statistics().dropped, 0);
        prop_assert!(balancer.producer.all_free(), "a frame leaked");
    }
}

#[test]
fn returning_what_one_does_not_hold_ends_the_connection() {
    let mut balancer = balancer();
    let attacker = balancer.attacker(false);
    balancer.producer.send(b"packet", &Meta::default(), 1);
    balancer.producer.flush();
    tell(&attacker.ring, &Lie::Return(5 * 2048));
    balancer.producer.tick();
    let events = balancer.poll();
    assert!(matches!(events[..], [Event::Detached { queue: 0, corrupt: true, .. }]), "{events:?}");
    assert_eq!(balancer.server.queues()[0].bad_returns, 1);
}

#[test]
fn returning_more_than_one_holds_ends_the_connection() {
    for (returned, is_sound) in [(0, true), (1, true), (2, false), (u64::MAX, false)] {
        let mut balancer = balancer();
        let attacker = balancer.attacker(true);
        balancer.producer.send(b"packet", &Meta::default(), 1);
        balancer.producer.flush();
        tell(&attacker.ring, &Lie::Word(ring::RPROD, returned));
        balancer.producer.tick();
        let events = balancer.poll();
        let parted = matches!(events[..], [Event::Detached { queue: 0, corrupt: true, .. }]);
        assert_eq!(parted, !is_sound, "{returned}: {events:?}");
        assert_eq!(balancer.producer.outstanding(0), is_sound.then_some(1 - returned % 2));
    }
}

/// A consumer as it was before frames could be returned by their number alone.
#[test]
fn frames_that_are_named_come_back_in_any_order() {
    let mut balancer = balancer();
    let attacker = balancer.attacker(false);
    let mut victim = balancer.victim();
    for round in 0..5u8 {
        for packet in 0..8 {
            // Half of the frames are shared with another queue.
            balancer.producer.send(&[round; 32], &Meta::default(), 1 | (packet & 1) << 1);
        }
        balancer.producer.flush();
        let first = u64::from(round) * 8;
        for packet in (first..first + 8).rev() {
            let [address, _] = &attacker.ring.descriptors(packet, 1)[0];
            tell(&attacker.ring, &Lie::Return(address.load(Ordering::SeqCst) & !2047));
        }
        assert_eq!(victim.receive(Duration::from_secs(5)).len(), 4);
        victim.release();
        balancer.producer.tick();
        assert_eq!(balancer.producer.outstanding(0), Some(0));
        assert!(balancer.poll().is_empty());
    }
    assert!(balancer.producer.all_free(), "a frame leaked");
}

/// A queue as an older balancer gives it, or an older process hands it over: its frames must be named.
#[test]
fn a_consumer_names_frames_where_it_has_to() {
    let mut balancer = balancer();
    let path = balancer.server.path().to_owned();
    let dir = path.parent().unwrap().to_owned();
    let hello = Hello { in_order: false, ..Hello::new(Role::Consumer, ANY_SET, 0) };
    let (socket, answer, fds) =
        balancer.until(move || connect_as(&path, hello, Duration::from_secs(5))).unwrap();
    let Answer::Welcome { slots, generation, .. } = answer else { panic!("{answer:?}") };
    let [frames, queue] = fds.try_into().unwrap();
    let state = State { slots, generation, indices: vec![(0, 0)] }.encode();
    let packed = Packed { descriptors: [socket, frames, queue], state };
    let mut consumer = Consumer::unpack(ConsumerOptions::new(dir, 98, 0), packed).unwrap();
    // Around the ring several times, and across its end within a burst.
    for round in 0..20u8 {
        for _ in 0..24 {
            balancer.producer.send(&[round; 32], &Meta::default(), 1);
        }
        balancer.producer.flush();
        let burst = consumer.receive(Duration::from_secs(5));
        assert_eq!(burst.len(), 24);
        assert!(burst.iter().all(|frame| frame.data == [round; 32]));
        consumer.release();
        balancer.producer.tick();
        assert_eq!(balancer.producer.outstanding(0), Some(0), "round {round}");
    }
    assert_eq!(balancer.server.queues()[0].bad_returns, 0);
}

#[test]
fn nobody_has_processed_more_than_came() {
    let mut balancer = balancer();
    for (said, believed) in [(u64::MAX, 3), (u64::MAX, 6), (2, 8)] {
        let attacker = balancer.attacker(true);
        for _ in 0..3 {
            balancer.producer.send(b"packet", &Meta::default(), 1);
        }
        balancer.producer.flush();
        tell(&attacker.ring, &Lie::Word(ring::PROCESSED, said));
        assert_eq!(balancer.server.queues()[0].processed, believed);
        drop(attacker);
        while balancer.server.queues()[0].consumer.is_some() {
            balancer.poll();
        }
        balancer.producer.tick();
        assert_eq!(balancer.server.queues()[0].processed, believed);
    }
}
