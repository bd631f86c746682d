//! What a session costs while it is idle, and what a stranger can make it cost.

mod network;

use allocation_counter::measure;
use dtls::message::{CERTIFICATE, MessageHeader};
use dtls::record::{HANDSHAKE, HEADER_LEN, Header};
use dtls::{Connection, Event};
use network::{configs, rng, secret};
use std::time::Instant;

/// Promised to whoever counts sessions: DTLS, without what is above it.
const IDLE: usize = 4096;
/// The two AES-GCM contexts, which the C library allocates out of sight of the counter.
const CONTEXTS: usize = 2 * 640;
/// Of a handshake that somebody floods with fragments.
const FLOODED: usize = 65_536;

/// Passes datagrams on until both are silent.
fn converse(now: Instant, client: &mut Connection, server: &mut Connection) {
    let mut datagram = vec![];
    loop {
        let mut silent = true;
        while client.poll_transmit(&mut datagram) {
            server.handle_datagram(now, &mut datagram, |_| {});
            silent = false;
        }
        while server.poll_transmit(&mut datagram) {
            client.handle_datagram(now, &mut datagram, |_| {});
            silent = false;
        }
        if silent {
            break;
        }
    }
}

#[test]
fn an_idle_session_is_small_and_data_allocates_nothing() {
    let (now, mut rng) = (Instant::now(), rng(1));
    let mut pair = None;
    let heap = measure(|| {
        let (client, server) = configs(&secret(1));
        let mut client = Connection::new(client, now, &mut rng);
        let mut server = Connection::new(server, now, &mut rng);
        converse(now, &mut client, &mut server);
        assert_eq!(client.poll_event(), Some(Event::Connected));
        assert_eq!(server.poll_event(), Some(Event::Connected));
        pair = Some((client, server));
    });
    let (mut client, mut server) = pair.unwrap();
    let heap = usize::try_from(heap.bytes_current).unwrap() / 2;
    let each = heap + size_of::<Connection>() + CONTEXTS;
    println!("dtls: {each} bytes per idle session, {} of them inline", size_of::<Connection>());
    assert!(each < IDLE, "{each} bytes");

    let (mut out, payload, mut got) = (Vec::with_capacity(2000), [7; 1228], 0);
    let data = measure(|| {
        for _ in 0..1000 {
            out.clear();
            client.seal(&payload, &mut out).unwrap();
            server.handle_datagram(now, &mut out, |data| got += data.len());
        }
    });
    assert_eq!((got, data.count_total), (1_228_000, 0));
}

#[test]
fn fragments_of_strangers_do_not_pile_up() {
    let (client, server) = configs(&secret(2));
    let (now, mut rng) = (Instant::now(), rng(2));
    let mut fragments = vec![];
    for sequence in 0..200u16 {
        for len in [10u32, 4096, 4097, 100_000, 0xff_ffff] {
            for offset in [0, 3, 4000] {
                let body = [
                    &[CERTIFICATE][..],
                    &len.to_be_bytes()[1..],
                    &sequence.to_be_bytes(),
                    &u32::to_be_bytes(offset)[1..],
                    &[0, 0, 5, 1, 2, 3, 4, 5],
                ]
                .concat();
                assert_eq!(body.len(), MessageHeader::LEN + 5);
                let header = Header { content: HANDSHAKE, epoch: 0, number: 0 };
                fragments.push([&header.encode(17)[..], &body].concat());
                let mut sealed = vec![0x5c; HEADER_LEN + 3000];
                let header = Header { content: HANDSHAKE, epoch: 1, number: sequence.into() };
                sealed[..HEADER_LEN].copy_from_slice(&header.encode(3000));
                fragments.push(sealed);
            }
        }
    }
    for config in [client, server] {
        let mut held = None;
        let heap = measure(|| {
            let mut connection = Connection::new(config, now, &mut rng);
            for fragment in &mut fragments {
                connection.handle_datagram(now, fragment, |_| panic!("no data"));
            }
            held = Some(connection);
        });
        println!("dtls: a flooded handshake holds {} bytes at most", heap.bytes_max);
        assert!(heap.bytes_max < FLOODED as u64, "{} bytes", heap.bytes_max);
        assert!(held.unwrap().discarded().count > 1000);
    }
}
