//! Limits of the HTTP side: half-open connections, one client's rate, compressed ClientConf, hostile paths.

#[allow(dead_code, reason = "each test file uses some of it")]
mod stage;

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use proptest::prelude::Rng as _;
use signalling::{C2sWrapper, Message, RegistrationResponse, RegistrationSource};
use stage::{LONG, Stage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use vectors::{hex, load};

/// A body as clients send it, from the vectors; `older` is of an older generation.
fn body(older: bool) -> Vec<u8> {
    let file = load("registrar-http.json");
    let cases = file["auth_NULL"].as_array().unwrap();
    let wanted = |case: &&vectors::Value| {
        let path = &case["request"]["path"];
        let older_case = case["name"].as_str().unwrap().contains("generation older");
        path == "/register-bidirectional"
            && case["response"]["status"] == 200
            && older_case == older
    };
    hex(&cases.iter().find(wanted).unwrap()["request"]["body"])
}

/// Sends a request and reads until the server closes: status, head, body. `headers` end in CR LF.
async fn exchange(
    address: SocketAddr,
    line: &str,
    headers: &str,
    body: &[u8],
) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut bytes = Vec::new();
    timeout(LONG, stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, bytes[end + 4..].to_vec())
}

async fn post(address: SocketAddr, headers: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    exchange(address, "POST /register-bidirectional", headers, body).await
}

/// A client says that a detector heard it and that its phantom was probed: only of the stations of
/// the list that is passed on.
#[tokio::test]
async fn only_stations_of_the_list_can_share() {
    let flags = signalling::RegistrationFlags { prescanned: Some(true), ..Default::default() };
    let payload = signalling::ClientToStation { flags: Some(flags), ..Default::default() };
    let body = C2sWrapper {
        shared_secret: Some(vec![7; 32]),
        registration_payload: Some(payload),
        registration_source: Some(RegistrationSource::DetectorPrescan as i32),
        ..Default::default()
    }
    .encode_to_vec();
    let proxy = "trusted_proxies = [\"127.0.0.1/32\"]\n";
    for (list, shared) in [
        ("", true),
        ("sharing_stations = [\"192.0.2.0/24\", \"2001:db8::/64\"]\n", true),
        ("sharing_stations = [\"198.51.100.1/32\"]\n", false),
    ] {
        let mut stage = Stage::of_vectors(false, &format!("{proxy}{list}")).await;
        for from in ["192.0.2.7", "2001:db8::7"] {
            let headers = format!("X-Forwarded-For: {from}\r\n");
            let address = stage.registrar.address();
            let (status, ..) = exchange(address, "POST /register", &headers, &body).await;
            assert_eq!(status, 204);
            let message = timeout(LONG, stage.subscriber.recv()).await.unwrap();
            let message = C2sWrapper::decode(&message[..]).unwrap();
            let source = message.registration_source();
            let prescanned = message.registration_payload.unwrap().flags.unwrap().prescanned();
            let expected = match shared {
                true => RegistrationSource::DetectorPrescan,
                false => RegistrationSource::Api,
            };
            assert_eq!((source, prescanned), (expected, shared), "{list}");
        }
        assert_eq!(stage.count("station_claims_refused"), if shared { 0 } else { 2 });
    }
}

/// `CONJURE_HALF_OPEN` connections (2,000 by default) send half a head, ten times as many as there are
/// places; everyone else is served meanwhile. The times are printed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_keep_nobody_out() {
    let half_open = std::env::var("CONJURE_HALF_OPEN").map_or(2000, |n| n.parse().unwrap());
    telemetry::process::raise_nofile_limit();
    let places = half_open / 10;
    let stage = Stage::of_vectors(false, &format!("api_max_connections = {places}\n")).await;
    let address = stage.registrar.address();
    let mut held = Vec::new();
    for n in 0..half_open {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let half: &[u8] =
            if n % 2 == 0 { b"POST /register HTTP/1.1\r\nHost: r\r\nConte" } else { b"" };
        // It may have made room already.
        let _ = stream.write_all(half).await;
        held.push(stream);
    }
    let body = body(false);
    let mut running = JoinSet::new();
    for _ in 0..200 {
        let body = body.clone();
        running.spawn(async move {
            let start = Instant::now();
            let (status, _, _) = post(address, "", &body).await;
            (status, start.elapsed())
        });
    }
    let mut times: Vec<Duration> = Vec::new();
    while let Some(done) = running.join_next().await {
        let (status, time) = done.unwrap();
        assert_eq!(status, 200);
        times.push(time);
    }
    times.sort();
    println!(
        "{half_open} half-open connections, {places} places: 200 of 200 served, median {:?}, p99 {:?}",
        times[100], times[198]
    );
    assert!(stage.count("connections_evicted") >= (half_open - places) as u64);
    assert_eq!(stage.count("connections_refused"), 0);
    // Nor does a body without payload break anything (`spec/registrar.md` 7.5).
    let mut bare = vec![10, 32];
    bare.extend_from_slice(&[7; 32]);
    let (status, _, text) = post(address, "", &bare).await;
    assert_eq!((status, &text[..]), (400, &b"no C2S body\n"[..]));
    drop(held);
}

