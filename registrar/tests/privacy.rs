//! The daemon itself at its most talkative: no secret and no client address in any line, and a clean end.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use registration::amp;
use registration::dns::{Asked, Name, read_reply, split};
use signalling::{C2sWrapper, ClientToStation, Message};
use vectors::{hex, load};

/// Far above anything this test waits for; only a hang reaches it.
const LONG: Duration = Duration::from_secs(60);

fn wrapper(secret: u8, source: i32) -> Vec<u8> {
    C2sWrapper {
        shared_secret: Some(vec![secret; 32]),
        registration_source: Some(source),
        registration_address: Some(vec![198, 51, 100, 77]),
        registration_payload: Some(ClientToStation {
            client_lib_version: Some(4),
            decoy_list_generation: Some(1153),
            v4_support: Some(true),
            transport: Some(1),
            covert_address: Some("203.0.113.99:443".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
    .encode_to_vec()
}

fn http(address: &str, head: String, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let rest = format!(
        "Host: r\r\nConnection: close\r\nX-Forwarded-For: 198.51.100.78\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head} HTTP/1.1\r\n{rest}").as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    String::from_utf8_lossy(&reply[..12]).into_owned()
}

#[test]
fn no_line_holds_a_secret_or_an_address() {
    let file = load("registrar-http.json");
    let context = &file["context"];
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("phantoms.toml"), context["phantom_subnets_toml"].as_str().unwrap()).unwrap();
    fs::write(path("ClientConf"), hex(&context["client_conf"])).unwrap();
    let privkey = hex(&context["privkey_file"]);
    fs::write(path("privkey"), &privkey).unwrap();
    let conf = format!(
        "log_level = \"trace\"\nlog_metrics_interval = 1\napi_port = 0\napi_bind_addr = \"127.0.0.1\"\n\
         zmq_port = 0\nzmq_bind_addr = \"127.0.0.1\"\nzmq_auth_type = \"NULL\"\n\
         clientconf_path = \"{}\"\ndns_private_key_path = \"{}\"\n\
         dns_listen_addr = \"127.0.0.1:0\"\ndomain = \"r.example.com\"\n",
        path("ClientConf"),
        path("privkey"),
    );
    fs::write(path("reg.toml"), conf).unwrap();
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_registrar"))
        .args(["-config", &path("reg.toml")])
        .env("PHANTOM_SUBNET_LOCATION", path("phantoms.toml"))
        .env("CJ_IPC_DIR", dir.path())
        .env_remove("LOG_CLIENT_IP")
        .stderr(Stdio::from(fs::File::create(path("log")).unwrap()))
        .spawn()
        .unwrap();
    let log = || fs::read_to_string(path("log")).unwrap();
    let started = (0..2000).find_map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        log().lines().find(|line| line.contains("Started Conjure")).map(str::to_owned)
    });
    let started = started.unwrap_or_else(|| panic!("no start: {}", log()));
    let field = |name: &str| {
        let value = started.split_once(&format!(" {name}=")).unwrap().1;
        value.split(' ').next().unwrap().trim_matches('"').to_owned()
    };
    let (api, dns) = (field("api"), field("dns"));

    let body = wrapper(0xa1, 4);
    let post = "POST /register-bidirectional".to_owned();
    assert!(http(&api, post.clone(), &body).ends_with("200"));
    assert!(http(&api, post, &body[..40]).ends_with("400"));
    let encoded = amp::encode_path(&wrapper(0xa2, 8), &[1; 9]);
    let get = format!("GET /amp/register-bidirectional/{encoded}");
    assert!(http(&api, get, b"").ends_with("200"));
    let zone = Name::parse("r.example.com").unwrap();
    let public = keys::public_key(privkey.first_chunk().unwrap());
    let parts = split(&wrapper(0xa3, 6), 0, &zone, &[9; 8]).unwrap().parts;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    for (at, part) in parts.iter().enumerate() {
        let asked = Asked::seal(&zone, &public, &[at as u8 + 1; 32], 7, part).unwrap();
        socket.send_to(&asked.query, &dns).unwrap();
        let mut reply = [0; 2000];
        let length = socket.recv(&mut reply).unwrap();
        assert!(asked.open(&read_reply(&reply[..length], &zone).unwrap()).is_some());
    }

    let counted = (0..2000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        log().contains("reg_processed_BidirectionalDNS=1")
    });
    assert!(counted, "the metrics line names what was counted: {}", log());
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let log = log();
    for client in [[198, 51, 100, 77], [198, 51, 100, 78]] {
        records::client(client);
    }
    for secret in [0xa1, 0xa2, 0xa3] {
        records::shared_secret(&[secret; 32]);
    }
    records::secret("station key", &privkey[..32]);
    records::text("registrar", records::Clients::Hidden, &log);
    assert!(log.contains("registration successful"), "it talks: {log}");
    for secret in ["a1a1a1a1", "a2a2a2a2", "a3a3a3a3", &::hex::encode(&privkey[..4])] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    for address in ["198.51.100", "203.0.113", "192.122.190"] {
        assert!(!log.contains(address), "{address}: {log}");
    }
}
