//! Server, producer and consumer in one process: contents, limits, refusals, and a consumer that
//! breaks the rules.

use std::time::Duration;

use shm::{AttachError, Consumer, ConsumerOptions, ConsumerState, Event, Meta, Producer, Reads};
use shm::{QueueStatus, Server, ServerError, ServerOptions, Unread};

const SHORT: Duration = Duration::from_millis(50);

struct Balancer {
    dir: tempfile::TempDir,
    server: Server,
    producers: Vec<Producer>,
}

impl Balancer {
    fn new(sets: &[u32], adjust: impl FnOnce(&mut ServerOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = ServerOptions::new(dir.path().to_owned(), 98, sets.to_vec());
        options.slots = 128;
        options.working_set = 64;
        adjust(&mut options);
        let (server, producers) = Server::bind(options, [1; 16]).unwrap();
        Self { dir, server, producers }
    }

    fn options(&self, queue: u16) -> ConsumerOptions {
        ConsumerOptions::new(self.dir.path().to_owned(), 98, queue)
    }

    /// Attaches a consumer while the server answers.
    fn try_attach(&mut self, queue: u16) -> (Result<Consumer, AttachError>, Vec<Event>) {
        self.connect(self.options(queue))
    }

    /// Connects a consumer or the reader of a mirror while the server answers.
    fn connect(&mut self, options: ConsumerOptions) -> (Result<Consumer, AttachError>, Vec<Event>) {
        let client = std::thread::spawn(move || Consumer::connect(options));
        let mut events = Vec::new();
        while !client.is_finished() {
            events.extend(self.poll());
        }
        for producer in &mut self.producers {
            producer.tick();
        }
        (client.join().unwrap(), events)
    }

    fn attach(&mut self, queue: u16) -> Consumer {
        self.try_attach(queue).0.unwrap()
    }

    fn poll(&mut self) -> Vec<Event> {
        self.server.poll(Duration::from_millis(5), &mut |_| "{}".to_owned())
    }

    fn queue(&self, queue: usize) -> QueueStatus {
        self.server.queues().swap_remove(queue)
    }
}

fn packet(number: u32, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(31).wrapping_add(number) as u8).collect()
}

#[test]
fn packets_arrive_with_what_is_known_about_them() {
    let mut balancer = Balancer::new(&[2, 1], |_| {});
    let mut zero = balancer.attach(0);
    let mut monitor_set = balancer.attach(2);
    let meta = Meta {
        timestamp: Some(1_700_000_000_123_456_789),
        hash: Some(0xdead_beef),
        flags: shm::FrameFlags::CHECKSUM_INCOMPLETE,
        interface: 7,
    };
    for number in 0..100 {
        let outcome = balancer.producers[0].send(&packet(number, 60), &meta, 0b101);
        assert_eq!((outcome.delivered, outcome.dropped), (2, 0));
    }
    let other = balancer.producers[0].send(b"nobody", &Meta::default(), 0b010);
    assert_eq!((other.delivered, other.dropped), (0, 1));
    balancer.producers[0].flush();
    for consumer in [&mut zero, &mut monitor_set] {
        let mut number = 0;
        while number < 100 {
            let burst = consumer.receive(SHORT);
            assert!(!burst.is_empty() && burst.len() <= 64);
            for frame in burst.iter() {
                assert_eq!(frame.data, packet(number, 60));
                assert_eq!(frame.timestamp(), meta.timestamp);
                assert_eq!(frame.hash(), meta.hash);
                assert_eq!(frame.interface, 7);
                assert!(frame.flags.has(shm::FrameFlags::CHECKSUM_INCOMPLETE));
                number += 1;
            }
        }
        assert!(consumer.receive(Duration::ZERO).is_empty());
    }
    balancer.producers[0].tick();
    let status = balancer.queue(0);
    assert_eq!((status.enqueued, status.processed, status.outstanding), (100, 100, 0));
    assert_eq!((balancer.queue(1).no_consumer, balancer.queue(2).set), (1, 1));
}

