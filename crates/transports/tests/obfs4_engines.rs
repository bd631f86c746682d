//! Client and station talk over a byte stream that is cut anywhere, and break as they should.

use keys::{ClientVersion, SharedSecret};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::time::Duration;
use transports::obfs4::{
    Client, ClientError, ClientIdentity, Drained, Failure, FrameError, MAX_HANDSHAKE, MAX_SEGMENT,
    MarkSearch, MarkVerdict, Progress, ReplayFilter, Server, ServerIdentity, StreamError,
};

const NOW: Duration = Duration::from_secs(1_795_600_000);

fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

fn identity(seed: u64) -> ServerIdentity {
    let secret = SharedSecret::new(&seed.to_be_bytes());
    ServerIdentity::new(secret.session_keys(ClientVersion(4)).obfs4())
}

fn bytes(len: usize, rng: &mut ChaCha20Rng) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Cuts `bytes` into pieces of random lengths, many short and some long.
fn pieces<'a>(mut bytes: &'a [u8], rng: &mut ChaCha20Rng) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let most = [3, 200, 3000, 40_000][rng.next_u32() as usize % 4];
        let (piece, rest) = bytes.split_at(bytes.len().min(1 + rng.next_u32() as usize % most));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// The handshake, with the station finding the identity among others from pieces of the hello.
fn connected(seed: u64, rng: &mut ChaCha20Rng) -> (Client, Server) {
    let identities: Vec<_> = (seed..seed + 7).map(identity).collect();
    let own = &identities[(seed % 7) as usize];
    let (mut client, hello) = Client::start(own.shared().clone(), NOW, rng);
    assert_eq!(hello[31] & 0x40, 0, "older servers read bit 254");
    let mut search = MarkSearch::new();
    let mut received = Vec::new();
    let mut found = None;
    for piece in pieces(&hello, rng) {
        assert_eq!(found, None);
        received.extend_from_slice(piece);
        let verdict = search.offer(&received, |after, each| {
            for (number, identity) in (1..).zip(&identities).skip(after as usize) {
                each(number, identity.shared(), number as usize - 1);
            }
        });
        match verdict {
            MarkVerdict::Found(index) => found = Some(index),
            verdict => assert_eq!(verdict, MarkVerdict::TryAgain),
        }
    }
    assert_eq!(found, Some((seed % 7) as usize));
    let mut replays = ReplayFilter::new(rng);
    let (server, reply) = Server::accept(own, &received, NOW, &mut replays, rng).unwrap();
    assert!(reply.len() <= MAX_HANDSHAKE);
    assert_eq!(reply[31] & 0x40, 0, "clients read bit 254");
    let (mut out, mut progress) = (Vec::new(), Progress::Handshaking);
    for piece in pieces(&reply, rng) {
        progress = client.receive(piece, rng, &mut out).unwrap();
    }
    assert_eq!((progress, out.len()), (Progress::Open, 0));
    (client, server)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_once_and_in_order(
        seed in any::<u64>(),
        up in proptest::collection::vec(0usize..60_000, 0..6),
        down in proptest::collection::vec(0usize..60_000, 0..6),
        large in 0usize..=1 << 20,
    ) {
        let mut rng = rng(seed);
        let (mut client, mut server) = connected(seed >> 1, &mut rng);
        let (mut sent, mut wire, mut received) = (Vec::new(), Vec::new(), Vec::new());
        for length in up {
            let data = bytes(length, &mut rng);
            client.send(&data, &mut rng, &mut wire).unwrap();
            sent.extend(data);
        }
        for piece in pieces(&wire, &mut rng) {
            server.receive(piece, NOW, &mut rng, &mut received).unwrap();
        }
        prop_assert!(sent == received);

        let (mut sent, mut wire, mut received) = (Vec::new(), Vec::new(), Vec::new());
        for length in down.into_iter().chain([large]) {
            let data = bytes(length, &mut rng);
            server.send(&data, &mut rng, &mut wire).unwrap();
            sent.extend(data);
        }
        for piece in pieces(&wire, &mut rng) {
            prop_assert_eq!(client.receive(piece, &mut rng, &mut received), Ok(Progress::Open));
        }
        prop_assert!(sent == received);
    }

    #[test]
    fn a_changed_byte_ends_the_tunnel(seed in any::<u64>(), at in any::<usize>(), bit in 0u8..8) {
        let mut rng = rng(seed);
        let (mut client, mut server) = connected(seed >> 1, &mut rng);
        let mut wire = Vec::new();
        client.send(&bytes(5000, &mut rng), &mut rng, &mut wire).unwrap();
        let at = at % wire.len();
        wire[at] ^= 1 << bit;
        // A changed length may ask for more than was sent.
        wire.extend([0; MAX_SEGMENT]);
        let mut received = Vec::new();
        let refused = server.receive(&wire, NOW, &mut rng, &mut received).unwrap_err();
        prop_assert!(matches!(
            refused.failure,
            Failure::Stream(StreamError::Frame(FrameError::Authentication | FrameError::Length))
        ));
        prop_assert!(received.len() <= at);
        let mut drain = refused.drain;
        prop_assert_eq!(drain.discard(8192, NOW), Drained::Close);
        prop_assert!(server.receive(&[0], NOW, &mut rng, &mut received).is_err());
    }

    #[test]
    fn any_bytes_are_survived(seed in any::<u64>(), length in 0usize..12_000) {
        let mut rng = rng(seed);
        let garbage = bytes(length, &mut rng);
        let own = identity(3);
        let mut replays = ReplayFilter::new(&mut rng);
        let refused = Server::accept(&own, &garbage, NOW, &mut replays, &mut rng).unwrap_err();
        prop_assert_eq!(refused.failure, Failure::Mark);
        prop_assert!(replays.is_empty());
        let (mut client, _) = Client::start(own.shared().clone(), NOW, &mut rng);
        let mut out = Vec::new();
        for piece in pieces(&garbage, &mut rng) {
            if client.receive(piece, &mut rng, &mut out).is_err() {
                break;
            }
        }
        prop_assert!(out.is_empty());
        let failed = client.receive(&[0; MAX_HANDSHAKE], &mut rng, &mut out);
        prop_assert!(matches!(failed, Err(ClientError::NoMark | ClientError::Closed)));
        prop_assert_eq!(client.receive(&[], &mut rng, &mut out), Err(ClientError::Closed));
    }
}

