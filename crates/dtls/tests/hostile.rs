//! What strangers send: nothing of it is answered, ends a session, or grows without bound (case P24).
//!
//! `CONJURE_MUTATIONS=n` sets how many mutated datagrams are tried; 30,000 by default.

mod network;

use dtls::message::{
    CERTIFICATE, CLIENT_HELLO, FINISHED, SERVER_HELLO, SERVER_KEY_EXCHANGE, whole,
};
use dtls::record::{ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, Header};
use dtls::{Closed, Connection, Event, Peek, Refusal, peek};
use network::{End, Network, Weather, configs, connected, records, rng, secret};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;
use std::time::Duration;

fn record(content: u8, epoch: u16, number: u64, body: &[u8]) -> Vec<u8> {
    [&Header { content, epoch, number }.encode(body.len() as u16)[..], body].concat()
}

/// A hello whose extensions claim to be longer than they are.
fn hello_with_bad_extensions() -> Vec<u8> {
    let (client, _) = configs(&secret(1));
    let mut datagram = vec![];
    Connection::new(client, std::time::Instant::now(), &mut rng(1)).poll_transmit(&mut datagram);
    let lengths = datagram.windows(4).position(|w| w == [0x00, 0x0d, 0x00, 0x10]).unwrap();
    datagram[lengths + 3] = 0xff;
    assert!(matches!(peek(&datagram), Peek::Hello(_)));
    datagram
}

/// The injections of P24, and their kind.
fn injections() -> Vec<Vec<u8>> {
    let mut server_hello = vec![0xfe, 0xfd];
    server_hello.extend_from_slice(&[7; 32]);
    server_hello.extend_from_slice(&[0, 0xc0, 0x2b, 0, 0, 5, 0, 23, 0, 9, 0]);
    let mut cases = vec![
        vec![],
        vec![0],
        vec![22],
        b"Hello world".to_vec(),
        hello_with_bad_extensions(),
        record(HANDSHAKE, 0, 1, &whole(SERVER_HELLO, 0, &server_hello)),
        record(HANDSHAKE, 0, 1, &whole(CERTIFICATE, 1, &[0, 0, 9, 0, 0, 9])),
        record(HANDSHAKE, 0, 1, &whole(FINISHED, 3, &[0; 12])),
        record(HANDSHAKE, 0, 1, &whole(99, 0, &[0; 12])),
        record(HANDSHAKE, 0, 1, &[]),
        record(HANDSHAKE, 0, 1, &[1; 11]),
        record(CHANGE_CIPHER_SPEC, 0, 1, &[1]),
        record(CHANGE_CIPHER_SPEC, 0, 1, &[]),
        record(APPLICATION_DATA, 0, 1, b"in the clear"),
        record(24, 0, 1, b"heartbeat"),
        record(APPLICATION_DATA, 1, 5, &[]),
    ];
    for level in 0..3 {
        for description in [0, 10, 40, 80, 100] {
            cases.push(record(ALERT, 0, 9, &[level, description]));
        }
    }
    for epoch in [1, 2, 3, 0xffff] {
        for content in [CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA] {
            for len in [1, 23, 24, 26, 60] {
                cases.push(record(content, epoch, 0, &vec![0x5c; len]));
            }
        }
    }
    cases
}

#[test]
fn injections_before_during_and_after_the_handshake_change_nothing() {
    let cases = injections();
    let (client, server) = configs(&secret(1));
    // Before the first datagram, between any two, and in the end.
    for place in 0..5 {
        for case in &cases {
            let mut network =
                Network::new(client.clone(), server.clone(), Weather::FINE, place as u64);
            assert!(network.run_until(|network| network.log().len() >= place.clamp(1, 4)));
            let sent = network.log().len();
            for end in [End::Client, End::Server] {
                let before = network.end(end).discarded().count;
                network.inject(end, case);
                network.inject(end, case);
                assert_eq!(network.log().len(), sent, "answered: {case:02x?}");
                assert!(network.end(end).discarded().count < before + 4);
            }
            assert!(network.run_until(Network::both_open), "{place}: {case:02x?}: {network:?}");
            assert_eq!(network.elapsed(), Duration::ZERO, "{place}: {case:02x?}");
            assert_eq!(network.log().len(), 4);
            for end in [End::Client, End::Server] {
                network.inject(end, case);
                network.send(end.peer(), b"still here");
                network.settle();
                assert_eq!(network.received(end), [b"still here"]);
                assert_eq!(network.events(end), [Event::Connected]);
            }
            assert_eq!(network.log().len(), 6);
        }
    }
}