#[test]
fn long_packets_are_chained() {
    let mut balancer = Balancer::new(&[1], |_| {});
    let mut consumer = balancer.attach(0);
    let room = balancer.producers[0].room();
    // Packets of up to 192 bytes lie in cells.
    let lengths = [0, 1, 191, 192, 193, room - 1, room, room + 1, 3 * room, 9_014, 65_549];
    for round in 0..20 {
        for (number, len) in lengths.into_iter().enumerate() {
            let sent = packet(number as u32 + round, len);
            let outcome = balancer.producers[0].send(&sent, &Meta::default(), 1);
            assert_eq!(outcome.delivered, 1, "{len}");
            balancer.producers[0].flush();
            let burst = consumer.receive(SHORT);
            let received: Vec<_> = burst.iter().map(|f| f.data.to_vec()).collect();
            assert!(received == [sent], "{len}");
        }
    }
    let beyond = vec![0; room * 60];
    assert_eq!(balancer.producers[0].send(&beyond, &Meta::default(), 1).dropped, 1);
    assert_eq!(balancer.queue(0).no_frame, 1);
    consumer.release();
    balancer.producers[0].tick();
    assert_eq!(balancer.queue(0).outstanding, 0);
}

#[test]
fn short_packets_lie_close_together() {
    let mut balancer = Balancer::new(&[1], |_| {});
    let mut consumer = balancer.attach(0);
    let mut distances = |len: usize| {
        for number in 0..32 {
            let meta = Meta { timestamp: Some(7), hash: Some(number), ..Meta::default() };
            balancer.producers[0].send(&packet(number, len), &meta, 1);
        }
        balancer.producers[0].flush();
        let burst = consumer.receive(SHORT);
        let packets: Vec<_> = burst.iter().collect();
        for (number, frame) in (0..).zip(&packets) {
            assert_eq!(frame.data, packet(number, len));
            assert_eq!((frame.timestamp(), frame.hash()), (Some(7), Some(number)));
        }
        let address = |n: usize| packets[n].data.as_ptr().addr();
        let distance = |n: usize| address(n).abs_diff(address(n - 1));
        (1..packets.len()).map(distance).max().unwrap()
    };
    assert_eq!(distances(60), 256);
    assert_eq!(distances(192), 256);
    assert!(distances(193) >= 1024, "longer ones have frames of 2048 bytes");
}

#[test]
fn a_chain_is_not_torn_by_the_end_of_a_burst() {
    let mut balancer = Balancer::new(&[1], |_| {});
    let mut consumer = balancer.attach(0);
    let lengths = [60, 9_000, 60, 65_000, 60, 4_000, 60, 20_000];
    for (number, len) in lengths.into_iter().enumerate() {
        balancer.producers[0].send(&packet(number as u32, len), &Meta::default(), 1);
    }
    balancer.producers[0].flush();
    let mut seen = Vec::new();
    while seen.len() < lengths.len() {
        let burst = consumer.receive(SHORT);
        assert!(!burst.is_empty());
        for frame in burst.iter() {
            assert_eq!(frame.data, packet(seen.len() as u32, lengths[seen.len()]));
            seen.push(frame.data.len());
        }
    }
}

#[test]
fn a_slow_queue_loses_its_own_packets_only() {
    let mut balancer = Balancer::new(&[2], |_| {});
    let _slow = balancer.attach(0);
    let mut quick = balancer.attach(1);
    for number in 0..1000 {
        balancer.producers[0].send(&packet(number, 60), &Meta::default(), 0b11);
        balancer.producers[0].flush();
        let burst = quick.receive(SHORT);
        assert_eq!(burst.iter().map(|f| f.data.to_vec()).collect::<Vec<_>>(), [packet(number, 60)]);
    }
    let (slow, quick) = (balancer.queue(0), balancer.queue(1));
    assert_eq!((slow.enqueued, slow.dropped_full), (128, 872));
    assert_eq!((quick.enqueued, quick.dropped(), quick.processed), (1000, 0, 1000));
}

