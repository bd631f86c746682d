//! Both channels end to end: a hub and a publisher on one side, a table on the other.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use session::hub::{Hub, Snapshot};
use session::redis_in::subscribe;
use session::redis_out::{Announcement, LinkState, RedisPublisher, Registrations};
use session::watch::{DetectorId, Watch, watch};
use session::{Proto, SessionKey, SessionSink};
use signalling::StationOperations;

fn key(n: u8) -> SessionKey {
    let client = [203, 0, 113, n].into();
    SessionKey::new(Proto::Tcp, [192, 0, 2, n].into(), client, 443).unwrap()
}

const HOUR: Duration = Duration::from_secs(3600);

/// A detector's table, and an application's registrations.
#[derive(Default)]
struct Table(Mutex<HashMap<SessionKey, Duration>>);

impl Table {
    fn has(&self, n: u8) -> bool {
        self.0.lock().contains_key(&key(n))
    }

    fn of(keys: &[u8]) -> Arc<Self> {
        let table = Self::default();
        table.0.lock().extend(keys.iter().map(|n| (key(*n), HOUR)));
        Arc::new(table)
    }
}

impl SessionSink for Table {
    fn upsert(&self, key: SessionKey, remaining: Duration) {
        let mut table = self.0.lock();
        let entry = table.entry(key).or_default();
        *entry = remaining.max(*entry);
    }

    fn pending(&self, key: SessionKey, deadline: Duration) {
        assert!(deadline <= Duration::from_secs(1));
        self.0.lock().insert(key, Duration::ZERO);
    }

    fn remove(&self, key: SessionKey) {
        self.0.lock().remove(&key);
    }

    fn clear(&self, confirmed: &dyn Fn(&SessionKey) -> bool) {
        self.0.lock().retain(|key, _| confirmed(key));
    }
}

impl Snapshot for Table {
    fn sessions(&self) -> Vec<(SessionKey, Duration)> {
        self.0.lock().iter().map(|(k, d)| (*k, *d)).collect()
    }
}

