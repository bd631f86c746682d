//! Our registrars and our application with CURVE and signed responses between them
//! (`spec/registrar.md` 10.2 and 10.5).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lab::Node;
use registrar::daemon::{Registrar, Setup as RegistrarSetup};
use registration::signing::ResponseSigner;
use signalling::station::status_reply::Detail;
use signalling::{C2sWrapper, ClientConf, Message, RegistrationResponse};

use crate::SECOND;
use crate::host::{Host, PHANTOMS, Setup, registration, said_inside};

/// Private keys: of all registrars, and of the application (`Host` writes it as `privkey`).
const REGISTRAR: [u8; 32] = [0x11; 32];
const STATION: [u8; 32] = [0x40; 32];

fn z85(private: [u8; 32]) -> String {
    keys::z85(&keys::public_key(&private))
}

/// What a registrar is, and so whether its registrations arrive. Its number is that of its ports.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// CURVE, and the station is listed.
    Good = 1,
    /// CURVE with the reference's signatures.
    Legacy,
    /// CURVE and signs with a key that the station does not expect.
    Stranger,
    /// CURVE, and the station is not listed.
    Unlisted,
    /// CURVE, but the station has another server key for it.
    WrongKey,
    /// NULL.
    Null,
    /// CURVE, but the station is configured for NULL.
    Mismatched,
}

const ALL: [Kind; 7] = [
    Kind::Good,
    Kind::Legacy,
    Kind::Stranger,
    Kind::Unlisted,
    Kind::WrongKey,
    Kind::Null,
    Kind::Mismatched,
];

impl Kind {
    fn source(self) -> String {
        format!("tcp://198.51.100.2:{}", 5590 + self as u16)
    }

    /// `[[connect_sockets]]` of the application for it.
    fn connect(self) -> String {
        let hex = |key: [u8; 32]| hex::encode(key);
        let derived = ResponseSigner::derived(&REGISTRAR).public();
        let (server, signing) = match self {
            Self::Good => (z85(REGISTRAR), hex(derived)),
            Self::Legacy => {
                let key = ResponseSigner::legacy(&file()).public();
                (z85(REGISTRAR), format!("{}\"\nsigning_mode = \"legacy", hex(key)))
            }
            Self::Stranger | Self::Unlisted => (z85(REGISTRAR), hex(derived)),
            Self::WrongKey => (z85([0x12; 32]), hex(derived)),
            Self::Null | Self::Mismatched => {
                let address = self.source();
                return format!("[[connect_sockets]]\naddress = \"{address}\"\ntype = \"NULL\"\n");
            }
        };
        format!(
            "[[connect_sockets]]\naddress = \"{}\"\ntype = \"CURVE\"\npubkey = \"{server}\"\n\
             signing_pubkey = \"{signing}\"\n",
            self.source()
        )
    }

    /// Configuration of the registrar itself, in the folder `dir`.
    fn configuration(self, dir: &str) -> String {
        let auth = match self {
            Self::Null => "zmq_auth_type = \"NULL\"".to_owned(),
            _ => {
                let listed = match self {
                    Self::Unlisted => z85([0x13; 32]),
                    _ => z85(STATION),
                };
                let signing = match self {
                    Self::Legacy => "signing_mode = \"legacy\"".to_owned(),
                    Self::Stranger => format!("signing_key_path = \"{dir}/other\""),
                    _ => String::new(),
                };
                format!(
                    "zmq_auth_type = \"CURVE\"\nzmq_privkey_path = \"{dir}/key\"\n\
                     zmq_auth_verbose = true\nstation_pubkeys = [\"{listed}\"]\n{signing}"
                )
            }
        };
        format!(
            "log_level = \"error\"\napi_port = {}\napi_bind_addr = \"198.51.100.2\"\n\
             zmq_port = {}\nzmq_bind_addr = \"198.51.100.2\"\nclientconf_path = \"{dir}/conf\"\n\
             {auth}\n",
            8080 + self as u16,
            5590 + self as u16
        )
    }
}

/// Key file of the registrars.
fn file() -> [u8; 64] {
    let mut file = [0; 64];
    file[..32].copy_from_slice(&REGISTRAR);
    file[32..].copy_from_slice(&keys::public_key(&REGISTRAR));
    file
}

