//! What a stranger sends to an obfs4 registration, and what a peer sends in an open tunnel.
#![no_main]

use std::time::Duration;

use keys::{ClientVersion, SharedSecret};
use libfuzzer_sys::fuzz_target;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use transports::obfs4::{
    Client, MarkSearch, MarkVerdict, Progress, ReplayFilter, Server, ServerIdentity,
};

const NOW: Duration = Duration::from_secs(1_800_000_000);

fuzz_target!(|input: &[u8]| {
    let Some((&mode, bytes)) = input.split_first() else { return };
    let rng = &mut ChaCha20Rng::seed_from_u64(u64::from(mode));
    let keys = SharedSecret::new(b"a secret").session_keys(ClientVersion::CURRENT).obfs4();
    let identity = ServerIdentity::new(keys);
    let mut replays = ReplayFilter::new(rng);
    let (mut client, hello) = Client::start(identity.shared().clone(), NOW, rng);
    let mut out = Vec::new();
    match mode % 4 {
        // Bytes of a stranger, and a handshake that was changed.
        0 | 1 => {
            let mut received = if mode % 4 == 0 { Vec::new() } else { hello };
            let len = received.len();
            for (at, byte) in bytes.iter().enumerate() {
                match received.get_mut(len.wrapping_sub(1 + at)) {
                    Some(place) => *place ^= byte,
                    None => received.push(*byte),
                }
            }
            let mut search = MarkSearch::new();
            let verdict = search.offer(&received, |_, each| each(1, identity.shared(), ()));
            if verdict == MarkVerdict::Found(()) {
                let accepted = Server::accept(&identity, &received, NOW, &mut replays, rng);
                assert!(accepted.is_err() || bytes.iter().all(|byte| *byte == 0));
            }
        }
        // An answer that was changed, and a tunnel.
        _ => {
            let (mut server, mut reply) =
                Server::accept(&identity, &hello, NOW, &mut replays, rng).expect("a handshake");
            if mode % 4 == 2 {
                for (place, byte) in reply.iter_mut().zip(bytes) {
                    *place ^= byte;
                }
                let _ = client.receive(&reply, rng, &mut out);
                return;
            }
            let open = client.receive(&reply, rng, &mut out).expect("an answer");
            assert_eq!(open, Progress::Open);
            let _ = server.receive(bytes, NOW, rng, &mut out);
            let _ = client.receive(bytes, rng, &mut out);
            assert!(out.is_empty(), "nothing of a stranger is opened");
        }
    }
});
