//! Registration by decoy against a genuine TLS 1.2 server: what crosses the wire is a tagged record
//! to the station, and an ordinary HTTP request to the decoy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::{Channel, Client, ClientConf, Options, Transport};
use keys::{ClientVersion, KeyPair, SharedSecret, StationKey};
use phantoms::{Family, Group};
use rustls::pki_types::PrivateKeyDer;
use rustls::{CipherSuite, ServerConfig};
use signalling::{ClientToStation, Message, TransportType};
use tag::TagChecker;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const HOST: &str = "decoy.example";

/// A decoy that keeps what arrived: on the wire, and decrypted.
struct Decoy {
    port: u16,
    wire: Arc<Mutex<Vec<u8>>>,
    request: tokio::sync::oneshot::Receiver<Vec<u8>>,
}

async fn decoy(suite: CipherSuite, dir: &Path) -> Decoy {
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    std::fs::write(dir.join("roots.pem"), made.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|s| s.suite() == suite);
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();

    let behind = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let behind_address = behind.local_addr().unwrap();
    let (sender, request) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (stream, _) = behind.accept().await.unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut request = vec![0; 4096];
        let len = stream.read(&mut request).await.unwrap();
        request.truncate(len);
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        sender.send(request).unwrap();
    });

    // In front of it, a tap.
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = front.local_addr().unwrap().port();
    let wire = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&wire);
    tokio::spawn(async move {
        let (client, _) = front.accept().await.unwrap();
        let server = TcpStream::connect(behind_address).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let up = async {
            let mut bytes = vec![0; 4096];
            while let Ok(len) = from_client.read(&mut bytes).await {
                kept.lock().unwrap().extend_from_slice(&bytes[..len]);
                if len == 0 || to_server.write_all(&bytes[..len]).await.is_err() {
                    break;
                }
            }
        };
        let down = tokio::io::copy(&mut from_server, &mut to_client);
        tokio::join!(up, down).1.unwrap();
    });
    Decoy { port, wire, request }
}

/// The TLS records in `wire`.
fn records(wire: &[u8]) -> Vec<&[u8]> {
    let mut rest = wire;
    let mut records = Vec::new();
    while let [_, _, _, high, low, ..] = *rest {
        let len = 5 + usize::from(u16::from_be_bytes([high, low]));
        records.push(&rest[..len]);
        rest = &rest[len..];
    }
    records
}

fn conf(station: &KeyPair) -> ClientConf {
    let message = signalling::ClientConf {
        generation: Some(7),
        conjure_pubkey: Some(signalling::PubKey {
            key: Some(station.public_file().to_vec()),
            ..Default::default()
        }),
        phantom_subnets_list: Some(signalling::PhantomSubnetsList {
            weighted_subnets: vec![signalling::PhantomSubnets {
                weight: Some(1),
                subnets: vec!["192.0.2.0/24".to_owned(), "2001:db8::/64".to_owned()],
                randomize_dst_port: Some(true),
            }],
        }),
        decoy_list: Some(signalling::DecoyList {
            tls_decoys: vec![signalling::TlsDecoySpec {
                hostname: Some(HOST.to_owned()),
                ipv4addr: Some(u32::from(Ipv4Addr::LOCALHOST)),
                ..Default::default()
            }],
        }),
        ..Default::default()
    };
    ClientConf::from_message(&message).unwrap()
}

/// The phantoms that a station derives, independently of the client's own selection.
fn phantoms(secret: &[u8; 32], version: u32) -> (IpAddr, IpAddr) {
    let seed = SharedSecret::new(secret).session_keys(ClientVersion(version)).seed;
    let generation = phantoms::Generation::new(&[Group {
        weight: 1,
        subnets: Some(vec!["192.0.2.0/24".to_owned(), "2001:db8::/64".to_owned()]),
        randomize_dst_port: true,
    }]);
    let pick = generation.pick(seed.expose(), ClientVersion(version)).unwrap();
    let of = |family| pick.phantom(family).unwrap().address;
    (of(Family::V4), of(Family::V6))
}

async fn registers(suite: CipherSuite, transport: Transport, covert: &str) {
    let dir = tempfile::tempdir().unwrap();
    let decoy = decoy(suite, dir.path()).await;
    let station = KeyPair::generate(&mut rand::rng());
    let mut options = Options::new(Channel::Decoy, transport, covert.to_owned());
    options.decoy_port = decoy.port;
    options.roots = dir.path().join("roots.pem");
    let client = Client { conf: conf(&station), options };
    let session =
        tokio::time::timeout(Duration::from_secs(60), client.register()).await.unwrap().unwrap();

    let request = decoy.request.await.unwrap();
    assert!(request.starts_with(b"GET / HTTP/1.1\r\nHost: decoy.example\r\n"));
    assert!(request.ends_with(b"\r\n\r\n"), "the decoy sees a whole request head");
    assert!(request.len() <= 1179);

    let wire = decoy.wire.lock().unwrap().clone();
    let data: Vec<&[u8]> = records(&wire).into_iter().filter(|r| r[0] == 0x17).collect();
    assert_eq!(data.len(), 1, "one application record carries everything");
    assert_eq!(data[0][5..13], 1u64.to_be_bytes(), "explicit nonce: first after Finished");
    let key = StationKey::from_file(&station.private_file()[..]).unwrap();
    let tag = TagChecker::new(vec![key]).check(data[0]).expect("the station finds the tag");
    let message = ClientToStation::decode(&tag.client_to_station[..]).unwrap();
    assert_eq!(message.covert_address(), covert);
    assert_eq!(message.decoy_list_generation(), 7);
    assert_eq!(message.client_lib_version(), 4);
    let wanted = match transport {
        Transport::Min => TransportType::Min,
        Transport::Obfs4 => TransportType::Obfs4,
        Transport::Prefix(_) => TransportType::Prefix,
        Transport::Dtls { .. } => TransportType::Dtls,
    };
    assert_eq!(message.transport(), wanted);
    let (v4, v6) = phantoms(&tag.shared_secret, 4);
    assert_eq!(session.v4.unwrap().ip(), v4, "client and station agree on the phantom");
    assert_eq!(session.v6.unwrap().ip(), v6);
    assert_ne!(session.v6.unwrap().ip(), IpAddr::from(Ipv6Addr::UNSPECIFIED));

    let stranger = StationKey::from_file(&KeyPair::generate(&mut rand::rng()).private_file()[..]);
    assert!(TagChecker::new(vec![stranger.unwrap()]).check(data[0]).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_in_an_aes_128_record() {
    let suite = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    registers(suite, Transport::Min, "203.0.113.5:443").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_in_an_aes_256_record() {
    let suite = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384;
    registers(suite, Transport::Prefix(3), "a-rather-long-name-of-a-host.example.org:443").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_untrusted_decoy_and_a_decoy_that_is_not_there_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let decoy = decoy(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, dir.path()).await;
    let other = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    std::fs::write(dir.path().join("other.pem"), other.cert.pem()).unwrap();
    let station = KeyPair::generate(&mut rand::rng());
    let mut options = Options::new(Channel::Decoy, Transport::Min, "203.0.113.5:443".to_owned());
    options.decoy_port = decoy.port;
    options.roots = dir.path().join("other.pem");
    let client = Client { conf: conf(&station), options };
    let error = client.register().await.unwrap_err().to_string();
    assert!(error.contains("(decoy.example)") && error.contains("certificate"), "{error}");

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let mut client = client;
    client.options.decoy_port = free;
    let error = client.register().await.unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
}
