//! `registrar-dns-codec.json`, `registrar-noise.json`, `registrar-dns-exchange.json` and
//! `registrar-dns-legacy.json`. What a registrar itself decides is taken from the cases here; the
//! registrar has a test of its own that decides.

use std::time::Duration;

use registration::dns::{
    Asked, Name, Over, Parts, PartsLimits, Read, Responder, base32, frame, noise, read_reply,
    retry, split, weights,
};
use signalling::Message as _;
use vectors::{Tally, Value, hex, load};

const CODEC: &str = "registrar-dns-codec.json";

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn cases<'a>(file: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    file[name].as_array().unwrap().iter()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    hex(value).try_into().expect("the right length")
}

/// A name with escapes is compared as printed, another as parsed too.
#[test]
fn names() {
    let file = load(CODEC);
    let mut tally = Tally::new(CODEC);
    for case in cases(&file, "names") {
        let labels: Vec<Vec<u8>> = cases(case, "labels").map(hex).collect();
        match Name::from_labels(labels.iter().map(|label| &label[..])) {
            Ok(name) => {
                assert_eq!(case["ok"], true, "{case}");
                if let Some(printed) = case["text"].as_str() {
                    assert_eq!(name.to_string(), printed);
                }
                assert_eq!(name.wire(), hex(&case["wire"]));
                assert_eq!(Name::read(name.wire(), 0).unwrap(), (name.clone(), name.wire().len()));
            }
            Err(error) => assert_eq!(error.to_string(), text(&case["error"]), "{case}"),
        }
        tally.pass();
    }
    for case in cases(&file, "strip_suffix") {
        let name = Name::parse(text(&case["name"])).unwrap();
        let rest = name.strip_zone(&Name::parse(text(&case["suffix"])).unwrap());
        assert_eq!(rest.map(|rest| rest.to_string()).as_deref(), case["rest"].as_str(), "{case}");
        tally.pass();
    }
    for case in cases(&file, "read_name") {
        let start = case["start"].as_u64().unwrap() as usize;
        match Name::read(&hex(&case["input"]), start) {
            Ok((name, end)) => {
                assert_eq!(name.to_string(), text(&case["text"]), "{case}");
                assert_eq!(end as u64, case["end"].as_u64().unwrap());
            }
            Err(error) => assert_eq!(error.to_string(), text(&case["error"]), "{case}"),
        }
        tally.pass();
    }
    tally.finish();
}

#[test]
fn labels_strings_and_frames() {
    let file = load(CODEC);
    let mut tally = Tally::new(CODEC);
    for case in cases(&file, "base32_decode_lenient") {
        let decoded = base32::decode(text(&case["text"]).bytes());
        assert_eq!(decoded, (case["ok"] == true).then(|| hex(&case["data"])), "{case}");
        tally.pass();
    }
    for case in cases(&file, "pack") {
        let zone = Name::parse(text(&case["domain"])).unwrap();
        let packed = base32::encode(&hex(&case["payload"]));
        let name = Name::from_labels(packed.chunks(63).chain(zone.labels()));
        assert_eq!(name.is_ok(), case["fits"].as_bool().unwrap_or(true), "{case}");
        if let Ok(name) = name {
            let labels: Vec<&str> = cases(case, "labels").map(text).collect();
            let found: Vec<&str> =
                name.labels().map(|label| std::str::from_utf8(label).unwrap()).collect();
            assert_eq!(found, labels);
            assert_eq!(name.wire().len() as u64, case["wire_len"].as_u64().unwrap());
        }
        tally.pass();
    }
    for case in cases(&file, "txt_encode") {
        let length = case["payload_len"].as_u64().unwrap() as usize;
        let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let rdata = frame::txt(&payload);
        assert_eq!(rdata.len() as u64, case["rdata_len"].as_u64().unwrap());
        use sha2::Digest as _;
        assert_eq!(sha2::Sha256::digest(&rdata)[..], hex(&case["rdata_sha256"]));
        if let Some(whole) = case["rdata"].as_str() {
            assert_eq!(::hex::encode(&rdata), whole);
        }
        assert_eq!(frame::read_txt(&rdata), Some(payload));
        tally.pass();
    }
    for case in cases(&file, "txt_decode_errors") {
        assert_eq!(frame::read_txt(&hex(case)), None, "{case}");
        tally.pass();
    }
    for case in cases(&file, "txt_decode_ok") {
        assert_eq!(frame::read_txt(&hex(&case["rdata"])), Some(hex(&case["data"])));
        tally.pass();
    }
    for case in cases(&file, "request_frame") {
        assert_eq!(frame::request(&hex(&case["data"])), Some(hex(&case["framed"])));
        tally.pass();
    }
    for case in cases(&file, "response_frame") {
        assert_eq!(frame::reply(&hex(&case["data"])), Some(hex(&case["framed"])));
        tally.pass();
    }
    for (name, read) in [
        ("request_unframe", frame::read_request as fn(&[u8]) -> Option<&[u8]>),
        ("response_unframe", frame::read_reply),
    ] {
        for case in cases(&file, name) {
            let expected = case["out"].as_str().map(|_| hex(&case["out"]));
            assert_eq!(read(&hex(&case["in"])).map(<[u8]>::to_vec), expected, "{name} {case}");
            tally.pass();
        }
    }
    for case in cases(&file, "chunks") {
        let number = |name: &str| case[name].as_u64().unwrap() as usize;
        let zone = Name::parse("r.example.com").unwrap();
        let whole = vec![7; number("len")];
        let parts = split(&whole, number("mtu"), &zone, &[1; 8]).unwrap().parts;
        let sizes: Vec<usize> =
            cases(case, "sizes").map(|n| n.as_u64().unwrap() as usize).collect();
        // A part is 16 bytes longer than its data while all numbers fit one byte.
        assert_eq!(parts.iter().map(|part| part.len() - 16).collect::<Vec<_>>(), sizes);
        tally.pass();
    }
    tally.finish();
}

