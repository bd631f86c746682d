//! Both roles against each other on a virtual clock, over a network that loses, repeats and reorders.

mod network;

use dtls::{Closed, Config, Connection, Event, Peek, Refusal, SealError, peek};
use network::{End, Network, Weather, configs, connected, rng, secret};
use proptest::prelude::*;
use rand_chacha::rand_core::Rng;
use std::time::{Duration, Instant};

const PATIENT: Duration = Duration::from_secs(600);

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_weather_lets_them_connect_and_carry_data(
        seed in any::<u64>(),
        limit in 100usize..1300,
        loss in 0u32..40,
        repeat in 0u32..30,
        jitter in 0u64..1500,
        verify_hello in any::<bool>(),
    ) {
        let (mut client, mut server) = configs(&secret(seed));
        for config in [&mut client, &mut server] {
            (config.datagram_limit, config.handshake_limit) = (limit, PATIENT);
        }
        server.verify_hello = verify_hello;
        let weather = Weather { loss, repeat, jitter: Duration::from_millis(jitter) };
        let mut network = Network::new(client, server, weather, seed);
        prop_assert!(network.run_until(Network::both_open), "not connected: {network:?}");
        for (_, datagram) in network.log() {
            prop_assert!(datagram.len() <= limit.max(128), "{}", datagram.len());
        }
        // Data goes both ways; each record arrives at most once and as it was.
        for end in [End::Client, End::Server] {
            for number in 0u32..40 {
                network.send(end, &[&number.to_be_bytes()[..], &[7; 1000]].concat());
            }
        }
        network.settle();
        for end in [End::Client, End::Server] {
            let mut numbers = vec![];
            for data in network.received(end) {
                prop_assert_eq!(&data[4..], &[7; 1000][..]);
                numbers.push(u32::from_be_bytes(data[..4].try_into().unwrap()));
            }
            numbers.sort_unstable();
            let count = numbers.len();
            numbers.dedup();
            prop_assert_eq!(count, numbers.len(), "a record arrived twice");
            prop_assert!(loss > 0 || count == 40);
        }
        prop_assert_eq!(network.events(End::Client), [Event::Connected]);
        prop_assert_eq!(network.events(End::Server), [Event::Connected]);
    }
}

#[test]
fn a_handshake_without_loss_looks_like_that_of_existing_peers() {
    let (client, server) = configs(&secret(1));
    let mut network = Network::new(client, server, Weather::FINE, 1);
    assert!(network.run_until(Network::both_open));
    let lens: Vec<(End, usize)> =
        network.log().iter().map(|(from, bytes)| (*from, bytes.len())).collect();
    let [hello, flight, answer, finish] = lens[..] else { panic!("{lens:?}") };
    assert_eq!((hello, finish), ((End::Client, 126), (End::Server, 75)));
    // Signatures and serials vary by a few bytes.
    assert!(flight.0 == End::Server && (748..=762).contains(&flight.1), "{flight:?}");
    assert!(answer.0 == End::Client && (693..=707).contains(&answer.1), "{answer:?}");
    network.send(End::Client, &[1; 40]);
    network.close(End::Server);
    let lens: Vec<usize> = network.log()[4..].iter().map(|(_, bytes)| bytes.len()).collect();
    assert_eq!(lens, [77, 39], "an INIT, and close_notify");
}

#[test]
fn explicit_nonces_look_random_and_never_repeat() {
    let mut network = connected(2);
    let mut nonces = std::collections::HashSet::new();
    let mut ones = 0;
    for _ in 0..1000 {
        let datagram = network.seal(End::Client, b"x");
        let nonce: [u8; 8] = datagram[13..21].try_into().unwrap();
        ones += u64::from_be_bytes(nonce).count_ones();
        assert!(nonces.insert(nonce));
    }
    assert!((31_000..33_000).contains(&ones), "{ones}");
}

#[test]
fn a_lost_last_flight_is_sent_again() {
    let (client, server) = configs(&secret(3));
    let mut network = Network::new(client, server, Weather::FINE, 3);
    assert!(network.run_until(|network| network.end(End::Server).is_open()));
    network.drop_everything();
    assert!(!network.end(End::Client).is_open());
    assert!(network.run_until(Network::both_open));
    // The client asked once more, and was answered once more.
    let last: Vec<_> = network.log().iter().rev().take(2).map(|(from, _)| *from).collect();
    assert_eq!(last, [End::Server, End::Client]);
    assert_eq!(network.elapsed(), Duration::from_secs(1));
}

#[test]
fn a_flight_without_an_answer_is_repeated_every_second_for_five() {
    let (client, server) = configs(&secret(4));
    let everything = Weather { loss: 100, ..Weather::FINE };
    let mut network = Network::new(client, server, everything, 4);
    network.settle();
    let hellos: Vec<_> = network.log().iter().map(|(_, datagram)| peek(datagram)).collect();
    assert_eq!(hellos.len(), 5);
    assert!(hellos.iter().all(|hello| matches!(hello, Peek::Hello(_))));
    let (a, b) = (&network.log()[0].1, &network.log()[4].1);
    assert_eq!(a[13..], b[13..], "the same message");
    assert_eq!((a[10], b[10]), (0, 4), "in another record");
    assert_eq!(network.elapsed(), Duration::from_secs(5));
    let timeout = Event::Closed(Closed::Timeout(None));
    assert_eq!(network.events(End::Client), [timeout]);
    assert_eq!(network.events(End::Server), [timeout]);
    assert!(!network.end(End::Server).is_open() && network.end(End::Server).is_closed());
}

