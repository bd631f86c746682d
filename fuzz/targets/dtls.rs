//! Strangers at a DTLS connection: whatever they send at whatever moment, an open session stays open
//! and carries its data, nothing is answered to what is not authentic, and little is kept.
#![no_main]

use dtls::message::{ServerKeyExchange, Signature, fragment, parse_certificate};
use dtls::{Config, Connection, PeerKey, hello, peek};
use keys::SharedSecret;
use keys::dtls::CertificateSeeds;
use libfuzzer_sys::fuzz_target;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

struct Fixed {
    client: Config,
    server: Config,
    peer: PeerKey,
}

fn fixed() -> &'static Fixed {
    static FIXED: OnceLock<Fixed> = OnceLock::new();
    FIXED.get_or_init(|| {
        let secret = SharedSecret::new(b"fuzz");
        Fixed {
            client: Config::client(&secret, 1_795_600_000),
            server: Config::server(&secret, 1_795_600_000),
            peer: PeerKey::new(&CertificateSeeds::new(&secret).server).unwrap(),
        }
    })
}

/// Passes the datagrams of `from` on; how many there were.
fn pass(now: Instant, from: &mut Connection, to: &mut Connection) -> usize {
    let mut datagram = vec![];
    let mut count = 0;
    while from.poll_transmit(&mut datagram) {
        to.handle_datagram(now, &mut datagram, |_| panic!("there is no data yet"));
        count += 1;
    }
    count
}

/// The codecs by themselves.
fn parse(bytes: &[u8], peer: &PeerKey) {
    peek(bytes);
    if let Some((header, body)) = fragment(bytes) {
        assert!(header.offset + body.len() <= header.len);
    }
    assert!(!peer.certifies(bytes), "nobody can sign for it");
    let _ = parse_certificate(bytes).map(|certificate| assert!(certificate.len() < bytes.len()));
    let _ = hello::parse_server_hello(bytes);
    let _ = Signature::parse(bytes);
    if let Ok(exchange) = ServerKeyExchange::parse(bytes) {
        assert!(exchange.signed(&[0; 32], &[0; 32]).len() < 64 + bytes.len());
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&flags, mut bytes)) = bytes.split_first() else { return };
    let Fixed { client, server, peer } = fixed();
    if flags & 0x80 != 0 {
        return parse(bytes, peer);
    }
    let (now, mut rng) = (Instant::now(), ChaCha20Rng::seed_from_u64(flags.into()));
    let mut server = server.clone();
    server.verify_hello = flags & 0x40 != 0;
    let mut client = Connection::new(client.clone(), now, &mut rng);
    let mut server = Connection::new(server, now, &mut rng);
    // How far the handshake is when the strangers come.
    for step in 0..flags & 7 {
        let (from, to) = match step % 2 {
            0 => (&mut client, &mut server),
            _ => (&mut server, &mut client),
        };
        if pass(now, from, to) == 0 {
            break;
        }
    }
    let was_open = client.is_open() && server.is_open();
    let mut sent = 0;
    while let [high, low, rest @ ..] = bytes {
        let len = usize::from(u16::from_be_bytes([*high & 0x1f, *low])).min(rest.len());
        let mut datagram = rest[..len].to_vec();
        let victim = if high & 0x80 == 0 { &mut client } else { &mut server };
        victim.handle_datagram(now, &mut datagram, |_| panic!("nobody can seal"));
        let mut answer = vec![];
        while victim.poll_transmit(&mut answer) {
            sent += answer.len();
        }
        bytes = &rest[len..];
    }
    // A client's hello, a server's flight or a client's answer at most, each once.
    assert!(sent < 4000, "{sent} bytes of answers");
    if was_open {
        assert_eq!(sent, 0);
        for payload in [b"to the server", b"to the client"] {
            let mut datagram = vec![];
            let mut got = vec![];
            client.seal(payload, &mut datagram).unwrap();
            server.handle_datagram(now, &mut datagram, |data| got.extend_from_slice(data));
            assert_eq!(got, payload);
            std::mem::swap(&mut client, &mut server);
        }
    }
    for connection in [&mut client, &mut server] {
        connection.handle_timeout(now + Duration::from_secs(5));
        assert!(connection.is_open() || !was_open);
        assert_ne!(connection.is_open(), connection.is_closed());
        assert_eq!(connection.poll_timeout(), None);
    }
});