#[test]
fn what_clients_read_in_headers_and_configurations() {
    let file = load(CODEC);
    let mut tally = Tally::new(CODEC);
    // Dates of the file as HTTP writes them.
    let seconds = |date: &str| match date {
        "2000-01-01T06:00:00Z" => 946_706_400,
        "2000-01-01T06:01:40Z" => 946_706_500,
        "1999-12-31T23:59:59Z" => 946_684_799,
        other => panic!("{other}"),
    };
    let now = seconds(text(&file["retry_after"]["now"]));
    for case in cases(&file["retry_after"], "cases") {
        let at = retry::retry_after(text(&case[0]), now);
        assert_eq!(at, case[1].as_str().map(seconds), "{case}");
        tally.pass();
    }
    for case in cases(&file["weighted_list"], "ok") {
        let (given, labels) = weights::parse(text(&case[0])).unwrap().into_iter().unzip();
        let _: (&Vec<u32>, &Vec<String>) = (&given, &labels);
        assert_eq!(vectors::json!([given, labels]), vectors::json!([case[1], case[2]]));
        tally.pass();
    }
    for case in cases(&file["weighted_list"], "error") {
        assert!(weights::parse(text(case)).is_err(), "{case}");
        tally.pass();
    }
    tally.finish();
}

#[test]
fn noise_handshakes() {
    const FILE: &str = "registrar-noise.json";
    let file = load(FILE);
    let mut tally = Tally::new(FILE);
    for case in ["published", "registrar"].iter().flat_map(|name| cases(&file, name)) {
        let private = array(&case["static_private"]);
        let public = array(&case["static_public"]);
        assert_eq!(keys::public_key(&private), public);
        let payload = hex(&case["payload"]);
        let (message, key) =
            noise::seal(&public, &array(&case["ephemeral_private"]), &payload).unwrap();
        assert_eq!(message, hex(&case["message"]));
        let opened = noise::StaticKey::new(&private).open(&message).unwrap();
        assert_eq!(opened.payload, payload);
        if case["reply_plain"].is_string() {
            let (plain, sealed) = (hex(&case["reply_plain"]), hex(&case["reply_cipher_k1_nonce0"]));
            assert_eq!(opened.reply.seal(&plain).unwrap(), sealed);
            assert_eq!(key.open(&sealed).unwrap(), plain);
        }
        tally.pass();
    }
    tally.finish();
}

/// Every query of both files that carries a plaintext is what our client would have sent, but for
/// the deliberate oddities; every reply to it opens.
#[test]
fn what_clients_send() {
    for name in ["registrar-dns-exchange.json", "registrar-dns-legacy.json"] {
        let file = load(name);
        let mut tally = Tally::new(name);
        let context = if file["context"].is_object() { &file["context"] } else { &file };
        let zone = Name::parse(text(&context["domain"])).unwrap();
        let to = keys::public_key(&array(&context["noise_static_private"]));
        for case in cases(&file, "cases") {
            let Some(_) = case["request_plaintext"].as_str() else { continue };
            let recorded = hex(&case["query"]);
            let id = u16::from_be_bytes([recorded[0], recorded[1]]);
            let plaintext = hex(&case["request_plaintext"]);
            let ephemeral = array(&case["ephemeral_private"]);
            let asked = Asked::seal(&zone, &to, &ephemeral, id, &plaintext).unwrap();
            let odd = [
                "upper case",
                "EDNS",
                "RD clear",
                "class CH",
                "trailing",
                "OPT",
                "opcode",
                "QR set",
                "type A",
            ];
            if !odd.iter().any(|word| text(&case["name"]).contains(word)) {
                assert_eq!(asked.query, recorded, "{}", case["name"]);
            }
            if let Some(plain) = case["response_plaintext"].as_str() {
                let reply = read_reply(&hex(&case["response"]), &zone).unwrap();
                assert_eq!(::hex::encode(asked.open(&reply).unwrap()), plain);
                if name.contains("exchange") {
                    assert!(asked.answer(&reply).is_some());
                }
            }
            tally.pass();
        }
        tally.finish();
    }
}

/// Every recorded query gets exactly the recorded reply, in the order of the file.
#[test]
fn what_a_responder_answers() {
    for name in ["registrar-dns-exchange.json", "registrar-dns-legacy.json"] {
        let file = load(name);
        let mut tally = Tally::new(name);
        let context = if file["context"].is_object() { &file["context"] } else { &file };
        let private = array(&context["noise_static_private"]);
        let responder = Responder::new(text(&context["domain"]), &private, true).unwrap();
        let mut parts = Parts::new(PartsLimits::default());
        for case in cases(&file, "cases") {
            let register = |_: &[u8]| {
                let plain = hex(&case["response_plaintext"]);
                if name.contains("legacy") {
                    return Some(plain);
                }
                signalling::DnsPartResp::decode(&plain[..]).unwrap().data
            };
            let reply = match responder.read(&hex(&case["query"]), Over::Udp) {
                Read::Nothing(_) => None,
                Read::Error(_, reply) => Some(reply),
                Read::Inquiry(inquiry) => inquiry
                    .payload
                    .offer(&mut parts, Duration::ZERO, register)
                    .and_then(|plain| inquiry.answer(&plain)),
            };
            let expected = case["response"].as_str();
            assert_eq!(reply.map(::hex::encode).as_deref(), expected, "{}", case["name"]);
            tally.pass();
        }
        tally.finish();
    }
}
