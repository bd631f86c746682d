//! Whatever a program may make of a client or a secret is found, and what only looks like one is not.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use records::Marker;
use records::search::{Needles, Part};

const SECRET: [u8; 32] = *b"\x9d\x5e\xc3\xe7 a secret that is not told\xf1\xf2";

fn found(marker: &Marker, text: impl AsRef<[u8]>) -> bool {
    let needles = Needles::new(vec![marker.clone()]).unwrap();
    !needles.find(text.as_ref()).is_empty()
}

fn client(address: &str) -> Marker {
    Marker::Client(address.parse().unwrap())
}

#[test]
fn an_ipv4_client_in_every_form() {
    let marker = client("203.0.113.77");
    let IpAddr::V4(address) = "203.0.113.77".parse().unwrap() else { panic!() };
    let octets = address.octets();
    for text in [
        format!("from {address}:4242 to"),
        format!("from [{}]:4242", address.to_ipv6_mapped()),
        format!("{:?}", std::net::SocketAddr::from((address, 9))),
        "[::ffff:cb00:714d]:4242".to_owned(),
        "64:ff9b::ffff:cb00:714d".to_owned(),
        "77.113.0.203.in-addr.arpa.".to_owned(),
        format!("{octets:?}"),
        "phantom=[203 0 113 77]".to_owned(),
        format!("address={}", u32::from(address)),
        format!("address={}", u32::from_le_bytes(octets)),
        format!("{octets:02x?}"),
        format!("{:#x}", u32::from(address)),
        "4D7100CB:1092 0100007F:1F90".to_owned(),
        "registration_address: \"\\313\\000qM\"".to_owned(),
        "Some(b\"\\xcb\\0qM\")".to_owned(),
        "{\"address\":\"ywBxTQ==\"}".to_owned(),
        "payload=22040a04cb00714d30".to_owned(),
    ] {
        assert!(found(&marker, &text), "{text}");
    }
    for other in ["203.0.113.7", "203.0.113.770", "1203.0.113.77", "count=13405803853", "AywBxTQ"] {
        assert!(!found(&marker, other), "{other}");
    }
}

#[test]
fn an_ipv6_client_in_every_form() {
    let marker = client("2001:db8:5::1");
    for text in [
        "[2001:db8:5::1]:443",
        "2001:db8:5:0:0:0:0:1",
        "2001:0DB8:0005:0000:0000:0000:0000:0001",
        "20010db8000500000000000000000001",
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
        "[32, 1, 13, 184, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]",
        "IAENuAAFAAAAAAAAAAAAAQ==",
    ] {
        assert!(found(&marker, text), "{text}");
    }
    let number = u128::from("2001:db8:5::1".parse::<std::net::Ipv6Addr>().unwrap());
    assert!(found(&marker, number.to_string()));
    for other in ["2001:db8:5::10", "2001:db8:5::", "12001:db8:5::1", "2001:db8:5:1::1"] {
        assert!(!found(&marker, other), "{other}");
    }
}

#[test]
fn a_secret_in_every_form_and_in_pieces() {
    let marker = Marker::Shared(SECRET.to_vec());
    let base64 = data_encoding::BASE64.encode(&[&b"before"[..], &SECRET].concat());
    let base32 = data_encoding::BASE32.encode(&[&b"a"[..], &SECRET].concat()).to_lowercase();
    let piece: String = SECRET[16..24].iter().map(|byte| format!("{byte:02x}")).collect();
    for text in [
        format!("{SECRET:?}"),
        format!("{SECRET:02x?}"),
        format!("{SECRET:02X?}"),
        SECRET.escape_ascii().to_string(),
        String::from_utf8_lossy(&SECRET).into_owned(),
        format!("{{\"secret\":\"{base64}\"}}"),
        format!("{base32}.t.example."),
        piece,
    ] {
        assert!(found(&marker, &text), "{text}");
    }
    assert!(found(&marker, [&b"raw "[..], &SECRET].concat()));
    // The first bytes are the registration's name, which may be told.
    assert!(!found(&marker, "registration 9d5ec3e720612073"));
    // Where a secret repeats its name, the whole rest is what is searched for.
    let repeats = Marker::Shared(vec![0xa1; 32]);
    assert!(!found(&repeats, "a1".repeat(8)) && found(&repeats, "a1".repeat(32)));
    let spaces = Marker::Shared(vec![b' '; 32]);
    assert!(!found(&spaces, " ".repeat(40)) && found(&spaces, "20".repeat(32)));
    let key = Marker::Secret("key".to_owned(), vec![0x11; 32]);
    assert!(!found(&key, "name 1111111111111111") && found(&key, "1".repeat(64)));
    // RFC 32 of ZeroMQ.
    let key = Marker::Secret("key".to_owned(), b"\x86\x4f\xd2\x6f\xb5\x59\xf7\x5b".to_vec());
    assert!(found(&key, "HelloWorld") && !found(&key, "helloworld"));
}

