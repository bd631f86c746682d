//! Bytes that no client of ours sends: mutated handshakes, answers and streams never panic, never open
//! anything, and never make a side keep more than one handshake or one frame.
//!
//! `CONJURE_MUTATIONS=n` sets how many inputs are tried; 20,000 by default.

use std::time::Duration;

use keys::{ClientVersion, SharedSecret};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use transports::obfs4::{
    Client, MarkSearch, MarkVerdict, Progress, ReplayFilter, Server, ServerIdentity,
};

const NOW: Duration = Duration::from_secs(1_800_000_000);

fn identity() -> ServerIdentity {
    ServerIdentity::new(
        SharedSecret::new(b"a session").session_keys(ClientVersion::CURRENT).obfs4(),
    )
}

fn inputs() -> usize {
    std::env::var("CONJURE_MUTATIONS").map_or(20_000, |n| n.parse().unwrap())
}

fn below(limit: usize, rng: &mut ChaCha20Rng) -> usize {
    rng.next_u32() as usize % limit.max(1)
}

/// Changes, cuts, repeats or extends `bytes`.
fn mutated(bytes: &[u8], rng: &mut ChaCha20Rng) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=below(3, rng) {
        let at = below(out.len(), rng);
        match below(5, rng) {
            0 if !out.is_empty() => out[at] ^= 1 << below(8, rng),
            1 => out.truncate(at),
            2 => out.insert(at.min(out.len()), rng.next_u32() as u8),
            3 => {
                let piece: Vec<u8> = out[at.min(out.len())..].iter().take(64).copied().collect();
                out.extend(piece);
            }
            _ => {
                let mut tail = vec![0; below(2000, rng)];
                rng.fill_bytes(&mut tail);
                out.extend(tail);
            }
        }
    }
    out
}

#[test]
fn mutated_handshakes_are_never_accepted() {
    let mut rng = ChaCha20Rng::seed_from_u64(11);
    let identity = identity();
    let mut replays = ReplayFilter::new(&mut rng);
    let (_, hello) = Client::start(identity.shared().clone(), NOW, &mut rng);
    let mut found = 0;
    for _ in 0..inputs() {
        let received = mutated(&hello, &mut rng);
        if received == hello {
            continue;
        }
        let verdict = MarkSearch::new().offer(&received, |_, each| each(1, identity.shared(), ()));
        if verdict == MarkVerdict::Found(()) {
            found += 1;
            let accepted = Server::accept(&identity, &received, NOW, &mut replays, &mut rng);
            assert!(accepted.is_err());
        }
    }
    assert!(found > 0, "some mutations leave the mark alone");
    assert!(replays.is_empty(), "nothing but a verified MAC is remembered");
}

#[test]
fn mutated_answers_open_no_tunnel() {
    let mut rng = ChaCha20Rng::seed_from_u64(12);
    let identity = identity();
    let (client, hello) = Client::start(identity.shared().clone(), NOW, &mut rng);
    drop(client);
    let mut replays = ReplayFilter::new(&mut rng);
    let (_, reply) = Server::accept(&identity, &hello, NOW, &mut replays, &mut rng).unwrap();
    // The answer belongs to another handshake: no client may believe any form of it.
    for _ in 0..inputs() / 10 {
        let (mut client, _) = Client::start(identity.shared().clone(), NOW, &mut rng);
        let mut out = Vec::new();
        let progress = client.receive(&mutated(&reply, &mut rng), &mut rng, &mut out);
        assert_ne!(progress, Ok(Progress::Open));
        assert!(out.is_empty());
    }
}

#[test]
fn mutated_streams_deliver_only_what_was_sent() {
    let mut rng = ChaCha20Rng::seed_from_u64(13);
    let identity = identity();
    let sent: Vec<u8> = (0..5000u32).map(|n| (n % 251) as u8).collect();
    for _ in 0..inputs() / 10 {
        let (mut client, hello) = Client::start(identity.shared().clone(), NOW, &mut rng);
        let mut replays = ReplayFilter::new(&mut rng);
        let (mut server, reply) =
            Server::accept(&identity, &hello, NOW, &mut replays, &mut rng).unwrap();
        let mut out = Vec::new();
        client.receive(&reply, &mut rng, &mut out).unwrap();
        let mut wire = Vec::new();
        client.send(&sent, &mut rng, &mut wire).unwrap();
        let changed = mutated(&wire, &mut rng);
        let _ = server.receive(&changed, NOW, &mut rng, &mut out);
        assert!(sent.starts_with(&out), "{} bytes that nobody sent", out.len());
    }
}
