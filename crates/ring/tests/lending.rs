//! Frames on loan: written by another than the producer, sent without a copy, and never lost.

use std::collections::HashSet;
use std::time::Duration;

use shm::{Consumer, ConsumerOptions, Loan, Memory, Meta, Piece, Producer, Server, ServerOptions};

const SHORT: Duration = Duration::from_millis(50);
const START: u32 = 256;
const LENT: u32 = 256;

struct Balancer {
    dir: tempfile::TempDir,
    server: Server,
    producer: Producer,
}

impl Balancer {
    fn new(sets: &[u32]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = ServerOptions::new(dir.path().to_owned(), 98, sets.to_vec());
        options.slots = 128;
        options.working_set = LENT;
        let (server, mut producers) = Server::bind(options, [1; 16]).unwrap();
        Self { dir, server, producer: producers.remove(0) }
    }

    fn attach(&mut self, queue: u16) -> Consumer {
        let options = ConsumerOptions::new(self.dir.path().to_owned(), 98, queue);
        let client = std::thread::spawn(move || Consumer::connect(options));
        while !client.is_finished() {
            self.server.poll(Duration::from_millis(5), &mut |_| "{}".to_owned());
        }
        self.producer.tick();
        client.join().unwrap().unwrap()
    }
}

/// Stands in for the kernel: holds free frames and fills them.
struct Filler {
    memory: Memory,
    free: Vec<u64>,
    number: u8,
}

impl Filler {
    fn new(producer: &mut Producer) -> Self {
        let free = producer.lend(LENT).into_iter().map(Loan::into_offset).collect();
        Self { memory: producer.memory(), free, number: 0 }
    }

    fn fill(&mut self, len: u32) -> Piece {
        let offset = self.free.remove(0);
        self.number = self.number.wrapping_add(1);
        // SAFETY: the frame is on loan and lies in the memory.
        let loan = unsafe {
            let at = self.memory.base().as_ptr().add(offset as usize + START as usize);
            std::ptr::write_bytes(at, self.number, len as usize);
            Loan::from_offset(offset)
        };
        Piece { loan, start: START, len }
    }

    fn take(&mut self, piece: Piece) {
        self.free.push(piece.loan.into_offset());
    }

    /// True when as many frames are here as were lent, each once.
    fn is_whole(&self) -> bool {
        self.free.iter().collect::<HashSet<_>>().len() == LENT as usize
            && self.free.len() == LENT as usize
    }
}

fn receive(consumer: &mut Consumer, expected: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for _ in 0..20 {
        all.extend(consumer.receive(SHORT).iter().map(|frame| frame.data.to_vec()));
        if all.len() >= expected {
            break;
        }
    }
    all
}

#[test]
fn a_frame_on_loan_is_sent_and_another_comes_back() {
    let mut balancer = Balancer::new(&[2, 1]);
    let (mut zero, mut two) = (balancer.attach(0), balancer.attach(2));
    let mut filler = Filler::new(&mut balancer.producer);
    assert!(balancer.producer.lend(1).is_empty(), "what queues need is not lent");
    let meta = Meta { timestamp: Some(7), hash: Some(9), ..Meta::default() };
    for round in 0..2000u32 {
        // To both, to one, to one that is absent, and chained.
        let (targets, lens): (u64, &[u32]) = match round % 5 {
            0 => (0b101, &[60]),
            1 | 2 => (0b001, &[1500]),
            3 => (0b010, &[60]),
            _ => (0b101, &[1792, 1792, 10]),
        };
        let before = filler.number;
        let mut pieces: Vec<Piece> = lens.iter().map(|len| filler.fill(*len)).collect();
        let sent: Vec<u64> =
            pieces.iter().map(|piece| balancer.producer.bytes(piece).len() as u64).collect();
        assert_eq!(sent, lens.iter().map(|len| u64::from(*len)).collect::<Vec<_>>());
        let outcome = balancer.producer.send_lent(&mut pieces, &meta, targets);
        let absent = u32::from(targets == 0b010);
        assert_eq!((outcome.delivered, outcome.dropped), (targets.count_ones() - absent, absent));
        pieces.into_iter().for_each(|piece| filler.take(piece));
        assert!(filler.is_whole());
        balancer.producer.flush();
        let packet: Vec<u8> = (1u8..)
            .zip(lens)
            .flat_map(|(n, len)| vec![before.wrapping_add(n); *len as usize])
            .collect();
        for (bit, consumer) in [(0b001, &mut zero), (0b100, &mut two)] {
            if targets & bit != 0 {
                assert_eq!(receive(consumer, 1), std::slice::from_ref(&packet), "round {round}");
            }
        }
        // Copied packets go the same way in between.
        balancer.producer.send(&[round as u8; 80], &meta, 0b001);
        balancer.producer.flush();
        assert_eq!(receive(&mut zero, 1), [vec![round as u8; 80]]);
    }
    drop((zero, two));
    for _ in 0..5 {
        balancer.server.poll(SHORT, &mut |_| "{}".to_owned());
        balancer.producer.tick();
    }
    assert_eq!(balancer.server.queues().iter().map(|q| q.outstanding).sum::<u64>(), 0);
    // All of it can be lent again, so none is missing.
    for offset in filler.free {
        // SAFETY: the frame was on loan, and nobody fills it any more.
        balancer.producer.settle(unsafe { Loan::from_offset(offset) });
    }
    assert_eq!(balancer.producer.lend(u32::MAX).len(), LENT as usize);
}

#[test]
fn a_consumer_that_reads_nothing_costs_no_frame_of_the_source() {
    let mut balancer = Balancer::new(&[1, 1]);
    let (_asleep, mut awake) = (balancer.attach(0), balancer.attach(1));
    let mut filler = Filler::new(&mut balancer.producer);
    let mut dropped = 0;
    for _ in 0..1000 {
        let mut pieces = [filler.fill(60)];
        dropped += balancer.producer.send_lent(&mut pieces, &Meta::default(), 0b11).dropped;
        let [piece] = pieces;
        filler.take(piece);
        assert!(filler.is_whole());
        balancer.producer.flush();
        assert_eq!(receive(&mut awake, 1).len(), 1);
    }
    assert_eq!(dropped, 1000 - 128, "the queue of the one that sleeps holds its slots");
}

#[test]
fn a_piece_that_leaves_its_frame_is_refused() {
    let mut balancer = Balancer::new(&[1]);
    let mut consumer = balancer.attach(0);
    let mut filler = Filler::new(&mut balancer.producer);
    for (start, len) in [(0, 60), (63, 60), (1989, 60), (u32::MAX, 60), (256, u32::MAX)] {
        let Piece { loan, .. } = filler.fill(60);
        let mut pieces = [Piece { loan, start, len }];
        assert!(balancer.producer.bytes(&pieces[0]).is_empty());
        assert_eq!(balancer.producer.send_lent(&mut pieces, &Meta::default(), 1).dropped, 1);
        let [piece] = pieces;
        filler.take(piece);
    }
    balancer.producer.flush();
    assert!(filler.is_whole() && consumer.receive(Duration::ZERO).is_empty());
    assert_eq!(balancer.server.queues()[0].no_frame, 5);
}