/// Starts all registrars on the decoy's host; they end with the process.
fn start_registrars() {
    let (ready, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        Node::Decoy.enter().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let conf = ClientConf { generation: Some(1), ..Default::default() };
        std::fs::write(path("conf"), conf.encode_to_vec()).unwrap();
        std::fs::write(path("phantoms.toml"), PHANTOMS).unwrap();
        std::fs::write(path("key"), file()).unwrap();
        std::fs::write(path("other"), [0x14; 32]).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut running = Vec::new();
            for kind in ALL {
                let text = kind.configuration(&dir.path().to_string_lossy());
                std::fs::write(path("reg.toml"), text).unwrap();
                let setup = RegistrarSetup::load(&path("reg.toml"), &path("phantoms.toml"));
                running.push(Registrar::start(setup.unwrap(), None).await.unwrap());
            }
            ready.send(()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    started.recv().unwrap();
}

/// A bidirectional registration over HTTP from the client.
fn register(kind: Kind, seed: u8) {
    let body = C2sWrapper {
        shared_secret: Some(vec![seed; 32]),
        registration_payload: registration(seed).registration_payload,
        ..Default::default()
    }
    .encode_to_vec();
    let at = std::net::SocketAddr::from(([198, 51, 100, 2], 8080 + kind as u16));
    let mut stream = Node::Client.run(|| TcpStream::connect_timeout(&at, 5 * SECOND)).unwrap();
    let head = "POST /register-bidirectional HTTP/1.1\r\nHost: r\r\nConnection: close\r\n";
    write!(stream, "{head}Content-Length: {}\r\n\r\n", body.len()).unwrap();
    stream.write_all(&body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let start = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let response = RegistrationResponse::decode(&answer[start..]).unwrap();
    assert!(response.ipv4addr.is_some_and(|phantom| phantom != 0), "{response:?}");
}

/// What the application says about its link to the registrar.
fn link(host: &Host, kind: Kind) -> String {
    let (notes, start) = (host.status().notes, format!("source {}: ", kind.source()));
    notes.iter().find_map(|note| note.strip_prefix(&start)).expect("the source").to_owned()
}

/// A count of the application.
fn count(host: &Host, name: &str) -> u64 {
    match host.status().detail {
        Some(Detail::Application(status)) => {
            status.ingest.iter().find(|count| count.name == name).expect("the count").value
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn curve_and_signatures_between_our_registrar_and_our_application() {
    let sources: String = ALL.map(Kind::connect).concat();
    let sources = format!("zmq_privkey_path = \"DIR/privkey\"\n{sources}[[connect_sockets]]\n");
    let replace: &'static [_] =
        Box::leak(Box::new([("[[connect_sockets]]\n", &*Box::leak(sources.into_boxed_str()))]));
    let setup = Setup { replace, ..Setup::default() };
    let name = "curve::curve_and_signatures_between_our_registrar_and_our_application";
    let said = said_inside(name, setup, |host| {
        start_registrars();
        let linked = |kind| {
            host.until("the source is connected", |h| link(h, kind) == "connected");
        };
        // P36: every failed handshake names the endpoint and the cause within 10 s.
        let fails = |kind, cause: &str| {
            host.within(Duration::from_secs(10), cause, |h| {
                let state = link(h, kind);
                state.starts_with("handshake failed: ") && state.contains(cause)
            });
            let line = format!("source {}: handshake failed: ", kind.source());
            assert!(host.log().lines().any(|l| l.contains(&line) && l.contains(cause)));
        };
        for kind in [Kind::Good, Kind::Legacy, Kind::Stranger, Kind::Null] {
            linked(kind);
        }
        fails(Kind::Unlisted, "refused this side's key");
        fails(Kind::WrongKey, "not the configured server key");
        fails(Kind::Mismatched, "peer requires mechanism CURVE");

        let arrives = |kind, seed| {
            let before = host.sessions().len();
            register(kind, seed);
            host.until("New is published", |h| h.sessions().len() > before);
        };
        arrives(Kind::Good, 1);
        arrives(Kind::Legacy, 2);
        assert_eq!((count(&host, "responses_verified"), count(&host, "responses_refused")), (2, 0));
        // The registration stays, its response does not.
        arrives(Kind::Stranger, 3);
        assert_eq!((count(&host, "responses_verified"), count(&host, "responses_refused")), (2, 1));
        let line =
            format!("source {}: response of the registrar refused: ", Kind::Stranger.source());
        host.until("a line", |h| {
            h.log().lines().any(|l| l.contains(&line) && l.contains("signing_pubkey"))
        });
        for (kind, seed) in [(Kind::Unlisted, 4), (Kind::WrongKey, 5), (Kind::Mismatched, 6)] {
            register(kind, seed);
        }
        // Over NULL responses are believed as before, prescans are not.
        let before = count(&host, "prescans_ignored");
        arrives(Kind::Null, 7);
        assert_eq!(count(&host, "prescans_ignored"), before + 1);
        assert_eq!((count(&host, "responses_verified"), count(&host, "responses_refused")), (2, 1));
        assert_eq!(host.sessions().len(), 4, "nothing of the three others arrived");
    });
    let Some(said) = said else { return };
    let line =
        |word: &str| format!("AUTH: {word} (CURVE) domain=\"*\" client_key=\"{}\"", z85(STATION));
    for word in ["DENIED", "ALLOWED"] {
        assert!(said.contains(&line(word)), "{said}");
    }
}
