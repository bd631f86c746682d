//! Publisher and subscriber over real sockets: delivery, slow and silent peers, restarts, limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use bus::{
    Greeting, Heartbeat, Mechanism, Publisher, PublisherOptions, State, Subscriber,
    SubscriberOptions,
};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Far above anything these tests wait for; only a hang reaches it.
const LONG: Duration = Duration::from_secs(60);

async fn publisher(endpoint: &str) -> Publisher {
    Publisher::bind(endpoint, PublisherOptions::default()).await.unwrap()
}

/// Waits until `count` subscribers have subscribed.
async fn subscribed(publisher: &Publisher, count: usize) {
    timeout(LONG, async {
        while publisher.peers().iter().filter(|p| p.subscribed).count() != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("subscriptions arrive");
}

async fn receives(subscriber: &mut Subscriber, message: &'static str) {
    let got = timeout(LONG, subscriber.recv()).await.expect("message arrives");
    assert_eq!(got, message);
}

#[tokio::test]
async fn delivers_over_tcp_path_and_abstract_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let endpoints = [
        "tcp://127.0.0.1:*".to_owned(),
        format!("ipc://{}/bus", dir.path().display()),
        format!("ipc://@bus-test-{}", std::process::id()),
    ];
    for endpoint in endpoints {
        let publisher = publisher(&endpoint).await;
        let at = publisher.endpoint().to_string();
        let mut subscriber = Subscriber::connect(&at, SubscriberOptions::default()).unwrap();
        subscribed(&publisher, 1).await;
        let fanout = publisher.publish(Bytes::from_static(b"one"));
        assert_eq!((fanout.queued, fanout.dropped), (1, 0));
        publisher.publish(Bytes::from(vec![7; 100_000]));
        receives(&mut subscriber, "one").await;
        assert_eq!(timeout(LONG, subscriber.recv()).await.unwrap(), vec![7; 100_000]);
        assert_eq!(subscriber.state(), State::Connected);
        assert_eq!(subscriber.stats().received, 2);
    }
}

#[tokio::test]
async fn filters_by_topic_prefix() {
    let publisher = publisher("tcp://127.0.0.1:0").await;
    let at = publisher.endpoint().to_string();
    let options =
        SubscriberOptions { topics: vec![Bytes::from_static(b"ab")], ..Default::default() };
    let mut subscriber = Subscriber::connect(&at, options).unwrap();
    subscribed(&publisher, 1).await;
    assert_eq!(publisher.publish(Bytes::from_static(b"b")).queued, 0);
    assert_eq!(publisher.publish(Bytes::from_static(b"abc")).queued, 1);
    receives(&mut subscriber, "abc").await;
}

/// P34: one subscriber that stopped reading costs only itself, and its drops are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_subscriber_delays_nobody_and_its_drops_are_counted() {
    const MESSAGES: u32 = 50_000;
    let publisher = publisher("tcp://127.0.0.1:0").await;
    let at = publisher.endpoint().to_string();
    let stopped = Subscriber::connect(&at, SubscriberOptions::default()).unwrap();
    let mut readers = Vec::new();
    let progress: [Arc<AtomicU32>; 2] = Default::default();
    for done in progress.clone() {
        let mut subscriber = Subscriber::connect(&at, SubscriberOptions::default()).unwrap();
        readers.push(tokio::spawn(async move {
            for n in 0..MESSAGES {
                let message = timeout(LONG, subscriber.recv()).await.expect("no gap");
                assert_eq!(message[..4], n.to_be_bytes());
                done.store(n + 1, Relaxed);
            }
        }));
    }
    subscribed(&publisher, 3).await;
    let mut body = vec![0; 300];
    for n in 0..MESSAGES {
        body[..4].copy_from_slice(&n.to_be_bytes());
        publisher.publish(Bytes::copy_from_slice(&body));
        // No faster than the two readers, who must lose nothing.
        while progress.iter().any(|done| n - done.load(Relaxed).min(n) > 500) {
            tokio::task::yield_now().await;
        }
    }
    for reader in readers {
        reader.await.unwrap();
    }
    let peers = publisher.peers();
    let dropped: Vec<u64> = peers.iter().map(|p| p.dropped).filter(|&d| d > 0).collect();
    assert_eq!(dropped.len(), 1, "only the stopped subscriber loses messages");
    assert_eq!(publisher.stats().dropped, dropped[0]);
    assert!(peers.iter().all(|p| p.queued <= 1000));
    drop(stopped);
}

