//! Whole transfers on a virtual clock over a network that misbehaves.

mod network;

use std::collections::HashSet;
use std::time::Duration;

use network::{MS, Network, Path, bytes, kinds};
use sctp::chunk::Chunk;
use sctp::{Config, End, Packet};

const SECOND: Duration = Duration::from_secs(1);
const KEEPALIVE: &[u8] = b"6v3jyM521GkBo1lsMyVLcRyzdZ7FKEM3";

fn config() -> Config {
    Config { keepalive: KEEPALIVE, ..Config::default() }
}

#[test]
fn a_clean_path_carries_both_directions_without_repetition() {
    let mut network = Network::new(1, Path::default(), &config());
    network.establish();
    let data = bytes(3_000_000, 1);
    for side in [0, 1, 0] {
        let (read, time) = network.transfer(side, &data, 60 * SECOND);
        assert!(read == data);
        assert!(time < 6 * SECOND, "{time:?}");
        assert_eq!(network.sides[side].counters().retransmitted, 0);
    }
}

/// P26: whatever is lost, a full flight has a timer and the transfer completes.
#[test]
fn losses_of_every_kind_end_in_a_complete_transfer() {
    let data = bytes(20_000_000, 2);
    for seed in 0..3 {
        let path = Path { loss: 100, ..Path::default() };
        let mut network = Network::new(seed, path, &config());
        network.establish();
        let (read, _) = network.transfer(1, &data, 7200 * SECOND);
        assert!(read == data);
        assert_eq!(network.server().ended(), None);
    }
}

#[test]
fn a_black_out_of_three_seconds_is_survived() {
    let data = bytes(20_000_000, 3);
    let mut network = Network::new(3, Path::default(), &config());
    network.establish();
    network.filter = Box::new(|at, _, _| !(2 * SECOND..5 * SECOND).contains(&at));
    let (read, time) = network.transfer(1, &data, 120 * SECOND);
    assert!(read == data);
    // 3 s, at most twice as long until the next attempt, and the transfer itself.
    assert!(time < 5 * SECOND + 4 * SECOND + 12 * SECOND, "{time:?}");
}

/// Transmission sequence numbers of the DATA chunks of a packet.
fn tsns(packet: &[u8]) -> Vec<u32> {
    let chunks = Packet::parse(packet).unwrap().chunks();
    chunks
        .filter_map(|chunk| match chunk.unwrap() {
            Chunk::Data(data) => Some(data.tsn),
            _ => None,
        })
        .collect()
}

#[test]
fn losing_retransmissions_alone_ends_in_a_complete_transfer() {
    let data = bytes(20_000_000, 4);
    let mut network = Network::new(4, Path { loss: 20, ..Path::default() }, &config());
    network.establish();
    let mut seen = HashSet::new();
    network.filter = Box::new(move |at, _, packet| {
        let again = tsns(packet).into_iter().filter(|tsn| !seen.insert(*tsn)).count() > 0;
        !(again && (SECOND..3 * SECOND).contains(&at))
    });
    let (read, _) = network.transfer(1, &data, 600 * SECOND);
    assert!(read == data);
    assert_eq!(network.server().ended(), None);
}

#[test]
fn reordering_and_repetition_change_nothing_that_is_read() {
    for unordered in [false, true] {
        for seed in 0..4 {
            let path = Path { loss: 20, twice: 50, reordered: 200, ..Path::default() };
            let mut network = Network::new(seed, path, &Config { unordered, ..config() });
            network.establish();
            // Every message of its own, so that unordered ones can be told apart.
            let messages: Vec<Vec<u8>> = (0..400u32)
                .map(|n| {
                    let mut message = bytes(5 + n as usize * 17 % 4000, u64::from(n));
                    let length = message.len() as u32;
                    message[..4].copy_from_slice(&length.to_be_bytes());
                    message
                })
                .collect();
            let mut waiting = messages.iter();
            let mut next = waiting.next();
            let (mut read, total) = (Vec::new(), messages.iter().map(Vec::len).sum::<usize>());
            network.run_until(600 * SECOND, |network| {
                while let Some(message) = next {
                    if !network.server().write_message(message) {
                        break;
                    }
                    next = waiting.next();
                }
                let mut chunk = [0; 5000];
                let n = network.client().read(&mut chunk);
                read.extend_from_slice(&chunk[..n]);
                read.len() == total
            });
            let mut parts = Vec::new();
            let mut rest = &read[..];
            while !rest.is_empty() {
                let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
                let (message, behind) = rest.split_at(length);
                parts.push(message.to_vec());
                rest = behind;
            }
            if unordered {
                assert!(parts != messages, "a loss never held anything up");
                let (mut parts, mut messages) = (parts, messages);
                parts.sort();
                messages.sort();
                assert!(parts == messages);
            } else {
                assert!(parts == messages);
            }
        }
    }
}