#[test]
fn a_handshake_is_answered_once_and_within_its_hours() {
    let mut rng = rng(1);
    let own = identity(1);
    let mut replays = ReplayFilter::new(&mut rng);
    let hour = Duration::from_secs(3600);
    for (skew, accepted) in [(0, true), (1, true), (2, false), (5, false)] {
        for now in [NOW + hour * skew, NOW - hour * skew] {
            let (_, hello) = Client::start(own.shared().clone(), NOW, &mut rng);
            let before = replays.len();
            match Server::accept(&own, &hello, now, &mut replays, &mut rng) {
                Ok(_) => assert!(accepted, "{skew}"),
                Err(refused) => {
                    assert!(!accepted, "{skew}");
                    assert_eq!(refused.failure, Failure::Mac);
                    assert_eq!(replays.len(), before, "only handshakes that verify are kept");
                    continue;
                }
            }
            let again = Server::accept(&own, &hello, now, &mut replays, &mut rng).unwrap_err();
            assert_eq!(again.failure, Failure::Replay);
            let wait = again.drain.deadline() - now;
            assert!((30..90).contains(&wait.as_secs()), "{wait:?}");
        }
    }
}

#[test]
fn bytes_behind_the_handshake_and_a_changed_mac_are_refused() {
    let mut rng = rng(2);
    let own = identity(2);
    let mut replays = ReplayFilter::new(&mut rng);
    let (_, hello) = Client::start(own.shared().clone(), NOW, &mut rng);
    let mut longer = hello.clone();
    longer.push(0);
    let refused = Server::accept(&own, &longer, NOW, &mut replays, &mut rng).unwrap_err();
    assert_eq!(refused.failure, Failure::Mark);
    let mut changed = hello.clone();
    *changed.last_mut().unwrap() ^= 1;
    let refused = Server::accept(&own, &changed, NOW, &mut replays, &mut rng).unwrap_err();
    assert_eq!(refused.failure, Failure::Mac);
    let mut changed = hello.clone();
    changed[40] ^= 1;
    let refused = Server::accept(&own, &changed, NOW, &mut replays, &mut rng).unwrap_err();
    assert_eq!(refused.failure, Failure::Mac);
    assert!(Server::accept(&own, &hello, NOW, &mut replays, &mut rng).is_ok());
}

#[test]
fn a_server_without_the_private_key_is_not_believed() {
    let mut rng = rng(3);
    let own = identity(3);
    let mut stolen = SharedSecret::new(&3u64.to_be_bytes()).session_keys(ClientVersion(4)).obfs4();
    stolen.private = [0x48; 32];
    let impostor = ServerIdentity::new(stolen);
    let (mut client, hello) = Client::start(own.shared().clone(), NOW, &mut rng);
    let mut replays = ReplayFilter::new(&mut rng);
    let (_, reply) = Server::accept(&impostor, &hello, NOW, &mut replays, &mut rng).unwrap();
    let mut out = Vec::new();
    let mut before = client.send(b"early", &mut rng, &mut out);
    assert_eq!(before, Err(ClientError::NotOpen));
    before = client.receive(&reply, &mut rng, &mut out).map(drop);
    assert_eq!(before, Err(ClientError::Auth));
    assert_eq!(client.send(b"late", &mut rng, &mut out), Err(ClientError::Closed));
    assert!(out.is_empty());
}

#[test]
fn keys_of_low_order_are_refused() {
    let mut rng = rng(4);
    let own = identity(4);
    let mut replays = ReplayFilter::new(&mut rng);
    // The representative 0 stands for a point of order two.
    let shared: &ClientIdentity = own.shared();
    let hour = NOW.as_secs() / 3600;
    let hello = transports::obfs4::handshake::client_message(shared, &[0; 32], &[9; 100], hour);
    let refused = Server::accept(&own, &hello, NOW, &mut replays, &mut rng).unwrap_err();
    assert!(matches!(refused.failure, Failure::LowOrder(_)), "{refused:?}");
}

#[test]
fn bursts_end_with_lengths_of_the_server_s_table() {
    let mut rng = rng(5);
    let (mut client, mut server) = connected(5, &mut rng);
    let mut tails = std::collections::HashSet::new();
    for _ in 0..2000 {
        let mut wire = Vec::new();
        let length = 1 + rng.next_u32() as usize % 4000;
        server.send(&bytes(length, &mut rng), &mut rng, &mut wire).unwrap();
        tails.insert(wire.len() % MAX_SEGMENT);
    }
    let servers = tails.len();
    for _ in 0..2000 {
        let mut wire = Vec::new();
        client.send(b"x", &mut rng, &mut wire).unwrap();
        tails.insert(wire.len() % MAX_SEGMENT);
        assert!(client.pause(&mut rng) <= Duration::from_millis(10));
    }
    // At most 100 values, and 21 more lengths behind each where a short pad took two frames.
    assert!(tails.len() < 1000, "{} tails", tails.len());
    assert!(tails.len() - servers < 130, "the client draws from the same table");
    let mut wire = Vec::new();
    server.send(&[], &mut rng, &mut wire).unwrap();
    assert!(wire.is_empty());
}
