//! Registration over HTTP with the real registrar and a real subscriber, and connections to
//! listeners in the place of phantoms.

mod stage;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use client::{Channel, Client, ClientConf, Families, Options, Session, Transport};
use keys::{SharedSecret, StationKey};
use signalling::RegistrationSource;
use stage::{PHANTOMS, Stage};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use transports::prefix::PrefixTable;
use transports::{Identification, Registered, Verdict};

impl Stage {
    async fn new(overrides: &str) -> Self {
        Self::with(|_| overrides.to_owned(), |_| {}).await
    }

    fn client(&self, bidirectional: bool, transport: Transport) -> Client {
        let at = self.registrar.address();
        let channel = if bidirectional {
            Channel::BidirectionalApi(format!("http://{at}/register-bidirectional"))
        } else {
            Channel::Api(format!("http://{at}/register"))
        };
        let options = Options::new(channel, transport, "203.0.113.5:443".to_owned());
        Client { conf: self.conf(), options }
    }
}

/// Without overrides both channels lead every client version to the same phantom and port.
#[tokio::test]
async fn both_channels_agree_for_every_version() {
    let mut stage = Stage::new("").await;
    for version in 0..=4 {
        for bidirectional in [false, true] {
            let mut client = stage.client(bidirectional, Transport::Min);
            client.options.version = version;
            let session = client.register().await.unwrap();
            let published = stage.published().await;
            let source = if bidirectional {
                RegistrationSource::BidirectionalApi
            } else {
                RegistrationSource::Api
            };
            assert_eq!(published.registration_source(), source);
            let payload = published.registration_payload.clone().unwrap();
            assert_eq!(payload.client_lib_version(), version);
            let secret = SharedSecret::new(published.shared_secret());
            let version = keys::ClientVersion(version);
            let seed = secret.session_keys(version).seed;
            let table = phantoms::PhantomTable::parse(PHANTOMS).unwrap().table;
            let pick = table.pick(7, seed.expose(), version).unwrap();
            let v4 = pick.phantom(phantoms::Family::V4).unwrap();
            let v6 = pick.phantom(phantoms::Family::V6).unwrap();
            assert_eq!(session.v4.unwrap().ip(), v4.address, "{version:?} {bidirectional}");
            assert_eq!(session.v6.unwrap().ip(), v6.address);
            let port = if version.randomizes_port() { seed.port(keys::PORTS) } else { 443 };
            assert_eq!(session.v4.unwrap().port(), port, "{version:?} {bidirectional}");
            assert_eq!(session.v6.unwrap().port(), port);
        }
    }
}

#[tokio::test]
async fn an_override_is_followed_and_an_opt_out_respected() {
    let text = "enforce_subnet_overrides = true\nprcnt_prefix_regs_to_override = 100\n\
                [[override_subnet]]\ncidr = \"198.51.100.0/24\"\nweight = 1\nport = 80\n\
                transport = \"Prefix_Transport\"\nprefix_id = 3\n";
    let mut stage = Stage::new(text).await;
    let mut client = stage.client(true, Transport::Prefix(9));
    let session = client.register().await.unwrap();
    let moved = session.v4.unwrap();
    assert!(moved.to_string().starts_with("198.51.100.") && moved.port() == 80, "{moved}");
    stage.published().await;
    let (received, _) = opening(session).await;
    assert!(received.starts_with(b"HTTP/1.1 200\r\n"), "the registrar's prefix is sent");

    client.options.disable_overrides = true;
    let session = client.register().await.unwrap();
    assert!(session.v4.unwrap().to_string().starts_with("192.0.2."));
}

/// Connects the session to a listener of the test; what it sent, and the address it reached.
async fn opening(mut session: Session) -> (Vec<u8>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    session.v4 = Some(listener.local_addr().unwrap());
    session.v6 = None;
    let connection = session.connect().await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    drop(connection.stream);
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.unwrap();
    (received, connection.phantom)
}