#[test]
fn the_opening_survives_losses_and_ends_after_eight_repetitions() {
    for seed in 0..40 {
        let path = Path { loss: 400, twice: 300, reordered: 500, ..Path::default() };
        let mut network = Network::new(seed, path, &config());
        network.client().write(b"early");
        network.run_until(600 * SECOND, |n| {
            n.sides.iter().any(|s| s.ended().is_some()) || !n.server().readable().is_empty()
        });
        if network.client().ended().is_none() {
            assert_eq!(network.server().readable(), b"early");
        }
    }
    let mut network = Network::new(1, Path { loss: 1000, ..Path::default() }, &config());
    while network.step() {}
    assert_eq!(network.client().ended(), Some(End::NoAnswer));
    assert_eq!(network.sent[0], 9);
    let took = network.now - network.start;
    assert!(took < 400 * SECOND, "{took:?}");
}

#[test]
fn a_reader_that_stops_stops_the_writer_and_nothing_is_lost() {
    let mut network = Network::new(5, Path::default(), &config());
    network.establish();
    let data = bytes(4 << 20, 5);
    let mut written = 0;
    let end = network.now + 300 * SECOND;
    while network.now < end {
        network.step();
        written += network.server().write(&data[written..]);
    }
    let limit = config().receive_window as usize + config().send_buffer + config().unsent;
    assert!(written < limit, "{written}");
    assert!(network.client().held() <= 2 << 20);
    assert_eq!(network.server().ended(), None, "a closed window is no lost peer");
    let before = network.now;
    let mut read = Vec::new();
    network.run_until(60 * SECOND, |network| {
        written += network.server().write(&data[written..]);
        let mut chunk = [0; 65536];
        let n = network.client().read(&mut chunk);
        read.extend_from_slice(&chunk[..n]);
        read.len() == data.len()
    });
    assert!(read == data);
    assert!(network.now - before < 10 * SECOND, "{:?}", network.now - before);
}

#[test]
fn a_slow_reader_is_told_about_the_window() {
    let config = Config { receive_window: 20_000, ..config() };
    let mut network = Network::new(6, Path::default(), &config);
    network.establish();
    let data = bytes(1_000_000, 6);
    let (read, time) = network.transfer(0, &data, 600 * SECOND);
    assert!(read == data);
    // A window's worth per round trip, or time-outs would show.
    assert!(time < 10 * SECOND, "{time:?}");
    assert_eq!(network.client().counters().timeouts, 0);
}

#[test]
fn silent_messages_are_counted_and_never_read() {
    let mut network =
        Network::new(7, Path { loss: 50, reordered: 300, ..Path::default() }, &config());
    network.establish();
    let mut expected = Vec::new();
    for n in 0..200usize {
        let message = match n % 4 {
            0 => KEEPALIVE.to_vec(),
            1 => bytes(n * 20 + 1, n as u64),
            2 => KEEPALIVE[..n % 32].to_vec(),
            _ => [KEEPALIVE, b"!"].concat(),
        };
        if message != KEEPALIVE {
            expected.extend_from_slice(&message);
        }
        assert!(network.client().write_message(&message));
        network.run_for(100 * MS);
    }
    let mut read = Vec::new();
    network.run_until(60 * SECOND, |network| {
        let mut chunk = [0; 9999];
        let n = network.server().read(&mut chunk);
        read.extend_from_slice(&chunk[..n]);
        read.len() == expected.len() && network.server().counters().keepalives == 50
    });
    assert!(read == expected);
    assert_eq!(network.server().counters().messages, 150);
}