#[test]
fn a_hit_has_its_line() {
    let needles = Needles::new(vec![client("10.10.1.2"), client("10.10.1.9")]).unwrap();
    let text = b"one\ntwo 10.10.1.2 and 10.10.1.2\n\nfour 10.10.1.2\nfive 10.10.1.9";
    let hits = needles.find(text);
    let lines: Vec<(usize, &str)> = hits.iter().map(|hit| (hit.line, &*hit.text)).collect();
    let wanted = [(2, "two 10.10.1.2 and 10.10.1.2"), (4, "four 10.10.1.2"), (5, "five 10.10.1.9")];
    assert_eq!(lines, wanted);
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_part_that_proves_nothing_has_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let part = dir.path().join("run");
    std::fs::create_dir(&part).unwrap();
    assert_eq!(Part::search(&part).unwrap().faults().len(), 3);
    write(&part, "markers", "client 10.10.1.2\nshared 0102030405060708090a0b0c0d0e0f10\n");
    assert_eq!(Part::search(&part).unwrap().faults(), ["run: nothing was written"]);
    write(&part, "hidden/daemon-0.log", "all is well\n");
    assert!(Part::search(&part).unwrap().faults().is_empty());
    // A daemon that was told to show clients has to be caught at it.
    write(&part, "shown/daemon-0.log", "no client\n");
    assert_eq!(Part::search(&part).unwrap().faults().len(), 1);
    write(&part, "shown/daemon-0.log", "from 10.10.1.2\n");
    let good = Part::search(&part).unwrap();
    assert_eq!((good.found(), good.faults().len()), ([0, 0], 0));
    // One line may name a client, but no secret.
    let report = "[REG] Dropping reg, malformed or blocklisted covert: 0102, 10.10.1.2 -> x\n";
    write(&part, "hidden/abuse-0.log", report);
    let good = Part::search(&part).unwrap();
    assert_eq!((good.found(), good.reports), ([0, 0], 1));
    // It must keep secrets even so.
    write(&part, "shown/daemon-1.log", "from 10.10.1.2 090a0b0c0d0e0f10\n");
    write(&part, "hidden/daemon-1.log", "\nfrom 10.10.1.2\n");
    let bad = Part::search(&part).unwrap();
    assert_eq!(bad.found(), [1, 1], "{bad}");
    assert!(bad.to_string().contains("daemon-1.log:2: client address (dotted): from 10.10.1.2"));
}

#[test]
fn the_program_fails_when_it_finds_something_or_has_nothing_to_search() {
    let dir = tempfile::tempdir().unwrap();
    let run = |parts: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_leaks")).arg(dir.path()).args(parts).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    };
    let (code, said) = run(&[]);
    assert!(code == 66 && said.contains("holds no records"), "{code}: {said}");
    write(&dir.path().join("run"), "markers", "client 10.10.1.2\nsecret 0102030405060708 key\n");
    write(&dir.path().join("run"), "hidden/daemon-0.log", "all is well\nand more\n");
    let (code, said) = run(&[]);
    assert!(
        code == 0 && said.contains("1 files, 2 lines: 0 client addresses, 0 secrets"),
        "{said}"
    );
    let (code, said) = run(&["run", "test"]);
    assert!(code == 66 && said.contains("test: nothing was written"), "{code}: {said}");
    write(&dir.path().join("run"), "hidden/metrics-0.log", "key 01:02:03:04:05:06:07:08\n");
    let (code, said) = run(&["run"]);
    assert!(code == 1 && said.contains("metrics-0.log:1: key (hex)"), "{code}: {said}");
}