#[test]
fn a_record_is_received_once_however_often_it_arrives() {
    let mut network = connected(2);
    let datagram = network.seal(End::Client, b"once");
    for _ in 0..3 {
        network.inject(End::Server, &datagram);
    }
    assert_eq!(network.received(End::Server), [b"once"]);
    let discards = network.end(End::Server).discarded();
    assert_eq!((discards.count, discards.last), (2, Some(Refusal::Replayed)));
    // One byte more or less of anything, and it does not authenticate.
    let datagram = network.seal(End::Client, b"twice");
    for i in 13..datagram.len() {
        let mut forged = datagram.clone();
        forged[i] ^= 1;
        network.inject(End::Server, &forged);
        assert_eq!(network.end(End::Server).discarded().last, Some(Refusal::Mac));
    }
    network.inject(End::Server, &datagram);
    assert_eq!(network.received(End::Server).len(), 2);
}

#[test]
fn records_of_one_direction_are_not_those_of_the_other() {
    let mut network = connected(3);
    let datagram = network.seal(End::Client, b"to the server");
    network.inject(End::Client, &datagram);
    assert!(network.received(End::Client).is_empty());
    assert_eq!(network.end(End::Client).discarded().last, Some(Refusal::Mac));
}

/// The server's flight, record by record, with the client that waits for it.
fn client_awaiting_flight(seed: u64) -> (Network, Vec<Vec<u8>>) {
    let (client, server) = configs(&secret(seed));
    let mut network = Network::new(client, server, Weather::FINE, seed);
    assert!(network.run_until(|network| network.log().len() == 2));
    let flight = network.take_pending();
    (network, records(&flight[0]))
}

#[test]
fn a_forged_signature_is_as_if_it_was_lost_and_forging_has_an_end() {
    for forged in [5, 20] {
        let (mut network, flight) = client_awaiting_flight(4);
        for record in &flight[..2] {
            network.inject(End::Client, record);
        }
        let exchange = &flight[2];
        assert_eq!(exchange[13], SERVER_KEY_EXCHANGE);
        let mut bad = exchange.clone();
        *bad.last_mut().unwrap() ^= 1;
        for i in 0..forged {
            network.inject(End::Client, &bad);
            let expect = if i < 16 { Refusal::Signature } else { Refusal::Unexpected };
            assert_eq!(network.end(End::Client).discarded().last, Some(expect), "{i}");
        }
        for record in &flight[2..] {
            network.inject(End::Client, record);
        }
        assert_eq!(network.run_until(Network::both_open), forged < 16);
    }
}

#[test]
fn a_forged_hello_of_the_right_form_costs_no_more_than_its_own_flight() {
    // Whoever replays a hello in the client's name gets at most what a lost flight would cost.
    let (_, server) = configs(&secret(5));
    let (client, _) = configs(&secret(5));
    let mut network = Network::new(client, server, Weather::FINE, 5);
    assert!(network.run_until(|network| network.log().len() == 1));
    let hello = network.take_pending().remove(0);
    for _ in 0..100 {
        network.inject(End::Server, &hello);
    }
    assert_eq!(network.log().len(), 2, "one answer to a hundred hellos");
}

#[test]
fn a_hello_for_another_registration_or_in_pieces_is_not_answered() {
    let (other, _) = configs(&secret(6));
    let (client, server) = configs(&secret(7));
    let mut datagram = vec![];
    Connection::new(other, std::time::Instant::now(), &mut rng(1)).poll_transmit(&mut datagram);
    let mut network = Network::new(client, server, Weather::FINE, 6);
    network.inject(End::Server, &datagram);
    assert_eq!(network.end(End::Server).discarded().last, Some(Refusal::Random));
    assert!(network.log().is_empty());
    assert!(network.run_until(Network::both_open), "the right one comes through");
    // Its first half alone.
    let body = &datagram[25..];
    let mut half = whole(CLIENT_HELLO, 0, &body[..50]);
    half[1..4].copy_from_slice(&[0, 0, body.len() as u8]);
    assert_eq!(peek(&record(HANDSHAKE, 0, 0, &half)), Peek::Fragment);
}

