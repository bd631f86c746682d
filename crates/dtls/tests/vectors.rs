//! What existing peers derive and what they sent: `transports-dtls.json`,
//! `transports-dtls-transcripts.json`.

use dtls::message::{
    CERTIFICATE, CERTIFICATE_VERIFY, CLIENT_HELLO, CLIENT_KEY_EXCHANGE, FINISHED, SERVER_HELLO,
    SERVER_KEY_EXCHANGE, ServerKeyExchange, Signature, fragment, parse_certificate, whole,
};
use dtls::protection::OpeningKey;
use dtls::record::{ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE};
use dtls::schedule::{MasterSecret, Sender, Suite};
use dtls::{Config, Connection, Identity, Peek, PeerKey, hello, peek, record};
use keys::SharedSecret;
use keys::dtls::{CertificateSeed, CertificateSeeds, client_hello_random};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::time::Instant;
use vectors::{Tally, Value, hex, load};

/// 2026-11-21, the day on which the recorded certificates begin.
const RECORDED_DAY: u64 = 20_778 * 86_400;

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn secret(value: &Value) -> SharedSecret {
    SharedSecret::new(&hex(value))
}

/// The public key as it stands in a certificate.
fn point(expect: &Value) -> Vec<u8> {
    [&[4][..], &hex(&expect["public_x"]), &hex(&expect["public_y"])].concat()
}

fn derived(seed: &CertificateSeed, expect: &Value) {
    assert_eq!(seed.private.as_slice(), hex(&expect["d"]));
    assert_eq!(seed.name, expect["common_name"].as_str().unwrap());
    let digits: String = seed.serial.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digits.trim_start_matches('0'), expect["serial_hex"].as_str().unwrap());
    let certificate = Identity::new(seed, RECORDED_DAY).unwrap();
    let holds =
        |bytes: &[u8]| certificate.certificate().windows(bytes.len()).any(|window| window == bytes);
    assert!(holds(&point(expect)), "the public key");
    assert!(PeerKey::new(seed).unwrap().certifies(certificate.certificate()));
}

#[test]
fn seeds_give_random_keys_and_names() {
    let mut tally = Tally::new("transports-dtls.json");
    for case in list(&load("transports-dtls.json")["certificates"]) {
        let secret = secret(&case["seed"]);
        let tag = client_hello_random(&secret);
        assert_eq!(tag.as_slice(), hex(&case["client_hello_random_28"]));
        let seeds = CertificateSeeds::new(&secret);
        derived(&seeds.client, &case["client"]);
        derived(&seeds.server, &case["server"]);
        tally.pass();
    }
    tally.finish();
}

/// What is signed of a certificate, with its length stripped of what the signature's own changes.
fn to_be_signed(certificate: &[u8]) -> &[u8] {
    let len = usize::from(u16::from_be_bytes([certificate[6], certificate[7]]));
    &certificate[4..8 + len]
}

#[test]
fn recorded_certificates_are_signed_by_and_equal_to_ours() {
    let mut tally = Tally::new("transports-dtls-transcripts.json");
    for case in list(&load("transports-dtls-transcripts.json")["sample_certificates"]) {
        let seeds = CertificateSeeds::new(&secret(&case["seed"]));
        let expect = |name: &str| case["expect"][name].as_bool().unwrap();
        let client = hex(&case["client_certificate_der"]);
        let server = hex(&case["server_certificate_der"]);
        let client_key = PeerKey::new(&seeds.client).unwrap();
        let server_key = PeerKey::new(&seeds.server).unwrap();
        assert_eq!(client_key.signed(&client), expect("client_der_under_client_key"));
        assert_eq!(server_key.signed(&client), expect("client_der_under_server_key"));
        assert_eq!(server_key.signed(&server), expect("server_der_under_server_key"));
        assert!(client_key.certifies(&client) && server_key.certifies(&server));
        // Ours differs in nothing but its signature.
        for (seed, recorded) in [(&seeds.client, &client), (&seeds.server, &server)] {
            let ours = Identity::new(seed, RECORDED_DAY).unwrap();
            assert_eq!(to_be_signed(ours.certificate()), to_be_signed(recorded));
        }
        tally.pass();
    }
    tally.finish();
}

#[test]
fn our_first_datagram_is_the_recorded_one() {
    let mut tally = Tally::new("transports-dtls-transcripts.json");
    for transcript in list(&load("transports-dtls-transcripts.json")["transcripts"]) {
        let recorded = hex(&transcript["datagrams"][0]["hex"]);
        let Peek::Hello(random) = peek(&recorded) else { panic!("not a hello") };
        let secret = secret(&transcript["psk"]);
        assert_eq!(random.tag(), &client_hello_random(&secret));
        let config = Config::client(&secret, random.unix_time().into());
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        let mut out = Vec::new();
        assert!(Connection::new(config, Instant::now(), rng).poll_transmit(&mut out));
        assert_eq!(out, recorded);
        tally.pass();
    }
    tally.finish();
}

/// One side of a recorded session.
struct Side {
    sender: Sender,
    opening: OpeningKey,
}

/// A recorded session, read record by record.
struct Reading {
    suite: Suite,
    master: MasterSecret,
    seeds: CertificateSeeds,
    randoms: Option<([u8; 32], [u8; 32])>,
    transcript: Vec<u8>,
    signatures: usize,
    finished: usize,
    closes: usize,
    records: usize,
}

