//! Sharing with a real HTTP server and with our registrar (`spec/application.md` 15).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use application::Station;
use application::policy::Policy;
use application::share::{Limits, Sharer};
use bus::{Subscriber, SubscriberOptions};
use registrar::daemon::{Registrar, Setup};
use signalling::{C2sWrapper, ClientToStation, Message, RegistrationFlags};
use telemetry::log::Logger;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use transports::Transport;

/// Far above anything these tests wait for; only a hang reaches it.
const LONG: Duration = Duration::from_secs(60);

const PHANTOMS: &str = "[Networks]\n[Networks.1]\nGeneration = 1\n\
    [[Networks.1.WeightedSubnets]]\nWeight = 1\n\
    Subnets = [\"192.122.190.0/24\", \"2001:48a8:687f:1::/64\"]\n";

/// A station whose configuration has these lines.
fn station(lines: &str) -> Station {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("phantoms.toml"), PHANTOMS).unwrap();
    let text = format!(
        "enable_v4 = true\nenable_v6 = true\nsocket_name = \"z\"\nredis_url = \"\"\n{lines}\n"
    );
    let settings = conf::Application::parse(&text, Path::new("a.toml")).unwrap().value;
    let policy = Policy::build(&settings, &dir.path().join("phantoms.toml")).unwrap().0;
    Station::new(&settings, policy, Vec::new())
}

fn sharing(url: &str) -> Station {
    station(&format!("enable_share_over_api = true\npreshare_endpoint = \"{url}\""))
}

/// A registration for both families whose phantoms need no probe.
fn registration(seed: u8, source: i32) -> Vec<u8> {
    C2sWrapper {
        shared_secret: Some(vec![seed; 32]),
        registration_payload: Some(ClientToStation {
            decoy_list_generation: Some(1),
            client_lib_version: Some(4),
            transport: Some(Transport::Min.number()),
            covert_address: Some("198.51.100.2:80".to_owned()),
            v4_support: Some(true),
            v6_support: Some(true),
            flags: Some(RegistrationFlags { prescanned: Some(true), ..Default::default() }),
            ..Default::default()
        }),
        registration_source: Some(source),
        registration_address: Some(vec![203, 0, 113, 9]),
        ..Default::default()
    }
    .encode_to_vec()
}

const DETECTOR: i32 = 1;
const API: i32 = 2;
const SHARED: i32 = 3;

/// A request: its head and its body.
type Received = (String, Vec<u8>);

