//! What a peer may send that means harm: nothing panics, nothing grows beyond its bound.
//!
//! `CONJURE_MUTATIONS=n` sets how many mutated packets are tried; 150,000 by default.

mod network;

use std::time::Instant;

use network::{MS, Network, Path, bytes};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sctp::chunk::{BEGIN, Chunk, Data, END, IMMEDIATE, UNORDERED};
use sctp::packet::Writer;
use sctp::{Association, Config, Packet, Role};

const WINDOW: usize = 1 << 20;
/// What the receiving half may hold: two windows, and small change.
const BOUND: u64 = 2 * WINDOW as u64 + 65_536;

/// Most mutated packets that one victim gets; one that was aborted gets no more.
const EACH: usize = 2500;

/// A station, and what a peer has to know to talk to it.
struct Victim {
    association: Association,
    tag: u32,
    tsn: u32,
    now: Instant,
}

impl Victim {
    fn new(seed: u64) -> Self {
        let mut network = Network::new(seed, Path::default(), &Config::default());
        let (mut tag, mut tsn) = (0, 0);
        let mut packet = Vec::new();
        let now = network.now;
        let [client, station] = &mut network.sides;
        for _ in 0..4 {
            packet.clear();
            if client.poll_transmit(now, &mut packet).is_some() {
                let parsed = Packet::parse(&packet).unwrap();
                if let Some(Ok(Chunk::Init(init))) = parsed.chunks().next() {
                    tsn = init.tsn;
                }
                tag = parsed.tag;
                station.handle_packet(now, &packet);
            }
            packet.clear();
            if station.poll_transmit(now, &mut packet).is_some() {
                client.handle_packet(now, &packet);
            }
        }
        let [_, association] = network.sides;
        assert!(association.is_established());
        Self { association, tag, tsn, now }
    }

    /// Sends chunks, and takes what is answered; how long the answer is.
    fn send(&mut self, chunks: &[Chunk<'_>]) -> usize {
        let mut packet = Vec::new();
        let mut writer = Writer::new(&mut packet, (5000, 5000), self.tag, 99_999);
        for chunk in chunks {
            writer.chunk(chunk);
        }
        writer.finish();
        self.association.handle_packet(self.now, &packet);
        self.now += MS;
        let mut answer = Vec::new();
        while self.association.poll_transmit(self.now, &mut answer).is_some() {}
        answer.len()
    }

    fn data<'a>(&self, ahead: u32, flags: u8, ssn: u16, payload: &'a [u8]) -> Data<'a> {
        Data { flags, tsn: self.tsn.wrapping_add(ahead), stream: 0, ssn, ppid: 0, payload }
    }
}

/// Runs `attack` and demands that memory stays within the bound throughout.
fn bounded(attack: impl FnOnce()) {
    let used = allocation_counter::measure(attack);
    assert!(used.bytes_max < BOUND * 2, "{} bytes at a time", used.bytes_max);
}

#[test]
fn gaps_of_tiny_fragments_stay_within_the_window() {
    for flags in [0, UNORDERED, BEGIN, BEGIN | END, UNORDERED | BEGIN] {
        let mut victim = Victim::new(1);
        bounded(|| {
            for n in 0..40_000u32 {
                // Every second TSN, so that no two runs join.
                let data = victim.data(1 + 2 * n, flags, n as u16, b"x");
                victim.send(&[Chunk::Data(data)]);
                assert!(victim.association.held() as u64 <= BOUND);
            }
        });
        assert!(victim.association.counters().refused > 0);
    }
}

#[test]
fn full_packets_beyond_a_gap_and_in_order_stay_within_two_windows() {
    let mut victim = Victim::new(2);
    let payload = bytes(8000, 1);
    bounded(|| {
        for n in 0..2000 {
            victim.send(&[Chunk::Data(victim.data(30_000 + n, BEGIN | END, n as u16, &payload))]);
        }
        for n in 0..2000 {
            victim.send(&[Chunk::Data(victim.data(n, 0, 0, &payload))]);
            victim.send(&[Chunk::Data(victim.data(n, BEGIN, 0, &payload))]);
        }
    });
    assert!(victim.association.held() as u64 <= BOUND);
    assert!(victim.association.held() > WINDOW / 2);
}