impl Reading {
    fn peer(&self, sender: Sender) -> PeerKey {
        PeerKey::new(match sender {
            Sender::Client => &self.seeds.client,
            Sender::Server => &self.seeds.server,
        })
        .unwrap()
    }

    /// Takes one handshake message and checks all that it claims.
    fn message(&mut self, sender: Sender, bytes: &[u8]) {
        let (header, body) = fragment(bytes).expect("a whole message");
        assert_eq!(body.len(), header.len);
        match header.kind {
            CLIENT_HELLO => {
                let random = body[2..34].try_into().unwrap();
                self.randoms = Some((random, [0; 32]));
            }
            SERVER_HELLO => {
                let (random, suite) = hello::parse_server_hello(body).unwrap();
                self.suite = suite;
                self.randoms.as_mut().unwrap().1 = random;
            }
            CERTIFICATE => {
                assert!(self.peer(sender).certifies(parse_certificate(body).unwrap()));
            }
            SERVER_KEY_EXCHANGE => {
                let exchange = ServerKeyExchange::parse(body).unwrap();
                assert_eq!((exchange.group, exchange.public.len()), (29, 32));
                let (client, server) = self.randoms.unwrap();
                let Signature { scheme, bytes } = exchange.signature;
                assert!(self.peer(sender).verify(
                    scheme,
                    &exchange.signed(&client, &server),
                    bytes
                ));
                self.signatures += 1;
            }
            CERTIFICATE_VERIFY => {
                let Signature { scheme, bytes } = Signature::parse(body).unwrap();
                assert!(self.peer(sender).verify(scheme, &self.transcript, bytes));
                self.signatures += 1;
            }
            FINISHED => {
                let expect = match sender {
                    Sender::Client => self.suite.client_finished(&self.master, &self.transcript),
                    Sender::Server => self.suite.server_finished(&self.master, &self.transcript),
                };
                assert_eq!(body, expect);
                self.finished += 1;
            }
            _ => {}
        }
        self.transcript.extend_from_slice(&whole(header.kind, header.sequence, body));
        assert!(header.kind != CLIENT_KEY_EXCHANGE || self.finished == 0);
    }

    fn side(&self, sender: Sender) -> Side {
        let (client, server) = self.randoms.unwrap();
        let opening = self.suite.keys(&self.master, &client, &server).opening(sender);
        Side { sender, opening }
    }
}

#[test]
fn recorded_sessions_decrypt_and_verify() {
    let mut tally = Tally::new("transports-dtls-transcripts.json");
    for session in list(&load("transports-dtls-transcripts.json")["transcripts"]) {
        let keylog: Vec<&str> = session["nss_keylog"].as_str().unwrap().split(' ').collect();
        let master = vectors::hex(&keylog[2].into());
        let mut reading = Reading {
            suite: Suite::Aes256GcmSha384,
            master: MasterSecret::new(master.try_into().unwrap()),
            seeds: CertificateSeeds::new(&secret(&session["psk"])),
            randoms: None,
            transcript: vec![],
            signatures: 0,
            finished: 0,
            closes: 0,
            records: 0,
        };
        let dials = |who: &str| (who == "station") == (session["station_dtls_role"] == "client");
        let mut sides: Vec<Side> = vec![];
        let mut data: Vec<(String, Vec<u8>)> = vec![];
        for datagram in list(&session["datagrams"]) {
            let mut bytes = hex(&datagram["hex"]);
            let way = datagram["dir"].as_str().unwrap();
            let sender = match dials(way.split_once("->").unwrap().0) {
                true => Sender::Client,
                false => Sender::Server,
            };
            let mut rest = &mut bytes[..];
            while let Some((header, body)) = record::next(&mut rest) {
                reading.records += 1;
                if header.epoch == 0 {
                    match header.content {
                        HANDSHAKE => reading.message(sender, body),
                        content => assert_eq!((content, &*body), (CHANGE_CIPHER_SPEC, &[1][..])),
                    }
                    continue;
                }
                if sides.is_empty() {
                    sides = [Sender::Client, Sender::Server].map(|s| reading.side(s)).into();
                }
                let side = sides.iter().find(|side| side.sender == sender).unwrap();
                let payload = side.opening.open(header, body).expect("the record opens");
                match header.content {
                    HANDSHAKE => reading.message(sender, payload),
                    APPLICATION_DATA => data.push((way.into(), payload.to_vec())),
                    content => {
                        assert_eq!((content, &*payload), (ALERT, &[1, 0][..]), "close_notify");
                        reading.closes += 1;
                    }
                }
            }
            assert!(rest.is_empty());
        }
        assert_eq!((reading.signatures, reading.finished, reading.closes), (2, 2, 2));
        assert_eq!(reading.suite, Suite::Aes128GcmSha256);
        let packets: Vec<(String, Vec<u8>)> = list(&session["sctp_packets"])
            .iter()
            .map(|packet| (packet["dir"].as_str().unwrap().into(), hex(&packet["hex"])))
            .collect();
        // One session was closed before its last packet, a RE-CONFIG, was sent.
        let (sent, unsent) = packets.split_at(data.len());
        assert_eq!(data, sent);
        assert!(unsent.iter().all(|(_, packet)| packet[12] == 0x82) && unsent.len() <= 1);
        assert!(reading.records > 20);
        tally.pass();
    }
    tally.finish();
}