#[test]
fn a_server_answers_no_hello_but_the_registered_one() {
    let (client, _) = configs(&secret(5));
    let (_, server) = configs(&secret(6));
    let mut network = Network::new(client, server, Weather::FINE, 5);
    network.settle();
    assert!(network.log().iter().all(|(from, _)| *from == End::Client));
    let expect = Event::Closed(Closed::Timeout(Some(Refusal::Random)));
    assert_eq!(network.events(End::Server), [expect]);
}

#[test]
fn certificates_of_another_secret_are_refused_by_either_end() {
    for (wrong, refuser) in [(End::Server, End::Client), (End::Client, End::Server)] {
        let (mut client, mut server) = configs(&secret(7));
        let (other_client, other_server) = configs(&secret(8));
        match wrong {
            End::Server => server.identity = other_server.identity,
            End::Client => client.identity = other_client.identity,
        }
        let mut network = Network::new(client, server, Weather::FINE, 7);
        network.settle();
        assert!(!network.end(refuser).is_open());
        let [Event::Closed(Closed::Timeout(Some(refusal)))] = network.events(refuser)[..] else {
            panic!("{:?}", network.events(refuser));
        };
        assert_eq!(refusal, Refusal::Certificate);
        assert!(network.end(refuser).discarded().count >= 1);
    }
}

#[test]
fn a_cookie_is_asked_for_before_anything_is_computed() {
    let (client, mut server) = configs(&secret(9));
    server.verify_hello = true;
    let mut network = Network::new(client, server, Weather::FINE, 9);
    assert!(network.run_until(Network::both_open));
    let lens: Vec<usize> = network.log().iter().map(|(_, bytes)| bytes.len()).collect();
    assert_eq!((lens.len(), lens[0], lens[1], lens[2]), (6, 126, 48, 146));
}

#[test]
fn closing_is_announced_and_answered() {
    for end in [End::Client, End::Server] {
        let mut network = connected(10);
        network.close(end);
        network.settle();
        assert_eq!(network.events(end), [Event::Connected, Event::Closed(Closed::Local)]);
        let peer = end.peer();
        assert_eq!(network.events(peer), [Event::Connected, Event::Closed(Closed::Peer)]);
        let (mut out, connection) = (vec![9], network.end_mut(peer));
        assert_eq!(connection.seal(b"x", &mut out), Err(SealError::NotOpen));
        assert_eq!((out, connection.poll_timeout()), (vec![9], None));
        // The answer to the alert, and no more.
        let alerts = network.log().iter().filter(|(_, datagram)| datagram.len() == 39).count();
        assert_eq!(alerts, 2);
    }
}

#[test]
fn closing_before_the_end_of_the_handshake_is_silent() {
    let (client, server) = configs(&secret(11));
    let mut network = Network::new(client, server, Weather::FINE, 11);
    network.close(End::Client);
    network.close(End::Server);
    network.settle();
    assert!(network.log().is_empty());
    assert_eq!(network.events(End::Client), [Event::Closed(Closed::Local)]);
}

#[test]
fn payloads_have_a_limit_and_failures_leave_nothing_behind() {
    let mut network = connected(12);
    let mut out = b"before".to_vec();
    let client = network.end_mut(End::Client);
    assert_eq!(client.seal(&[0; 16_385], &mut out), Err(SealError::TooLong(16_385)));
    client.seal(&[], &mut out).unwrap();
    assert_eq!(out, b"before", "nothing is no record");
    client.seal(&[5; 16_384], &mut out).unwrap();
    assert_eq!(out.len(), 6 + 16_384 + dtls::OVERHEAD);
    let mut got = Vec::new();
    let now = Instant::now();
    network
        .end_mut(End::Server)
        .handle_datagram(now, &mut out[6..], |data| got.extend_from_slice(data));
    assert_eq!(got, [5; 16_384]);
}

#[test]
fn data_before_finished_is_delivered_after_it() {
    let (client, server) = configs(&secret(13));
    let mut network = Network::new(client, server, Weather::FINE, 13);
    assert!(network.run_until(|network| network.end(End::Server).is_open()));
    let mut finished = network.take_pending();
    let mut data = network.seal(End::Server, b"early");
    let (now, mut got) = (network.now(), vec![]);
    let client = network.end_mut(End::Client);
    client.handle_datagram(now, &mut data, |_| panic!("not yet authentic"));
    assert!(!client.is_open());
    for datagram in &mut finished {
        client.handle_datagram(now, datagram, |data| got.push(data.to_vec()));
    }
    assert!(client.is_open());
    assert_eq!(got, [b"early"]);
}

#[test]
fn flights_in_any_order_of_records_are_put_together() {
    // Every datagram is cut into its records, which arrive backwards.
    let (client, server) = configs(&secret(14));
    let mut network = Network::new(client, server, Weather::FINE, 14);
    network.split_and_reverse();
    assert!(network.run_until(Network::both_open));
    assert_eq!(network.elapsed(), Duration::ZERO, "nothing had to be repeated");
}

#[test]
fn sessions_do_not_depend_on_how_they_drew_their_randomness() {
    // Two servers from the same draw answer alike up to their signatures; from others they differ.
    let (client, server) = configs(&secret(15));
    let now = Instant::now();
    let answer = |seed: u64| {
        let mut client = Connection::new(client.clone(), now, &mut rng(1));
        let mut server = Connection::new(Config::clone(&server), now, &mut rng(seed));
        let mut datagram = vec![];
        assert!(client.poll_transmit(&mut datagram));
        server.handle_datagram(now, &mut datagram, |_| {});
        assert!(server.poll_transmit(&mut datagram));
        datagram[25..80].to_vec()
    };
    assert_eq!(answer(2), answer(2));
    assert_ne!(answer(2), answer(3));
    assert_ne!(rng(1).next_u64(), rng(2).next_u64());
}
