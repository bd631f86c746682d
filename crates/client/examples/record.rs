//! The tag of a decoy registration, for peers written elsewhere: `record make STATION_PUBLIC_HEX`
//! prints a tagged TLS record under a random keystream and its shared secret;
//! `record open STATION_PRIVATE_HEX RECORD_HEX` prints the secret that the station finds.

use std::process::ExitCode;

use keys::StationKey;
use rand::Rng;
use signalling::{ClientToStation, Message};
use tag::{NewTag, TagChecker};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["make", public] => make(public),
        ["open", private, record] => open(private, record),
        _ => None,
    };
    if done.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn make(public: &str) -> Option<()> {
    let public: [u8; 32] = bytes(public)?.try_into().ok()?;
    let message = ClientToStation {
        client_lib_version: Some(4),
        covert_address: Some("192.0.2.7:443".to_owned()),
        v4_support: Some(true),
        ..Default::default()
    };
    let mut rng = rand::rng();
    let tag = NewTag::new(&public, &message.encode_to_vec(), &mut rng).ok()?;
    let head = tag::request_head("decoy.example", &mut rng);
    let mut keystream = vec![0; head.len() + tag.stego_len() + 4];
    rng.fill_bytes(&mut keystream);
    let plaintext = tag.request(head.as_bytes(), &keystream)?;
    let ciphertext = plaintext.iter().zip(&keystream).map(|(byte, key)| byte ^ key);
    let len = u16::try_from(8 + plaintext.len() + 16).ok()?;
    let mut record = vec![0x17, 3, 3];
    record.extend(len.to_be_bytes());
    record.extend(1u64.to_be_bytes());
    record.extend(ciphertext);
    record.extend([0; 16]);
    println!("{}", hex(&record));
    println!("{}", hex(tag.shared_secret().expose()));
    Some(())
}

fn open(private: &str, record: &str) -> Option<()> {
    let key = StationKey::from_file(&bytes(private)?).ok()?;
    let tag = TagChecker::new(vec![key]).check(&bytes(record)?).ok()?;
    println!("{}", hex(&*tag.shared_secret));
    Some(())
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
