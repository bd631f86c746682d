//! The real server over loopback, with a real subscriber: every case of `registrar-http.json`,
//! limits, reload, mutated bodies.

#[allow(dead_code, reason = "each test file uses some of it")]
mod stage;

use std::fs;
use std::net::SocketAddr;

use proptest::prelude::Rng as _;
use signalling::Message;
use stage::{LONG, Stage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use vectors::{Tally, Value, hex, load};

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// Sends `request` and reads until the server closes.
async fn exchange(address: SocketAddr, request: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut bytes = Vec::new();
    timeout(LONG, stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .filter(|(name, _)| !["date", "connection", "content-length"].contains(&name.as_str()))
        .collect();
    Reply { status, headers, body: bytes[end + 4..].to_vec() }
}

fn request(
    method: &str,
    path: &str,
    headers: &[(String, String)],
    body: &[u8],
    chunked: bool,
) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: registrar\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if chunked {
        text.push_str(&format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len()));
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(b"\r\n0\r\n\r\n");
        return bytes;
    }
    if method != "GET" && method != "HEAD" {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    request("POST", path, &[], body, false)
}

#[tokio::test]
async fn cases_of_the_vectors() {
    const FILE: &str = "registrar-http.json";
    let mut tally = Tally::new(FILE);
    for mode in ["auth_NULL", "auth_CURVE"] {
        cases(mode, &load(FILE)[mode], &mut tally).await;
    }
    tally.finish();
}

async fn cases(mode: &str, cases: &Value, tally: &mut Tally) {
    let mut stage = Stage::of_vectors(mode == "auth_CURVE", "").await;
    let address = stage.registrar.address();
    for case in cases.as_array().unwrap() {
        let asked = &case["request"];
        let path = asked["path"].as_str().unwrap();
        let name = case["name"].as_str().unwrap();
        let headers: Vec<(String, String)> = asked["headers"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()))
            .collect();
        let before = stage.published();
        let bytes = request(
            asked["method"].as_str().unwrap(),
            path,
            &headers,
            &hex(&asked["body"]),
            asked["chunked"].as_bool().unwrap(),
        );
        let reply = exchange(address, &bytes).await;
        let expected = &case["response"];
        let required = &case["required_by_this_project"];
        if required.is_object() {
            assert_eq!(Some(u64::from(reply.status)), required["status"].as_u64(), "{name}");
            let text = required["body_text"].as_str().unwrap();
            assert_eq!(reply.body, format!("{text}\n").as_bytes(), "{name}");
        } else if expected.is_null() {
            // The reference crashes here; the case's note says what is required.
            assert_eq!((reply.status, &reply.body[..]), (400, &b"no C2S body\n"[..]), "{name}");
        } else {
            assert_eq!(Some(u64::from(reply.status)), expected["status"].as_u64(), "{name}");
            assert_eq!(reply.body, hex(&expected["body"]), "{name}");
            let mut wanted: Vec<(String, String)> = expected["headers"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(k, v)| (k.to_lowercase(), v.as_str().unwrap().to_owned()))
                .collect();
            let mut found = reply.headers;
            wanted.sort();
            found.sort();
            assert_eq!(found, wanted, "{name}");
        }
        let wanted: Vec<&Value> = case["published"].as_array().unwrap().iter().collect();
        assert_eq!(stage.published() - before, wanted.len() as u64, "{name}");
        for message in wanted {
            stage.expect(&hex(message), name).await;
        }
        tally.pass();
    }
}

/// A body as clients send it, from the vectors.
fn body() -> Vec<u8> {
    hex(&load("registrar-http.json")["auth_NULL"][1]["request"]["body"])
}

#[tokio::test]
async fn bodies_above_the_limit_are_refused() {
    let stage = Stage::of_vectors(false, "").await;
    let address = stage.registrar.address();
    let reply = exchange(address, &post("/register", &vec![0; 70_000])).await;
    assert_eq!((reply.status, &reply.body[..]), (413, &b"Payload too large\n"[..]));
    assert_eq!(stage.published(), 0);
}

#[tokio::test]
async fn a_kept_connection_serves_many_requests_and_expectations_are_answered() {
    let stage = Stage::of_vectors(false, "").await;
    let mut stream = TcpStream::connect(stage.registrar.address()).await.unwrap();
    let body = body();
    let head = format!(
        "POST /register HTTP/1.1\r\nHost: r\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    for _ in 0..3 {
        let mut answer = [0; 25];
        stream.write_all(head.as_bytes()).await.unwrap();
        timeout(LONG, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer[..], b"HTTP/1.1 100 Continue\r\n\r\n"[..]);
        stream.write_all(&body).await.unwrap();
        let mut reply = Vec::new();
        while !reply.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            timeout(LONG, stream.read_exact(&mut byte)).await.unwrap().unwrap();
            reply.push(byte[0]);
        }
        assert!(reply.starts_with(b"HTTP/1.1 204"), "{}", reply.escape_ascii());
    }
    assert_eq!(stage.published(), 3);
}

/// P40: a reload takes everything or nothing, however often it is asked for.
#[tokio::test]
async fn a_failed_reload_keeps_the_old_set_whole() {
    let stage = Stage::of_vectors(false, "").await;
    let generation = || stage.registrar.processor().snapshot.load().generation;
    assert_eq!(generation(), 1153);
    let newer = signalling::ClientConf { generation: Some(1154), ..Default::default() };
    fs::write(stage.path("ClientConf"), newer.encode_to_vec()).unwrap();
    let phantoms = fs::read(stage.path("phantoms.toml")).unwrap();
    let toml = fs::read(stage.path("reg.toml")).unwrap();

    fs::write(stage.path("phantoms.toml"), "[Networks").unwrap();
    let results = stage.registrar.reload();
    assert!(!results[0].applied && results[0].file.ends_with("phantoms.toml"), "{results:?}");
    fs::write(stage.path("phantoms.toml"), phantoms).unwrap();
    fs::write(stage.path("reg.toml"), "api_port = \"x\"\n").unwrap();
    let results = stage.registrar.reload();
    assert!(results[0].error.contains("reg.toml:1: api_port"), "{results:?}");
    fs::remove_file(stage.path("reg.toml")).unwrap();
    assert!(!stage.registrar.reload()[0].applied);
    assert_eq!(generation(), 1153);

    fs::write(stage.path("reg.toml"), toml).unwrap();
    for _ in 0..20 {
        assert!(stage.registrar.reload().iter().all(|r| r.applied));
    }
    assert_eq!(generation(), 1154);
}

#[tokio::test]
async fn mutated_bodies_never_break_the_server() {
    let stage = Stage::of_vectors(false, "").await;
    let address = stage.registrar.address();
    let mut rng = proptest::test_runner::TestRng::deterministic_rng(
        proptest::test_runner::RngAlgorithm::ChaCha,
    );
    let original = body();
    for _ in 0..300 {
        let mut bytes = original.clone();
        for _ in 0..=rng.next_u32() % 4 {
            let at = rng.next_u32() as usize % bytes.len();
            bytes[at] = rng.next_u32() as u8;
        }
        bytes.truncate(33.max(rng.next_u32() as usize % (bytes.len() + 1)));
        let reply = exchange(address, &post("/register-bidirectional", &bytes)).await;
        assert!([200, 400, 500].contains(&reply.status), "{}", reply.status);
    }
    let reply = exchange(address, &post("/register", &original)).await;
    assert_eq!(reply.status, 204);
}
