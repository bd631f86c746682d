//! The DNS registrar over loopback, with a real subscriber: every recorded exchange over UDP and TCP,
//! bounds, hostile queries.

#[allow(dead_code, reason = "each test file uses some of it")]
mod stage;

use std::net::SocketAddr;

use proptest::prelude::Rng as _;
use registration::dns::{Asked, Name, read_reply};
use signalling::{DnsPartReq, DnsPartResp, Message};
use stage::{LONG, Stage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use vectors::{Tally, hex, load};

const CONF: &str = "dns_listen_addr = \"127.0.0.1:0\"\ndomain = \"r.example.com\"\n";

/// A query that is answered with NXDOMAIN by everyone: what is answered before it was read before it.
const PING: &[u8] = b"\xee\xee\x01\0\0\x01\0\0\0\0\0\0\x01x\x03org\0\0\x10\0\x01";

struct Udp(UdpSocket);

impl Udp {
    async fn to(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address).await.unwrap();
        Self(socket)
    }

    /// The reply to `query`; `None` when there is none before the one to a query sent later. The
    /// registrar of these tests has one worker, so replies keep their order.
    async fn ask(&self, query: &[u8]) -> Option<Vec<u8>> {
        self.0.send(query).await.unwrap();
        self.0.send(PING).await.unwrap();
        let mut reply = None;
        let mut buffer = [0; 4096];
        loop {
            let length = timeout(LONG, self.0.recv(&mut buffer)).await.unwrap().unwrap();
            if buffer.starts_with(b"\xee\xee") {
                return reply;
            }
            assert_eq!(reply.replace(buffer[..length].to_vec()), None, "one reply at most");
        }
    }
}

async fn stage(extra: &str) -> Stage {
    Stage::of_vectors(false, &format!("{CONF}dns_workers = 1\n{extra}")).await
}

/// Replies are compared byte for byte. A part that comes again after its registration was processed gets
/// the kept reply and is not published again (`spec/registrar.md` 9.8 and 15.2).
#[tokio::test]
async fn recorded_exchanges_over_udp() {
    for name in ["registrar-dns-exchange.json", "registrar-dns-legacy.json"] {
        let mut stage = stage("").await;
        let udp = Udp::to(stage.registrar.open().dns.unwrap()).await;
        let mut tally = Tally::new(name);
        for case in load(name)["cases"].as_array().unwrap() {
            let label = case["name"].as_str().unwrap();
            let before = stage.published();
            let reply = udp.ask(&hex(&case["query"])).await;
            let expected = case["response"].as_str();
            assert_eq!(reply.map(::hex::encode).as_deref(), expected, "{label}");
            let again = label.contains("repeated after completion");
            let none = Vec::new();
            let published = case["published"].as_array().unwrap_or(&none);
            let published = if again { &none } else { published };
            if name.contains("exchange") {
                assert_eq!(stage.published() - before, published.len() as u64, "{label}");
            }
            for message in published {
                stage.expect(&hex(message), label).await;
            }
            tally.pass();
        }
        tally.finish();
    }
}

/// TCP asks for no payload size; everything else is the same.
#[tokio::test]
async fn recorded_exchanges_over_tcp() {
    const FILE: &str = "registrar-dns-exchange.json";
    let stage = stage("").await;
    let mut tally = Tally::new(FILE);
    let mut stream = TcpStream::connect(stage.registrar.open().dns.unwrap()).await.unwrap();
    for case in load(FILE)["cases"].as_array().unwrap() {
        let label = case["name"].as_str().unwrap();
        if ["no OPT", "EDNS size 1231"].contains(&label) {
            continue;
        }
        for query in [&hex(&case["query"])[..], PING] {
            stream.write_u16(query.len() as u16).await.unwrap();
            stream.write_all(query).await.unwrap();
        }
        let mut reply = None;
        loop {
            let length = timeout(LONG, stream.read_u16()).await.unwrap().unwrap();
            let mut bytes = vec![0; usize::from(length)];
            stream.read_exact(&mut bytes).await.unwrap();
            if bytes.starts_with(b"\xee\xee") {
                break;
            }
            assert_eq!(reply.replace(bytes), None, "one reply at most");
        }
        assert_eq!(reply.map(::hex::encode).as_deref(), case["response"].as_str(), "{label}");
        tally.pass();
    }
    tally.finish();
}

fn ask(id: u8, number: u32, total: u32, data: &[u8]) -> Asked {
    let part = DnsPartReq {
        id: Some(vec![id; 8]),
        part_num: Some(number),
        total_parts: Some(total),
        data: Some(data.to_vec()),
    };
    seal(&part.encode_to_vec())
}

