//! Registrations over a real NATS server with JetStream: a fleet hears everything, also what passed
//! while a station or the server was away.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bus::{NatsOptions, NatsPublisher, NatsSubscriber, State};
use bytes::Bytes;

const LIMIT: Duration = Duration::from_secs(30);

/// A server with a store of its own; it ends with the test.
struct Server {
    child: Child,
    port: u16,
    store: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let store = tempfile::tempdir().unwrap();
        let child = Self::run(port, store.path());
        Self { child, port, store }
    }

    fn run(port: u16, store: &std::path::Path) -> Child {
        Command::new("nats-server")
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
            .arg(store)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server is installed (Debian package nats-server)")
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.child = Self::run(self.port, self.store.path());
    }

    fn options(&self) -> NatsOptions {
        NatsOptions::new(&format!("nats://127.0.0.1:{}", self.port), "", None).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed by the test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn connected(mut state: tokio::sync::watch::Receiver<State>) {
    let wait = state.wait_for(|state| *state == State::Connected);
    tokio::time::timeout(LIMIT, wait).await.expect("connects in time").unwrap();
}

fn message(number: u32) -> Bytes {
    Bytes::from(number.to_be_bytes().to_vec())
}

/// The next `count` messages as numbers.
async fn hear(subscriber: &mut NatsSubscriber, count: usize) -> Vec<u32> {
    let mut heard = Vec::new();
    while heard.len() < count {
        let next = tokio::time::timeout(LIMIT, subscriber.recv());
        let bytes = next.await.unwrap_or_else(|_| panic!("{} of {count}", heard.len()));
        heard.push(u32::from_be_bytes(bytes.as_ref().try_into().unwrap()));
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn every_station_hears_everything_also_what_it_was_away_for() {
    let server = Server::start();
    let publisher = NatsPublisher::start(server.options());
    connected(publisher.watch()).await;
    let mut first = NatsSubscriber::start(server.options(), "first.example");
    let mut second = NatsSubscriber::start(server.options(), "second.example");
    connected(first.watch()).await;
    connected(second.watch()).await;
    for number in 0..1000 {
        assert!(publisher.publish(message(number)));
    }
    let all: Vec<u32> = (0..1000).collect();
    assert_eq!(hear(&mut first, 1000).await, all);
    assert_eq!(hear(&mut second, 1000).await, all);

    drop(second);
    for number in 1000..2000 {
        assert!(publisher.publish(message(number)));
    }
    let rest: Vec<u32> = (1000..2000).collect();
    assert_eq!(hear(&mut first, 1000).await, rest);
    let mut second = NatsSubscriber::start(server.options(), "second.example");
    // What was under way to the process that went comes again a little later.
    let mut heard = hear(&mut second, 1000).await;
    heard.sort_unstable();
    assert_eq!(heard, rest, "what passed while it was away");
    assert_eq!((publisher.published(), publisher.dropped()), (2000, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_loses_nothing() {
    let mut server = Server::start();
    let publisher = NatsPublisher::start(server.options());
    let mut station = NatsSubscriber::start(server.options(), "station");
    connected(publisher.watch()).await;
    connected(station.watch()).await;
    for number in 0..500 {
        publisher.publish(message(number));
    }
    let mut heard: BTreeSet<u32> = hear(&mut station, 100).await.into_iter().collect();
    server.kill();
    for number in 500..1000 {
        assert!(publisher.publish(message(number)), "offering one never waits for the server");
    }
    server.start_again();
    while heard.len() < 1000 {
        // A message may come twice, when its confirmation was lost with the server; the application
        // takes a registration that it has already for what it is.
        heard.extend(hear(&mut station, 1).await);
    }
    assert_eq!(heard.into_iter().collect::<Vec<_>>(), (0..1000).collect::<Vec<_>>());
}