impl Registrations for Table {
    fn valid(&self) -> Vec<(Announcement, Duration)> {
        let announce = |key: &SessionKey| Announcement {
            key: *key,
            client: std::net::IpAddr::V4(key.client.unwrap()),
        };
        self.0.lock().iter().map(|(k, d)| (announce(k), *d)).collect()
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("after 10 s still not: {what}");
}

fn id() -> DetectorId {
    DetectorId { name: "test".into(), boot_id: [7; 16] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detector_knows_every_session_before_it_starts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(session::socket_name(0));
    let application = Table::of(&[1, 2]);
    let hub = Hub::new([1; 16], 100, application);
    let server = hub.serve(&path).unwrap();
    let table = Arc::new(Table::default());
    let channel = watch(path, id(), table.clone());
    assert!(channel.first_snapshot(Duration::from_secs(5)).await);
    assert!(table.has(1) && table.has(2));

    hub.pending(key(3), Duration::from_millis(700));
    until("pending arrives", || table.has(3)).await;
    hub.upsert(key(4), HOUR);
    hub.remove(key(1));
    until("changes arrive", || table.has(4) && !table.has(1)).await;
    server.abort();
}

#[tokio::test]
async fn without_a_socket_a_detector_starts_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let channel = watch(dir.path().join("absent.sock"), id(), Arc::new(Table::default()));
    assert!(!channel.first_snapshot(HOUR).await);
    assert_eq!(channel.describe(), "absent: no session socket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_application_feeds_beside_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session.sock");
    let old = Hub::new([1; 16], 100, Table::of(&[1, 2]));
    let first = old.serve(&path).unwrap();
    let table = Arc::new(Table::default());
    let channel = watch(path.clone(), id(), table.clone());
    until("first snapshot", || table.has(1)).await;

    let new = Hub::new([2; 16], 100, Table::of(&[2, 3]));
    let _second = new.serve(&path).unwrap();
    until("both streams", || channel.state().streams == 2).await;
    assert!(table.has(1) && table.has(2) && table.has(3));
    // The predecessor still needs 2 although the successor lets it go.
    new.remove(key(2));
    new.upsert(key(5), HOUR);
    until("later change", || table.has(5)).await;
    assert!(table.has(2));
    first.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_a_later_snapshot_of_the_same_source_lacks_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session.sock");
    let application = Table::of(&[1, 2]);
    let hub = Hub::new([1; 16], 4, application.clone());
    let _server = hub.serve(&path).unwrap();
    let table = Arc::new(Table::default());
    let channel = watch(path.clone(), id(), table.clone());
    until("snapshot", || table.has(1) && channel.state().streams == 1).await;
    // The change is not announced: only a new snapshot can show it. A burst beyond the queue
    // cuts the slow detector off and makes it come again.
    application.0.lock().remove(&key(1));
    let hub_in_thread = Arc::clone(&hub);
    std::thread::spawn(move || {
        for _ in 0..100_000 {
            hub_in_thread.upsert(key(2), HOUR);
        }
    })
    .join()
    .unwrap();
    until("new snapshot", || !table.has(1) && table.has(2)).await;
}

struct Redis {
    child: Child,
    url: String,
}

impl Redis {
    fn start(dir: &Path) -> Self {
        let socket = dir.join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(dir)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed: apt-get install redis-server");
        Self { child, url: format!("redis+unix://{}", socket.display()) }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_carries_sessions_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = Redis::start(dir.path());
    let url = redis.url.clone();
    let application = Table::of(&[1]);
    let publisher = RedisPublisher::start(&url, application.clone());
    until("publisher connects", || publisher.state() == LinkState::Connected).await;

    let table = Arc::new(Table::default());
    let subscription = subscribe(url.clone(), "det".into(), Watch::off(), table.clone());
    // The subscriber's hello makes the application publish what it has.
    until("republished", || table.has(1)).await;
    let what = Announcement { key: key(2), client: [203, 0, 113, 2].into() };
    publisher.publish(StationOperations::New, &what, HOUR);
    until("new session", || table.has(2)).await;
    publisher.clear();
    assert!(publisher.flush(Duration::from_secs(5)).await);
    until("cleared", || table.0.lock().is_empty()).await;

    redis.child.kill().unwrap();
    redis.child.wait().unwrap();
    until("both notice", || {
        matches!(publisher.state(), LinkState::Absent(_))
            && matches!(subscription.state(), LinkState::Absent(_))
    })
    .await;
    application.0.lock().insert(key(3), HOUR);
    let _again = Redis::start(dir.path());
    until("healed", || table.has(1) && table.has(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_clear_keeps_what_a_live_stream_confirms() {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let path = dir.path().join("session.sock");
    let hub = Hub::new([1; 16], 100, Table::of(&[1]));
    let _server = hub.serve(&path).unwrap();
    let table = Arc::new(Table::default());
    let channel = watch(path, id(), table.clone());
    assert!(channel.first_snapshot(Duration::from_secs(5)).await);
    let other = RedisPublisher::start(&redis.url, Table::of(&[2]));
    let _subscription = subscribe(redis.url.clone(), "det".into(), channel, table.clone());
    until("both sessions", || table.has(1) && table.has(2)).await;
    other.clear();
    until("cleared", || !table.has(2)).await;
    assert!(table.has(1));
}

#[tokio::test]
async fn an_absent_redis_is_a_state_and_not_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("redis+unix://{}/nobody.sock", dir.path().display());
    let publisher = RedisPublisher::start(&url, Table::of(&[1]));
    until("noticed", || matches!(publisher.state(), LinkState::Absent(_))).await;
    let what = Announcement { key: key(2), client: [203, 0, 113, 2].into() };
    publisher.publish(StationOperations::New, &what, HOUR);
    assert!(!publisher.flush(Duration::from_millis(50)).await);
    let off = RedisPublisher::start("", Table::of(&[]));
    assert_eq!(off.state(), LinkState::Off);
    assert!(off.flush(Duration::ZERO).await);
}