#[test]
fn a_consumer_that_keeps_frames_starves_itself() {
    let mut balancer = Balancer::new(&[1], |_| {});
    let mut consumer = balancer.attach(0);
    for number in 0..128 {
        balancer.producers[0].send(&packet(number, 60), &Meta::default(), 1);
    }
    balancer.producers[0].flush();
    // Reads the first burst, and keeps it.
    assert_eq!(consumer.receive(SHORT).len(), 64);
    let outcome = balancer.producers[0].send(b"more", &Meta::default(), 1);
    assert_eq!(outcome.dropped, 1);
    let status = balancer.queue(0);
    assert_eq!((status.dropped_quota, status.dropped_full), (1, 0));
    consumer.release();
    assert_eq!(balancer.producers[0].send(b"more", &Meta::default(), 1).delivered, 1);
    assert_eq!(consumer.statistics().dropped, 1);
}

#[test]
fn several_ingest_threads_share_a_queue() {
    let mut balancer = Balancer::new(&[1], |o| o.producers = 3);
    let mut consumer = balancer.attach(0);
    let producers = std::mem::take(&mut balancer.producers);
    let threads: Vec<_> = producers
        .into_iter()
        .enumerate()
        .map(|(thread, mut producer)| {
            std::thread::spawn(move || {
                let meta = Meta { interface: thread as u16, ..Meta::default() };
                let mut number = 0u32;
                while number < 20_000 {
                    if producer.send(&number.to_le_bytes(), &meta, 1).delivered == 1 {
                        number += 1;
                    } else {
                        std::thread::yield_now();
                    }
                    producer.flush();
                }
                producer
            })
        })
        .collect();
    let mut next = [0u32; 3];
    while next != [20_000; 3] {
        for frame in consumer.receive(SHORT).iter() {
            let next = &mut next[usize::from(frame.interface)];
            assert_eq!(frame.data, next.to_le_bytes());
            *next += 1;
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(balancer.queue(0).enqueued, 60_000);
}

#[test]
fn refusals_say_why() {
    let mut balancer = Balancer::new(&[2, 2], |_| {});
    let (missing, events) = balancer.try_attach(4);
    let text = missing.unwrap_err().to_string();
    assert!(text.contains("queues 0 to 3"), "{text}");
    assert!(matches!(&events[..], [Event::Refused { .. }]));
    let _first = balancer.attach(1);
    match balancer.try_attach(1).0 {
        Err(AttachError::Busy { pid, .. }) => assert_eq!(pid, std::process::id()),
        other => panic!("{other:?}"),
    }
    let options = ServerOptions::new(balancer.dir.path().to_owned(), 98, vec![1]);
    match Server::bind(options, [2; 16]) {
        Err(ServerError::InUse { cluster: 98, pid, .. }) => assert_eq!(pid, std::process::id()),
        other => panic!("{other:?}"),
    }
    let nobody = ConsumerOptions::new(balancer.dir.path().to_owned(), 97, 0);
    assert!(matches!(Consumer::connect(nobody), Err(AttachError::NoServer { .. })));
    let many = ServerOptions::new(balancer.dir.path().to_owned(), 1, vec![40, 40]);
    assert!(matches!(Server::bind(many, [0; 16]), Err(ServerError::TooManyQueues(80))));
}

#[test]
fn a_queue_is_free_again_when_its_consumer_leaves() {
    let mut balancer = Balancer::new(&[1], |_| {});
    for generation in 1..=5 {
        let consumer = balancer.attach(0);
        assert_eq!(consumer.state(), ConsumerState::Attached { generation });
        for number in 0..100 {
            balancer.producers[0].send(&packet(number, 60), &Meta::default(), 1);
        }
        balancer.producers[0].flush();
        drop(consumer);
        let events = balancer.poll();
        assert!(matches!(events[..], [Event::Detached { corrupt: false, .. }]));
        balancer.producers[0].tick();
        assert_eq!(balancer.queue(0).outstanding, 0);
    }
}

#[test]
fn draining_delivers_what_is_queued() {
    let mut balancer = Balancer::new(&[1], |_| {});
    let mut consumer = balancer.attach(0);
    for number in 0..100 {
        balancer.producers[0].send(&packet(number, 60), &Meta::default(), 1);
    }
    balancer.producers[0].flush();
    let reader = std::thread::spawn(move || {
        let mut read = 0;
        while let ConsumerState::Attached { .. } = consumer.state() {
            read += consumer.receive(SHORT).len();
        }
        read
    });
    let (limit, pause) = (Duration::from_secs(60), Duration::from_secs(10));
    assert_eq!(balancer.server.drain(limit, pause), []);
    assert_eq!(reader.join().unwrap(), 100);
}

#[test]
fn draining_ends_at_a_consumer_that_reads_no_more() {
    let mut balancer = Balancer::new(&[1, 1], |_| {});
    let consumer = balancer.attach(1);
    for number in 0..5 {
        balancer.producers[0].send(&packet(number, 60), &Meta::default(), 2);
    }
    balancer.producers[0].flush();
    let left = balancer.server.drain(Duration::from_secs(60), Duration::from_millis(20));
    let pid = std::process::id();
    assert_eq!(left, [Unread { queue: 1, pid, descriptors: 5 }]);
    drop(consumer);
}

#[test]
fn a_queue_is_crowded_from_half_of_its_ring_on() {
    let mut balancer = Balancer::new(&[1], |_| {});
    assert!(!balancer.producers[0].is_crowded(), "nobody is there");
    let mut consumer = balancer.attach(0);
    let mirror = balancer.try_mirror(Reads::MirrorOfAll).0.unwrap();
    for number in 0..64 {
        assert!(!balancer.producers[0].is_crowded(), "{number} of 128");
        let targets = balancer.producers[0].mirrored(1);
        balancer.producers[0].send(&packet(number, 60), &Meta::default(), targets);
    }
    balancer.producers[0].flush();
    assert!(balancer.producers[0].is_crowded());
    let mut read = 0;
    while read < 64 {
        read += consumer.receive(SHORT).len();
    }
    consumer.release();
    balancer.producers[0].tick();
    // What a mirror holds is nobody's concern.
    assert!(!balancer.producers[0].is_crowded());
    drop(mirror);
}

#[test]
fn monitor_gets_the_snapshot() {
    let mut balancer = Balancer::new(&[1], |_| {});
    let dir = balancer.dir.path().to_owned();
    let client = std::thread::spawn(move || shm::monitor(&dir, 98));
    while !client.is_finished() {
        balancer
            .server
            .poll(Duration::from_millis(5), &mut |queues| format!("{} queues", queues.len()));
    }
    assert_eq!(client.join().unwrap().unwrap(), "1 queues");
}

impl Balancer {
    /// Opens a mirror while the server answers.
    fn try_mirror(&mut self, reads: Reads) -> (Result<Consumer, AttachError>, Vec<Event>) {
        self.connect(ConsumerOptions::sleeping(self.dir.path().to_owned(), 98, reads))
    }

    /// Sends packets `numbers` to `targets`, and to the mirrors of these.
    fn spread(&mut self, numbers: std::ops::Range<u32>, targets: u64, len: usize) {
        let producer = &mut self.producers[0];
        for number in numbers {
            producer.send(&packet(number, len), &Meta::default(), producer.mirrored(targets));
        }
        producer.flush();
    }
}

/// Everything that `consumer` has now.
fn read(consumer: &mut Consumer) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    loop {
        let burst = consumer.receive(Duration::ZERO);
        if burst.is_empty() {
            return packets;
        }
        packets.extend(burst.iter().map(|frame| frame.data.to_vec()));
    }
}

#[test]
fn a_mirror_sees_packets_and_takes_none() {
    let mut balancer = Balancer::new(&[2, 1], |_| {});
    let mut consumers: Vec<_> = (0..3).map(|queue| balancer.attach(queue)).collect();
    let (mirror, events) = balancer.try_mirror(Reads::MirrorOfSet(0));
    let mut mirror = mirror.unwrap();
    let pid = std::process::id();
    assert_eq!(events, [Event::Mirrored { pid, queues: vec![0, 1] }]);
    let mut one = balancer.try_mirror(Reads::MirrorOfQueue(1)).0.unwrap();
    let long = balancer.producers[0].room() + 100;
    balancer.spread(0..10, 0b101, 60);
    balancer.spread(10..12, 0b110, long);
    balancer.spread(12..15, 0b100, 60);
    let sent = |numbers: std::ops::Range<u32>, len| numbers.map(move |n| packet(n, len));
    let (short, chained): (Vec<_>, Vec<_>) =
        (sent(0..10, 60).collect(), sent(10..12, long).collect());
    let first_set = [short.clone(), chained.clone()].concat();
    assert_eq!(read(&mut mirror), first_set);
    assert_eq!(read(&mut one), chained);
    assert_eq!(read(&mut consumers[0]), short);
    assert_eq!(read(&mut consumers[1]), chained);
    assert_eq!(read(&mut consumers[2]).len(), 15);
    let mirrors = balancer.server.mirrors();
    assert_eq!(
        mirrors.iter().map(|m| (m.enqueued, m.dropped)).collect::<Vec<_>>(),
        [(12, 0), (2, 0)]
    );
    assert_eq!((mirrors[0].pid, mirrors[1].queues.as_slice()), (pid, [1].as_slice()));
    let queues = balancer.server.queues();
    assert_eq!(queues.iter().map(|q| q.enqueued).collect::<Vec<_>>(), [10, 2, 15]);

    // There are two, and the next is told who has them.
    let refused = balancer.try_mirror(Reads::MirrorOfAll).0.unwrap_err().to_string();
    assert!(refused.contains(&format!("cluster 98 are read by {pid}, {pid}")), "{refused}");
    drop(one);
    let events = balancer.poll();
    assert_eq!(events, [Event::MirrorEnded { pid, corrupt: false }]);
    let mut all = balancer.try_mirror(Reads::MirrorOfAll).0.unwrap();
    balancer.spread(20..21, 0b101, 60);
    balancer.spread(21..22, 0b110, 60);
    assert_eq!(read(&mut all), [packet(20, 60), packet(21, 60)], "each once, whatever its sets");
}

#[test]
fn a_mirror_that_is_not_read_costs_queues_nothing() {
    let mut balancer = Balancer::new(&[1], |_| {});
    let mut consumer = balancer.attach(0);
    let mut mirror = balancer.try_mirror(Reads::MirrorOfQueue(0)).0.unwrap();
    for round in 0..100 {
        balancer.spread(round * 64..(round + 1) * 64, 1, 60);
        assert_eq!(read(&mut consumer).len(), 64);
        balancer.producers[0].tick();
    }
    let queue = balancer.queue(0);
    assert_eq!((queue.enqueued, queue.dropped()), (6_400, 0));
    let status = balancer.server.mirrors().remove(0);
    assert_eq!((status.enqueued, status.dropped), (128, 6_272));
    assert_eq!(read(&mut mirror).len(), 128, "the oldest, as many as its ring has room for");
    assert_eq!(mirror.statistics().dropped, 6_272);
    balancer.producers[0].tick();
    balancer.spread(0..10, 1, 60);
    assert_eq!((read(&mut mirror).len(), read(&mut consumer).len()), (10, 10));
}

#[test]
fn a_mirror_needs_no_consumer_and_says_what_is_missing() {
    let mut balancer = Balancer::new(&[1], |_| {});
    let mut mirror = balancer.try_mirror(Reads::MirrorOfQueue(0)).0.unwrap();
    balancer.spread(0..5, 1, 60);
    assert_eq!(read(&mut mirror).len(), 5);
    assert_eq!(balancer.queue(0).no_consumer, 5);
    let refusal = |balancer: &mut Balancer, reads| balancer.try_mirror(reads).0.unwrap_err();
    let queue = refusal(&mut balancer, Reads::MirrorOfQueue(3)).to_string();
    assert!(queue.contains("queue 3 of cluster 98 does not exist"), "{queue}");
    let set = refusal(&mut balancer, Reads::MirrorOfSet(4)).to_string();
    assert!(set.contains("set 4 of cluster 98 does not exist; it has 1"), "{set}");
    let mut full = Balancer::new(&[64], |_| {});
    let none = refusal(&mut full, Reads::MirrorOfAll).to_string();
    assert!(none.contains("64 queues leave no number for a mirror"), "{none}");
}