/// What the client sends first is what the station's identification accepts, for every prefix.
#[tokio::test]
async fn the_station_recognises_every_opening() {
    let mut stage = Stage::new("").await;
    let table = PrefixTable::default();
    let keys = [StationKey::from_file(&stage.station.private_file()[..]).unwrap()];
    let mut seen = HashSet::new();
    let transports = [Transport::Min].into_iter().chain((-1..=9).map(Transport::Prefix));
    for transport in transports {
        let client = stage.client(false, transport);
        let session = client.register().await.unwrap();
        let published = stage.published().await;
        let secret = SharedSecret::new(published.shared_secret());
        let (received, _) = opening(session).await;
        let verdict =
            Identification::new().offer(&received, &table, &keys, &|identifier: &[u8; 32]| {
                let prefix = *identifier == secret.prefix_identifier();
                let min = *identifier == secret.min_identifier();
                (prefix || min).then_some(Registered {
                    registration: (),
                    transport: if min {
                        transports::Transport::Min
                    } else {
                        transports::Transport::Prefix
                    },
                    prefix_id: None,
                })
            });
        let Verdict::Found(found) = verdict else { panic!("{transport:?} is not recognised") };
        assert_eq!(found.consumed, received.len(), "{transport:?}");
        if let Transport::Prefix(id @ 0..) = transport {
            assert_eq!(found.prefix_id, Some(id));
        }
        seen.insert(found.prefix_id);
    }
    assert_eq!(seen.len(), 11, "Min and ten prefixes");
}

#[tokio::test]
async fn both_families_are_raced_and_the_loser_gets_no_byte() {
    let mut stage = Stage::new("").await;
    let mut session = stage.client(false, Transport::Min).register().await.unwrap();
    stage.published().await;
    let (one, other) = (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("[::1]:0").await.unwrap(),
    );
    session.v4 = Some(one.local_addr().unwrap());
    session.v6 = Some(other.local_addr().unwrap());
    let connection = session.connect().await.unwrap();
    let won = connection.phantom;
    drop(connection.stream);
    let (winner, loser) =
        if won == one.local_addr().unwrap() { (one, other) } else { (other, one) };
    let mut received = Vec::new();
    winner.accept().await.unwrap().0.read_to_end(&mut received).await.unwrap();
    assert_eq!(received.len(), 32);
    // The loser may have connected before it was given up.
    let second = tokio::time::timeout(Duration::from_millis(50), loser.accept()).await;
    if let Ok(Ok((mut stream, _))) = second {
        let mut nothing = Vec::new();
        stream.read_to_end(&mut nothing).await.unwrap();
        assert!(nothing.is_empty(), "{nothing:?}");
    }

    // When one family fails, the other is used.
    session.v6 = Some(loser.local_addr().unwrap());
    session.v4 = Some(winner.local_addr().unwrap());
    drop(loser);
    let connection = session.connect().await.unwrap();
    assert_eq!(connection.phantom, winner.local_addr().unwrap());

    session.v4 = None;
    session.v6 = None;
    assert!(session.connect().await.unwrap_err().to_string().contains("no phantom"));
}

#[tokio::test]
async fn a_family_that_is_not_asked_for_is_not_used() {
    let mut stage = Stage::new("").await;
    for bidirectional in [false, true] {
        let mut client = stage.client(bidirectional, Transport::Min);
        client.options.families = Families { v4: false, v6: true };
        let session = client.register().await.unwrap();
        assert!(session.v4.is_none() && session.v6.is_some());
        let payload = stage.published().await.registration_payload.unwrap();
        assert!(!payload.v4_support() && payload.v6_support());
    }
}

#[tokio::test]
async fn a_refusing_registrar_is_named_with_its_answer() {
    let stage = Stage::new("").await;
    let mut client = stage.client(true, Transport::Min);
    client.conf = {
        let message = signalling::ClientConf {
            generation: Some(99),
            conjure_pubkey: Some(signalling::PubKey {
                key: Some(stage.station.public_file().to_vec()),
                ..Default::default()
            }),
            phantom_subnets_list: Some(signalling::PhantomSubnetsList {
                weighted_subnets: vec![signalling::PhantomSubnets {
                    weight: Some(1),
                    subnets: vec!["192.0.2.0/24".to_owned()],
                    randomize_dst_port: None,
                }],
            }),
            ..Default::default()
        };
        ClientConf::from_message(&message).unwrap()
    };
    let error = client.register().await.unwrap_err().to_string();
    assert!(error.contains("answered 500"), "{error}");
}
