//! Rows of obfs4.

use std::hint::black_box;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use keys::{ClientVersion, SharedSecret};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::Sha256;
use transports::obfs4::{
    Client, ClientIdentity, MarkSearch, MarkVerdict, ReplayFilter, Server, ServerIdentity,
};

use crate::foreign;
use crate::measure::{Row, Side, nanoseconds, thread_time};

/// Bytes of a burst: what the relay reads at one time.
const BURST: usize = 32 * 1024;
/// Bursts of one measurement.
const ROUNDS: usize = 400;
/// Registrations on one phantom.
const REGISTRATIONS: usize = 10_000;
const NOW: Duration = Duration::from_secs(1_800_000_000);

/// Sealing and opening a burst with all framing.
pub(crate) fn relay() -> Row {
    let rng = &mut ChaCha20Rng::seed_from_u64(1);
    let identity = ServerIdentity::new(identity_keys(0));
    let (mut client, hello) = Client::start(identity.shared().clone(), NOW, rng);
    let (mut server, reply) =
        Server::accept(&identity, &hello, NOW, &mut ReplayFilter::new(rng), rng)
            .expect("a fresh handshake");
    let mut out = Vec::new();
    client.receive(&reply, rng, &mut out).expect("the answer to it");
    let mut data = vec![0; BURST];
    rng.fill_bytes(&mut data);
    let mut rng = rng.clone();
    let mut sealed = Vec::new();
    let ours: Side = Box::new(move || {
        let start = thread_time();
        for _ in 0..ROUNDS {
            sealed.clear();
            out.clear();
            server.send(&data, &mut rng, &mut sealed).expect("nonces are left");
            client.receive(&sealed, &mut rng, &mut out).expect("what was sealed");
            assert_eq!(out.len(), BURST);
        }
        (thread_time() - start).as_nanos() as f64 / ROUNDS as f64
    });
    Row {
        unit: "ns",
        baseline_name: "libsodium secretbox over 23 frames of 1,430 bytes",
        ours,
        baseline: foreign::c("secretbox.c", "sodium"),
        plausible: None,
    }
}

/// Finding the registration of one connection among many on its phantom.
pub(crate) fn identify() -> Row {
    let identities: Vec<ClientIdentity> =
        (0..REGISTRATIONS).map(|number| ClientIdentity::from(&identity_keys(number))).collect();
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let (_, hello) = Client::start(identities[REGISTRATIONS - 1].clone(), NOW, &mut rng);
    let keys: Vec<[u8; 52]> =
        (0..REGISTRATIONS).map(|number| identity_keys(number).identifier()).collect();
    let representative = *hello.first_chunk::<32>().expect("a handshake is longer");
    Row {
        unit: "ns",
        baseline_name: "10,000 times HMAC-SHA-256 with a key of 52 bytes",
        ours: nanoseconds(1, move || {
            let mut search = MarkSearch::new();
            let verdict = search.offer(&hello, |_, each| {
                for (number, identity) in (1..).zip(&identities) {
                    each(number, identity, number);
                }
            });
            assert_eq!(verdict, MarkVerdict::Found(REGISTRATIONS as u64));
        }),
        baseline: Ok(nanoseconds(1, move || {
            for key in &keys {
                let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("takes any key");
                mac.update(&representative);
                black_box(mac.finalize());
            }
        })),
        plausible: None,
    }
}

fn identity_keys(number: usize) -> keys::Obfs4Keys {
    SharedSecret::new(&number.to_be_bytes()).session_keys(ClientVersion::CURRENT).obfs4()
}
