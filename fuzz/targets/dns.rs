//! Queries of strangers to the DNS registrar, and replies of resolvers to a client.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use registration::dns::{Asked, Name, Over, Parts, PartsLimits, Read, Responder, read_reply};

// The first byte chooses the reader: a query as it stands, a sealed payload of our own client (so
// that parts and registrations are reached), or a reply.
fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    let private = [9; 32];
    let Ok(zone) = Name::parse("r.example.com") else { return };
    let Ok(responder) = Responder::new("r.example.com", &private, choice & 4 == 0) else { return };
    let responder = responder.with_nodata(choice & 16 != 0);
    let query = match choice & 3 {
        0 => data.to_vec(),
        1 | 2 => {
            let public = keys::public_key(&private);
            let Some(asked) = Asked::seal(&zone, &public, &[3; 32], 7, data) else { return };
            asked.query
        }
        _ => {
            let text = read_reply(data, &zone);
            assert!(text.is_none_or(|text| text.len() <= data.len()));
            return;
        }
    };
    let over = if choice & 8 == 0 { Over::Udp } else { Over::Tcp };
    let mut parts = Parts::new(PartsLimits { ids: 3, bytes: 100, age: Duration::from_secs(1) });
    for second in 0..2 {
        if let Read::Inquiry(inquiry) = responder.read(&query, over) {
            let now = Duration::from_secs(second);
            if let Some(plain) =
                inquiry.payload.offer(&mut parts, now, |whole| Some(whole.to_vec()))
            {
                assert!(inquiry.answer(&plain).is_some());
            }
        }
        assert!(parts.len() <= 3 && parts.bytes() <= 100);
    }
});
