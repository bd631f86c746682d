//! Exchanges tags with another implementation, in hexadecimal digits.
//!
//! `peer create STATION_PUBLIC CLIENT_TO_STATION` prints a record and its shared secret;
//! `peer check STATION_PRIVATE RECORD` prints the shared secret and the `ClientToStation` found.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use keys::StationKey;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use rand_core::Rng;
use tag::{NewTag, TagChecker, request_head};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["create", public, message] => create(public, message),
        ["check", private, record] => check(private, record),
        _ => Err("usage: peer create PUBLIC MESSAGE | peer check PRIVATE RECORD".into()),
    };
    match outcome {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("peer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn key(text: &str) -> Result<[u8; 32], Failure> {
    hex::decode(text)?.try_into().map_err(|_| "a key has 32 bytes".into())
}

/// A record as a decoy would receive it, under a keystream that stands for its cipher.
fn create(public: &str, message: &str) -> Result<String, Failure> {
    // Distinct for each key and message; nothing here is secret.
    let mut seed = key(public)?;
    seed.iter_mut().zip(hex::decode(message)?.iter().cycle()).for_each(|(s, m)| *s ^= m);
    let mut rng = ChaCha20Rng::from_seed(seed);
    let tag = NewTag::new(&key(public)?, &hex::decode(message)?, &mut rng)?;
    let head = request_head("decoy.example", &mut rng);
    let mut keystream = vec![0; head.len() + tag.stego_len() + 4];
    rng.fill_bytes(&mut keystream);
    let plaintext = tag.request(head.as_bytes(), &keystream).ok_or("the keystream is short")?;
    // Explicit nonce before the ciphertext, AEAD tag after it.
    let length = u16::try_from(8 + plaintext.len() + 16)?.to_be_bytes();
    let mut record = vec![0x17, 3, 3, length[0], length[1], 0, 0, 0, 0, 0, 0, 0, 1];
    record.extend(plaintext.iter().zip(&keystream).map(|(p, k)| p ^ k));
    let mut end = [0; 16];
    rng.fill_bytes(&mut end);
    record.extend_from_slice(&end);
    Ok(format!("{} {}", hex::encode(record), hex::encode(tag.shared_secret().expose())))
}

fn check(private: &str, record: &str) -> Result<String, Failure> {
    let station = StationKey::from_private(&key(private)?)?;
    let tag = TagChecker::new(vec![station])
        .check(&hex::decode(record)?)
        .map_err(|reject| format!("no tag: {reject:?}"))?;
    Ok(format!("{} {}", hex::encode(*tag.shared_secret), hex::encode(&tag.client_to_station)))
}