#[test]
fn early_and_endless_messages_and_foreign_streams_are_bounded() {
    let payload = bytes(1200, 1);
    let mut victim = Victim::new(3);
    bounded(|| {
        for n in 0..5000 {
            // Never the number whose turn it is.
            let data = victim.data(n, if n % 2 == 0 { BEGIN } else { END }, n as u16 + 1, &payload);
            victim.send(&[Chunk::Data(data)]);
        }
    });
    assert!(victim.association.held() as u64 <= BOUND);

    let mut victim = Victim::new(4);
    victim.send(&[Chunk::Data(victim.data(0, BEGIN | END, 0, b"own"))]);
    bounded(|| {
        for n in 1..5000u32 {
            let data = Data { stream: n as u16 | 1, ..victim.data(n, BEGIN | END, 0, &payload) };
            victim.send(&[Chunk::Data(data)]);
        }
    });
    assert_eq!(victim.association.readable(), b"own");
    assert_eq!(victim.association.counters().stray_bytes, 4999 * 1200);
}

#[test]
fn no_packet_is_answered_by_many() {
    let mut victim = Victim::new(5);
    let most = victim.association.mtu() + 100;
    victim.association.write(&bytes(100_000, 1));
    let gaps: Vec<u8> = (0..4000u16)
        .flat_map(|n| [(2 * n + 2).to_be_bytes(), (2 * n + 2).to_be_bytes()].concat())
        .collect();
    let beat = bytes(9000, 2);
    let duplicate = victim.data(0, BEGIN | END, 0, b"again");
    for chunk in [
        Chunk::Data(duplicate),
        Chunk::Heartbeat(&beat),
        Chunk::Heartbeat(&beat[..500]),
        Chunk::ReConfig(&[0, 13, 0, 16, 1, 2, 3, 4, 0, 0, 0, 0, 9, 9, 9, 9]),
        Chunk::ReConfig(&[0, 17, 0, 12, 1, 2, 3, 4, 0, 9, 0, 0]),
        Chunk::ForwardTsn { cumulative: victim.tsn.wrapping_add(0x7000_0000), streams: &gaps },
        Chunk::Unknown { kind: 0x3f, flags: 0, value: &beat },
        Chunk::Unknown { kind: 0xff, flags: 0, value: &beat },
        Chunk::Error(&beat),
        Chunk::CookieEcho(&beat),
    ] {
        let own = victim.send(&[]);
        let mut answer = victim.send(&[chunk]);
        for _ in 0..9 {
            answer = answer.max(victim.send(&[chunk; 3]));
        }
        assert!(answer <= most, "{answer} bytes for {chunk:?}, {own} without");
    }
    assert_eq!(victim.association.ended(), None);
}