fn seal(plaintext: &[u8]) -> Asked {
    let file = load("registrar-dns-exchange.json");
    let public = hex(&file["context"]["noise_static_public"]).try_into().unwrap();
    let zone = Name::parse("r.example.com").unwrap();
    Asked::seal(&zone, &public, &[77; 32], 5, plaintext).unwrap()
}

fn part_reply(asked: &Asked, reply: &[u8]) -> DnsPartResp {
    let text = read_reply(reply, &Name::parse("r.example.com").unwrap()).unwrap();
    DnsPartResp::decode(&asked.open(&text).unwrap()[..]).unwrap()
}

/// The datagram that ends the reference's process: everything goes on.
#[tokio::test]
async fn a_part_without_total_ends_nothing() {
    let stage = stage("").await;
    let udp = Udp::to(stage.registrar.open().dns.unwrap()).await;
    let part = DnsPartReq { id: Some(vec![1; 8]), data: Some(vec![2]), ..Default::default() };
    for _ in 0..3 {
        assert_eq!(udp.ask(&seal(&part.encode_to_vec()).query).await, None);
    }
    assert_eq!(stage.count("dns_dropped_message"), 3);
    let asked = ask(2, 0, 2, b"x");
    let reply = udp.ask(&asked.query).await.unwrap();
    assert_eq!(part_reply(&asked, &reply).waiting, Some(true));
}

#[tokio::test]
async fn pending_registrations_are_bounded_and_counted() {
    let stage = stage("dns_max_pending = 32\n").await;
    let udp = Udp::to(stage.registrar.open().dns.unwrap()).await;
    for id in 0..200 {
        let asked = ask(id, 0, 2, b"half of it");
        let reply = udp.ask(&asked.query).await.unwrap();
        assert_eq!(part_reply(&asked, &reply).waiting, Some(true));
    }
    let evicted = stage.count("dns_parts_evicted");
    assert!(evicted >= 200 - 32, "{evicted}");
}

/// Errors are limited per network, answers are not.
#[tokio::test]
async fn errors_do_not_flood_and_answers_go_on() {
    let stage = stage("").await;
    let address = stage.registrar.open().dns.unwrap();
    let udp = Udp::to(address).await;
    for _ in 0..3000 {
        udp.0.send(PING).await.unwrap();
        tokio::task::yield_now().await;
    }
    let asked = ask(9, 0, 2, b"x");
    let other = Udp::to(address).await;
    other.0.send(&asked.query).await.unwrap();
    let mut buffer = [0; 4096];
    let length = timeout(LONG, other.0.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(part_reply(&asked, &buffer[..length]).waiting, Some(true));
    assert!(stage.count("dns_errors_rate_limited") > 0);
}

/// A TCP peer that says nothing, half a query, or too much, holds nobody up.
#[tokio::test]
async fn slow_and_long_tcp_peers_are_apart() {
    let stage = stage("").await;
    let address = stage.registrar.open().dns.unwrap();
    let mut held = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&[0]).await.unwrap();
        held.push(stream);
    }
    let mut long = TcpStream::connect(address).await.unwrap();
    long.write_all(&[0xff, 0xff]).await.unwrap();
    let mut nothing = Vec::<u8>::new();
    timeout(LONG, long.read_to_end(&mut nothing)).await.unwrap().unwrap();
    assert!(nothing.is_empty());
    let mut good = TcpStream::connect(address).await.unwrap();
    good.write_u16(PING.len() as u16).await.unwrap();
    good.write_all(PING).await.unwrap();
    assert!(timeout(LONG, good.read_u16()).await.unwrap().unwrap() > 12);
}

#[tokio::test]
async fn mutated_queries_never_break_the_service() {
    let stage = stage("").await;
    let udp = Udp::to(stage.registrar.open().dns.unwrap()).await;
    let mut rng = proptest::test_runner::TestRng::deterministic_rng(
        proptest::test_runner::RngAlgorithm::ChaCha,
    );
    let file = load("registrar-dns-exchange.json");
    let cases = file["cases"].as_array().unwrap();
    for _ in 0..2000 {
        let mut query = hex(&cases[rng.next_u32() as usize % cases.len()]["query"]);
        for _ in 0..rng.next_u32() % 5 {
            if !query.is_empty() {
                let at = rng.next_u32() as usize % query.len();
                query[at] = rng.next_u32() as u8;
            }
        }
        query.truncate(rng.next_u32() as usize % (query.len() + 1));
        udp.0.send(&query).await.unwrap();
    }
    let asked = ask(200, 0, 2, b"x");
    udp.0.send(&asked.query).await.unwrap();
    let mut buffer = [0; 4096];
    loop {
        let length = timeout(LONG, udp.0.recv(&mut buffer)).await.unwrap().unwrap();
        let zone = Name::parse("r.example.com").unwrap();
        if read_reply(&buffer[..length], &zone).is_some_and(|text| asked.open(&text).is_some()) {
            break;
        }
    }
}