/// Reads one request of a connection; `None` at its end.
async fn request(stream: &mut TcpStream) -> Option<Received> {
    let mut bytes = Vec::new();
    loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..at + 4].to_vec()).unwrap();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
            });
            let (start, length): (usize, usize) = (at + 4, length.unwrap());
            while bytes.len() < start + length {
                assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0);
            }
            return Some((head, bytes[start..start + length].to_vec()));
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// An HTTP server whose replies are these and then 204; its URL and what it receives.
async fn server(replies: &'static [&'static str]) -> (String, mpsc::UnboundedReceiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/api/register", listener.local_addr().unwrap());
    let (received, all) = mpsc::unbounded_channel();
    let replies = Arc::new(std::sync::Mutex::new(replies.iter()));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (received, replies) = (received.clone(), Arc::clone(&replies));
            tokio::spawn(async move {
                while let Some(one) = request(&mut stream).await {
                    received.send(one).unwrap();
                    let status = replies.lock().unwrap().next().unwrap_or(&"204 No Content");
                    let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                    if stream.write_all(reply.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, all)
}

async fn next<T>(all: &mut mpsc::UnboundedReceiver<T>) -> T {
    timeout(LONG, all.recv()).await.unwrap().unwrap()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, wait).await.unwrap_or_else(|_| panic!("still not: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_of_the_detector_are_posted_once() {
    let (url, mut posted) = server(&["500 Internal Server Error"]).await;
    let station = sharing(&url);
    let pipeline = &station.pipeline;
    // Four copies come from the decoys; what another channel brought is known to others already.
    pipeline.handle(&registration(1, API)).await;
    for _ in 0..4 {
        pipeline.handle(&registration(2, DETECTOR)).await;
    }
    assert_eq!(pipeline.stats.registrations.new.total(), 4, "two families each");
    let (head, body) = next(&mut posted).await;
    assert!(head.starts_with("POST /api/register HTTP/1.1\r\n"), "{head}");
    assert!(head.to_ascii_lowercase().contains("\r\ncontent-type: \r\n"), "{head}");
    let mut expected = C2sWrapper::decode(&registration(2, DETECTOR)[..]).unwrap();
    expected.registration_source = Some(SHARED);
    assert_eq!(C2sWrapper::decode(&body[..]).unwrap(), expected);
    let (_, again) = next(&mut posted).await;
    assert_eq!(again, body, "an error of the server is tried again");
    let counters = &pipeline.sharer.as_ref().unwrap().counters;
    until("it is shared", || counters.shared.total() == 1).await;
    pipeline.handle(&registration(3, DETECTOR)).await;
    assert_eq!(next(&mut posted).await.1[2..34], [3; 32], "nothing of the others came between");
    until("it is shared", || counters.shared.total() == 2).await;
    assert_eq!((counters.failed.total(), counters.dropped.total()), (0, 0));
    assert!(posted.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registrar_that_refuses_is_asked_once_and_others_go_on() {
    let (url, mut posted) = server(&["400 Bad Request"]).await;
    let station = sharing(&url);
    for seed in 1..=2 {
        station.pipeline.handle(&registration(seed, DETECTOR)).await;
        assert_eq!(next(&mut posted).await.1[2..34], [seed; 32]);
    }
    let counters = &station.pipeline.sharer.as_ref().unwrap().counters;
    until("both ends", || (counters.failed.total(), counters.shared.total()) == (1, 1)).await;
    assert!(posted.try_recv().is_err());
}

/// A station that only hears a registration passes it on without serving it; without the switch
/// nothing is shared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_phantoms_are_shared_and_nothing_without_the_switch() {
    let (url, mut posted) = server(&[]).await;
    let endpoint = format!("preshare_endpoint = \"{url}\"");
    let silent = station(&endpoint);
    silent.pipeline.handle(&registration(1, DETECTOR)).await;
    assert!(silent.pipeline.sharer.is_none());
    let blocked = "phantom_blocklist = [\"192.122.190.0/24\", \"2001:48a8:687f:1::/64\"]";
    let station = station(&format!("enable_share_over_api = true\n{endpoint}\n{blocked}"));
    station.pipeline.handle(&registration(2, DETECTOR)).await;
    assert_eq!(next(&mut posted).await.1[2..34], [2; 32]);
    let regs = &station.pipeline.stats.registrations;
    assert_eq!((regs.new.total(), regs.blocked.total()), (0, 2));
}

/// Nobody answers: the pipeline never waits, what does not fit is dropped and counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registrar_that_hangs_holds_nothing_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/register", silent.local_addr().unwrap());
    let limits = Limits { queue: 4, requests: 1, attempt: Duration::from_millis(50) };
    let mut station = station("");
    let sharer = Sharer::start(&url, limits, Logger::new("[REG] ")).unwrap();
    let counters = Arc::clone(&sharer.counters);
    Arc::get_mut(&mut station.pipeline).unwrap().sharer = Some(sharer);
    for seed in 0..100 {
        // Without a pause no worker can run between: none of these waits for anything.
        assert!(station.pipeline.begin(&registration(seed, DETECTOR)).is_none());
    }
    assert_eq!(station.pipeline.stats.registrations.new.total(), 200);
    let ended = || counters.failed.total() + counters.dropped.total();
    until("all are counted", || ended() == 100).await;
    let dropped = counters.dropped.total();
    // Two attempts are two connections; more can have been taken while the others were queued.
    assert!((80..=96).contains(&dropped), "{dropped}");
    let connections = async {
        for _ in 0..2 {
            drop(silent.accept().await.unwrap());
        }
    };
    timeout(LONG, connections).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_registrar_passes_shared_registrations_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let conf = signalling::ClientConf { generation: Some(1), ..Default::default() };
    std::fs::write(path("ClientConf"), conf.encode_to_vec()).unwrap();
    std::fs::write(path("phantoms.toml"), PHANTOMS).unwrap();
    let text = format!(
        "log_level = \"error\"\napi_port = 0\napi_bind_addr = \"127.0.0.1\"\nzmq_port = 0\n\
         zmq_bind_addr = \"127.0.0.1\"\nzmq_auth_type = \"NULL\"\nclientconf_path = \"{}\"\n",
        path("ClientConf").display()
    );
    std::fs::write(path("reg.toml"), text).unwrap();
    let setup = Setup::load(&path("reg.toml"), &path("phantoms.toml")).unwrap();
    let registrar = Registrar::start(setup, None).await.unwrap();
    let publisher = &registrar.processor().publisher;
    let at = publisher.endpoint().to_string();
    let mut other = Subscriber::connect(&at, SubscriberOptions::default()).unwrap();
    until("the other station subscribes", || publisher.peers().iter().any(|p| p.subscribed)).await;

    let hearing = sharing(&format!("http://{}/register", registrar.address()));
    hearing.pipeline.handle(&registration(7, DETECTOR)).await;
    let message = timeout(LONG, other.recv()).await.unwrap();
    let got = C2sWrapper::decode(&message[..]).unwrap();
    let mut expected = C2sWrapper::decode(&registration(7, DETECTOR)[..]).unwrap();
    expected.registration_source = Some(SHARED);
    assert_eq!(got, expected, "the client's address stays, not that of the station");
    let serving = station("");
    serving.pipeline.handle(&message).await;
    assert_eq!(serving.pipeline.stats.registrations.shared.total(), 2);
}