/// Replies to everybody else stay as they are.
#[tokio::test]
async fn one_client_is_slowed_and_others_are_not() {
    let extra = "client_rate = 1\nclient_burst = 3\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
    let stage = Stage::of_vectors(false, extra).await;
    let address = stage.registrar.address();
    let body = body(false);
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(post(address, "X-Forwarded-For: 192.0.2.7\r\n", &body).await.0);
    }
    assert_eq!(statuses[..3], [200; 3]);
    assert!(statuses.iter().filter(|status| **status == 429).count() >= 3, "{statuses:?}");
    assert!(stage.count("requests_rate_limited") >= 3);
    assert_eq!(post(address, "X-Forwarded-For: 192.0.2.8\r\n", &body).await.0, 200);
    for _ in 0..8 {
        assert_eq!(post(address, "", &body).await.0, 200, "this host is exempt");
    }
}

#[tokio::test]
async fn the_client_conf_is_compressed_where_that_is_offered() {
    let stage = Stage::of_vectors(false, "").await;
    let address = stage.registrar.address();
    let body = body(true);
    let (_, head, plain) = post(address, "", &body).await;
    assert!(!head.to_lowercase().contains("content-encoding"), "{head}");
    let (status, head, coded) = post(address, "Accept-Encoding: br, gzip\r\n", &body).await;
    assert_eq!(status, 200);
    assert!(head.to_lowercase().contains("content-encoding: gzip"), "{head}");
    assert!(head.to_lowercase().contains("vary: accept-encoding"), "{head}");
    let mut decoded = Vec::new();
    GzDecoder::new(&coded[..]).read_to_end(&mut decoded).unwrap();
    assert_eq!(decoded, plain);
    let response = RegistrationResponse::decode(&decoded[..]).unwrap();
    assert_eq!(response.client_conf.unwrap().generation(), 1153);
}

#[tokio::test]
async fn health_and_metrics_stand_apart() {
    let stage = Stage::of_vectors(false, "admin_listen_addr = \"127.0.0.1:0\"\n").await;
    let (public, admin) = (stage.registrar.address(), stage.registrar.open().admin.unwrap());
    assert_eq!(post(public, "", &body(false)).await.0, 200);
    let (status, _, text) = exchange(admin, "GET /healthz", "", b"").await;
    assert_eq!((status, &text[..]), (200, &b"ok\n"[..]));
    let (_, head, text) = exchange(admin, "GET /metrics", "", b"").await;
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    let text = String::from_utf8(text).unwrap();
    for line in [
        "# TYPE conjure_registrar_bdapi_requests counter",
        "conjure_registrar_bdapi_requests_total 1",
        "conjure_registrar_reg_processed_bidirectional_api_total 1",
        "conjure_registrar_reg_processed_dns_total 0",
        "conjure_registrar_published_total 1",
        "conjure_registrar_subscribers 1",
        "conjure_registrar_generation 1153",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(exchange(public, "GET /metrics", "", b"").await.0, 404);
    assert_eq!(exchange(admin, "POST /register", "", b"").await.0, 404);
}

#[tokio::test]
async fn mutated_paths_never_break_the_server() {
    let stage = Stage::of_vectors(false, "").await;
    let address = stage.registrar.address();
    let file = load("registrar-http.json");
    let cases = file["auth_NULL"].as_array().unwrap();
    let paths: Vec<&str> = cases
        .iter()
        .filter_map(|case| case["request"]["path"].as_str())
        .filter(|path| path.starts_with("/amp/"))
        .collect();
    let mut rng = proptest::test_runner::TestRng::deterministic_rng(
        proptest::test_runner::RngAlgorithm::ChaCha,
    );
    for _ in 0..300 {
        let mut path = paths[rng.next_u32() as usize % paths.len()].as_bytes().to_vec();
        for _ in 0..=rng.next_u32() % 4 {
            let at = rng.next_u32() as usize % path.len();
            path[at] = b"/%0A_-zZ9.~?"[rng.next_u32() as usize % 12];
        }
        let head = format!("GET {}", String::from_utf8(path).unwrap());
        let (status, _, _) = exchange(address, &head, "", b"").await;
        assert!([200, 204, 400, 404, 500].contains(&status), "{status} {head}");
    }
    let (status, _, _) = exchange(address, &format!("GET {}", paths[2]), "", b"").await;
    assert_eq!(status, 204);
}