/// Valid packets with a few changed bytes and a right checksum, and whatever else comes to mind.
#[test]
fn mutated_packets_do_no_harm() {
    let rng = &mut ChaCha20Rng::seed_from_u64(6);
    let now = Instant::now();
    let mut corpus: Vec<Vec<u8>> = Vec::new();
    let mut network = Network::new(6, Path { loss: 50, reordered: 200, ..Path::default() }, &{
        Config::default()
    });
    network.establish();
    let file = vectors::load("transports-dtls-transcripts.json");
    for transcript in file["transcripts"].as_array().unwrap() {
        for packet in transcript["sctp_packets"].as_array().unwrap() {
            corpus.push(vectors::hex(&packet["hex"]));
        }
    }
    let wanted = std::env::var("CONJURE_MUTATIONS").map_or(150_000, |n| n.parse().unwrap());
    let (mut tried, mut ended, mut seed) = (0, 0, 100);
    while tried < wanted {
        seed += 1;
        let mut victim = Victim::new(seed);
        victim.association.write(&bytes(50_000, seed));
        let mut own = Vec::new();
        while let Some(n) = victim.association.poll_transmit(now, &mut own) {
            let packet = own[own.len() - n..].to_vec();
            if corpus.len() < 200 {
                corpus.push(packet);
            }
        }
        for _ in 0..EACH {
            let mut packet = corpus[rng.next_u32() as usize % corpus.len()].clone();
            for _ in 0..rng.next_u32() % 4 {
                let at = 12 + rng.next_u32() as usize % (packet.len() - 12);
                packet[at] = rng.next_u32() as u8;
            }
            if rng.next_u32() % 8 == 0 {
                packet.truncate(12 + rng.next_u32() as usize % (packet.len() - 11));
            }
            // Numbers near those that count.
            let tag = if packet.get(12) == Some(&1) { 0 } else { victim.tag };
            packet[4..8].copy_from_slice(&tag.to_be_bytes());
            if packet.len() >= 20 && rng.next_u32() % 2 == 0 {
                let near = victim.tsn.wrapping_add(rng.next_u32() % 64);
                packet[16..20].copy_from_slice(&near.to_be_bytes());
            }
            packet[8..12].fill(0);
            let crc = crc32c::crc32c(&packet).to_le_bytes();
            packet[8..12].copy_from_slice(&crc);
            victim.association.handle_packet(victim.now, &packet);
            if let Some(at) = victim.association.poll_timeout()
                && rng.next_u32() % 4 == 0
            {
                victim.now = victim.now.max(at);
                victim.association.handle_timeout(victim.now);
            }
            own.clear();
            let mut answers = 0;
            while victim.association.poll_transmit(victim.now, &mut own).is_some() {
                answers += 1;
                assert!(answers < 2000, "it never stops sending");
            }
            let read = victim.association.readable().len();
            victim.association.consume(read / 2);
            assert!(victim.association.held() as u64 <= BOUND + (1 << 20));
            tried += 1;
            if victim.association.ended().is_some() {
                ended += 1;
                break;
            }
        }
    }
    println!("sctp: {tried} mutated packets, {ended} associations ended by one");
    assert!(ended > 0, "some are valid aborts");
}

#[test]
fn an_association_that_carries_nothing_takes_less_than_eight_kibibytes() {
    let mut network = Network::new(7, Path::default(), &Config::default());
    network.establish();
    let data = bytes(3_000_000, 7);
    for side in [0, 1] {
        let (read, _) = network.transfer(side, &data, 60_000 * MS);
        assert!(read == data);
    }
    network.run_for(5000 * MS);
    // What is freed with it is what it held.
    let [client, server] = network.sides;
    for association in [client, server] {
        assert_eq!(association.held(), 0);
        let own = size_of::<Association>() as i64;
        let freed = allocation_counter::measure(|| drop(association));
        assert!(own - freed.bytes_current < 8192, "{own} {}", freed.bytes_current);
    }
}

#[test]
fn a_bulk_transfer_allocates_nothing_for_its_packets() {
    let rng = &mut ChaCha20Rng::seed_from_u64(8);
    let config = Config::default();
    let mut sides =
        [Role::Client, Role::Server].map(|role| Association::new(role, config.clone(), rng));
    let now = Instant::now();
    let data = bytes(65_536, 8);
    let mut packet = Vec::with_capacity(2000);
    let mut packets = 0;
    let mut run = |total: usize| {
        let mut read = 0;
        while read < total {
            sides[0].write(&data);
            for side in [0, 1] {
                loop {
                    packet.clear();
                    if sides[side].poll_transmit(now, &mut packet).is_none() {
                        break;
                    }
                    sides[1 - side].handle_packet(now, &packet);
                    packets += 1;
                }
            }
            let n = sides[1].readable().len();
            sides[1].consume(n);
            read += n;
        }
    };
    run(10 << 20);
    let used = allocation_counter::measure(|| run(20 << 20));
    assert!(packets > 20_000, "{packets}");
    // Buffers that ran empty are given back and taken again, once per burst.
    assert!(used.count_total < packets / 10, "{} for {packets} packets", used.count_total);
}

#[test]
fn immediate_acknowledgement_is_heeded() {
    let mut victim = Victim::new(9);
    assert_eq!(victim.send(&[Chunk::Data(victim.data(0, BEGIN | END, 0, b"x"))]), 0);
    let data = victim.data(1, BEGIN | END | IMMEDIATE, 1, b"x");
    assert_eq!(victim.send(&[Chunk::Data(data)]), 28);
}