/// P33: the publisher is restarted three times; each time the subscription is made again.
#[tokio::test]
async fn reconnects_and_subscribes_again_after_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let at = format!("ipc://{}/bus", dir.path().display());
    let mut subscriber = Subscriber::connect(&at, SubscriberOptions::default()).unwrap();
    for round in 1..=4 {
        let publisher = publisher(&at).await;
        subscribed(&publisher, 1).await;
        publisher.publish(Bytes::from_static(b"again"));
        receives(&mut subscriber, "again").await;
        assert_eq!(subscriber.stats().connected, round);
        publisher.close(LONG).await;
    }
    let reason = timeout(LONG, async {
        let mut states = subscriber.watch();
        states.wait_for(|s| matches!(s, State::Disconnected(_))).await.unwrap().clone()
    });
    assert!(reason.await.unwrap().to_string().starts_with("disconnected: "));
}

/// P33: the path goes silent without a reset; heartbeats find out and the subscriber reconnects.
#[tokio::test]
async fn heartbeats_find_a_silent_path() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("tcp://{}", listener.local_addr().unwrap());
    let options = SubscriberOptions {
        heartbeat: Some(Heartbeat {
            interval: Duration::from_millis(50),
            timeout: Duration::from_millis(50),
        }),
        ..Default::default()
    };
    let subscriber = Subscriber::connect(&at, options).unwrap();
    let mut states = subscriber.watch();
    let mut held = Vec::new();
    for _ in 0..2 {
        let (mut stream, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
        stream
            .write_all(&Greeting { minor: 1, mechanism: Mechanism::Null }.encode())
            .await
            .unwrap();
        stream.write_all(b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB").await.unwrap();
        held.push(stream);
    }
    let silent = timeout(
        LONG,
        states.wait_for(|s| s.to_string().contains("no sign of life from the peer for 50 ms")),
    );
    silent.await.unwrap().unwrap();
}

#[tokio::test]
async fn says_why_a_handshake_failed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("tcp://{}", listener.local_addr().unwrap());
    let subscriber = Subscriber::connect(&at, SubscriberOptions::default()).unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut greeting = Greeting { minor: 1, mechanism: Mechanism::Null }.encode();
    greeting[12..17].copy_from_slice(b"CURVE");
    stream.write_all(&greeting).await.unwrap();
    let wanted = State::HandshakeFailed(
        "peer requires mechanism CURVE, this side is configured for NULL".to_owned(),
    );
    timeout(LONG, subscriber.watch().wait_for(|s| *s == wanted)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_publisher_cuts_slow_oversized_foreign_and_too_many_peers() {
    let options = PublisherOptions {
        handshake_timeout: Duration::from_millis(100),
        max_connections: 1,
        max_frame: 100,
        ..Default::default()
    };
    let publisher = Publisher::bind("tcp://127.0.0.1:0", options).await.unwrap();
    let at = publisher.endpoint().to_string();
    let address = at.strip_prefix("tcp://").unwrap();
    let ended = async |stream: &mut TcpStream| {
        let mut sink = Vec::new();
        // A reset is an end as well.
        let _ =
            timeout(LONG, stream.read_to_end(&mut sink)).await.expect("closed by the publisher");
    };

    let mut slow = TcpStream::connect(address).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    ended(&mut second).await;
    assert_eq!(publisher.stats().refused, 1);
    ended(&mut slow).await;

    let mut foreign = TcpStream::connect(address).await.unwrap();
    foreign.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    ended(&mut foreign).await;

    let mut large = TcpStream::connect(address).await.unwrap();
    large.write_all(&Greeting { minor: 1, mechanism: Mechanism::Null }.encode()).await.unwrap();
    large.write_all(b"\x06\0\0\0\0\x40\0\0\0").await.unwrap();
    ended(&mut large).await;
    timeout(LONG, async {
        while publisher.stats().failed < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(
        publisher.stats().last_error.unwrap(),
        "frame of 1073741824 bytes is above the limit of 100"
    );
}

#[tokio::test]
async fn close_writes_out_what_is_queued() {
    let publisher = publisher("tcp://127.0.0.1:0").await;
    let at = publisher.endpoint().to_string();
    let mut subscriber = Subscriber::connect(&at, SubscriberOptions::default()).unwrap();
    subscribed(&publisher, 1).await;
    for _ in 0..1000 {
        publisher.publish(Bytes::from_static(b"last words"));
    }
    let closing = tokio::spawn(publisher.close(LONG));
    for _ in 0..1000 {
        receives(&mut subscriber, "last words").await;
    }
    closing.await.unwrap();
}

#[tokio::test]
async fn a_bound_address_in_use_is_named_with_a_remedy() {
    let at = format!("ipc://@bus-twice-{}", std::process::id());
    let _first = publisher(&at).await;
    let error = Publisher::bind(&at, PublisherOptions::default()).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {at}: ")), "{error}");
    assert!(error.ends_with("; stop the other process that listens there"), "{error}");
}