#[test]
fn a_peer_that_saw_another_handshake_is_not_connected_to() {
    // The ServerHello's random changes on the way: the signature no longer fits, nobody connects.
    let (mut network, mut flight) = client_awaiting_flight(8);
    flight[0][40] ^= 1;
    for record in &flight {
        network.inject(End::Client, record);
    }
    network.settle();
    for end in [End::Client, End::Server] {
        assert!(matches!(network.events(end), [Event::Closed(Closed::Timeout(_))]));
    }
    // CertificateRequest is signed by nobody; Finished tells.
    let (mut network, mut flight) = client_awaiting_flight(9);
    let schemes = flight[3].len() - 3;
    flight[3][schemes] ^= 1;
    for record in &flight {
        network.inject(End::Client, record);
    }
    network.settle();
    for end in [End::Client, End::Server] {
        assert!(!network.events(end).contains(&Event::Connected), "{:?}", network.events(end));
    }
}

/// Changes `datagram` in one of many ways; `others` were seen on the same network.
fn mutate(datagram: &[u8], others: &[Vec<u8>], rng: &mut ChaCha20Rng) -> Vec<u8> {
    let mut bytes = datagram.to_vec();
    let place = |len: usize, rng: &mut ChaCha20Rng| rng.next_u32() as usize % len.max(1);
    for _ in 0..=rng.next_u32() % 3 {
        let at = place(bytes.len(), rng);
        match rng.next_u32() % 8 {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << (rng.next_u32() % 8),
            1 if !bytes.is_empty() => {
                bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.next_u32() as usize % 5]
            }
            2 => bytes.truncate(at),
            3 => bytes.extend((0..rng.next_u32() % 40).map(|i| i as u8)),
            4 => bytes.insert(at, rng.next_u32() as u8),
            5 if !bytes.is_empty() => drop(bytes.remove(at)),
            6 => {
                let other = &others[place(others.len(), rng)];
                let cut = place(other.len(), rng);
                bytes.splice(at.., other[cut..].iter().copied());
            }
            // Headers are where most decisions are made.
            _ => {
                if let Some(byte) = bytes.get_mut(place(30, rng)) {
                    *byte = rng.next_u32() as u8;
                }
            }
        }
    }
    bytes
}

#[test]
fn mutated_datagrams_neither_panic_nor_end_a_session() {
    let wanted: usize =
        std::env::var("CONJURE_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(30_000);
    let rng = &mut rng(10);
    let (client, server) = configs(&secret(10));
    let mut others: Vec<Vec<u8>> = connected(10).log().iter().map(|(_, d)| d.clone()).collect();
    others.extend(injections());
    let (mut tried, mut handshakes, mut completed) = (0, 0u64, 0);
    while tried < wanted {
        handshakes += 1;
        let mut network = Network::new(client.clone(), server.clone(), Weather::FINE, handshakes);
        // A few during the handshake, which may then fail: its messages are in the clear.
        for step in 1..4 {
            network.run_until(|network| network.both_open() || network.log().len() >= step);
            let Some((_, latest)) = network.log().last().cloned() else { break };
            for end in [End::Client, End::Server] {
                let bytes = mutate(&latest, &others, rng);
                network.inject(end, &bytes);
                tried += 1;
            }
        }
        if !network.run_until(Network::both_open) {
            continue;
        }
        completed += 1;
        // Many after it, which change nothing at all.
        let sent = network.log().len();
        for round in 0..40u8 {
            for end in [End::Client, End::Server] {
                let good = network.seal(end.peer(), &[round; 50]);
                let bytes = mutate(&good, &others, rng);
                network.inject(end, &bytes);
                tried += 1;
                network.inject(end, &good);
            }
        }
        assert_eq!(network.log().len(), sent, "something was answered");
        for end in [End::Client, End::Server] {
            assert_eq!(network.events(end), [Event::Connected]);
            let got = network.received(end);
            assert!(got.iter().zip(0u8..).all(|(data, round)| data == &[round; 50]));
            assert_eq!(got.len(), 40);
        }
    }
    assert!(completed * 2 > handshakes, "{completed} of {handshakes} handshakes");
    println!("dtls: {tried} mutated datagrams, {completed} of {handshakes} handshakes complete");
}