#[test]
fn each_direction_ends_by_itself() {
    for seed in 0..20 {
        let path = Path { loss: 100, reordered: 300, twice: 100, ..Path::default() };
        let mut network = Network::new(seed, path, &config());
        network.establish();
        let (request, answer) = (bytes(10_000, 1), bytes(300_000, 2));
        assert_eq!(network.client().write(&request), request.len());
        network.client().finish();
        assert_eq!(network.client().write(b"more"), 0);
        let mut read = Vec::new();
        network.run_until(600 * SECOND, |network| {
            let mut chunk = [0; 9999];
            let n = network.server().read(&mut chunk);
            read.extend_from_slice(&chunk[..n]);
            network.server().is_read_to_end()
        });
        assert!(read == request);
        network.run_for(3 * SECOND);
        let (read, _) = network.transfer(1, &answer, 600 * SECOND);
        assert!(read == answer);
        network.server().finish();
        network.run_until(600 * SECOND, |n| {
            n.client().is_read_to_end() && n.sides.iter().all(|s| s.is_finished())
        });
        assert!(network.sides.iter().all(|side| side.ended().is_none()));
    }
}

#[test]
fn a_shutdown_waits_for_what_was_written() {
    for (seed, both) in [(1, false), (2, true), (3, false), (4, true)] {
        let path = Path { loss: 100, ..Path::default() };
        let mut network = Network::new(seed, path, &config());
        network.establish();
        let data = bytes(100_000, seed);
        assert_eq!(network.client().write(&data), data.len());
        network.client().shutdown();
        if both {
            network.server().shutdown();
        }
        assert_eq!(network.client().write(b"more"), 0);
        network.run_until(600 * SECOND, |n| n.sides.iter().all(|s| s.ended().is_some()));
        let mut read = vec![0; 200_000];
        assert_eq!(network.server().read(&mut read), data.len());
        assert!(read[..data.len()] == data);
        assert_eq!(network.client().ended(), Some(End::ShutDown));
    }
}

#[test]
fn an_abort_is_heard_and_a_dead_peer_is_given_up() {
    let mut network = Network::new(8, Path::default(), &config());
    network.establish();
    network.client().abort();
    network.run_until(SECOND, |n| n.server().ended().is_some());
    assert_eq!(network.server().ended(), Some(End::Aborted));
    assert_eq!(network.client().ended(), Some(End::Broken));

    let mut network = Network::new(9, Path::default(), &config());
    network.establish();
    network.filter = Box::new(|_, _, _| false);
    network.client().write(b"anybody?");
    network.run_until(900 * SECOND, |n| n.client().ended().is_some());
    assert_eq!(network.client().ended(), Some(End::Lost));
    assert_eq!(network.client().unacknowledged(), 0);
}

#[test]
fn acknowledgements_are_delayed_and_shared() {
    let mut network = Network::new(10, Path::default(), &config());
    network.establish();
    network.run_for(SECOND);
    let before = network.sent[1];
    network.client().write(b"one packet");
    network.run_for(230 * MS - 20 * MS);
    assert_eq!(network.sent[1], before);
    network.run_for(20 * MS);
    assert_eq!(network.sent[1], before + 1);
    let before = network.sent[1];
    network.client().write(&bytes(12_000, 1));
    network.run_for(100 * MS);
    // Ten packets that arrive at one time are answered at one time.
    assert_eq!(network.sent[1], before + 1);
    network.server().consume(usize::MAX);
}

#[test]
fn the_tail_of_a_flight_is_not_waited_for_until_the_time_out() {
    let mut network = Network::new(11, Path::default(), &config());
    network.establish();
    let (read, _) = network.transfer(1, &bytes(50_000, 1), 10 * SECOND);
    assert_eq!(read.len(), 50_000);
    network.run_for(SECOND);
    // The last three packets of a flight of eight are lost, once.
    let mut count = 0;
    network.filter = Box::new(move |_, side, packet| {
        count += usize::from(side == 1 && kinds(packet).contains(&0));
        !(side == 1 && (6..=8).contains(&count) && kinds(packet).contains(&0))
    });
    let (_, time) = network.transfer(1, &bytes(9_600, 2), 10 * SECOND);
    assert!(time < 600 * MS, "{time:?}");
    assert_eq!(network.server().counters().timeouts, 0);
}
