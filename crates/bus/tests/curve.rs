//! CURVE between two connections, without sockets: wrong keys, unlisted clients, garbage at every
//! step. And over sockets: what operator and subscriber learn.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bus::{
    Admitted, Connection, Curve, CurveClient, CurveError, CurveKeys, CurveServer, Entropy, Event,
    GREETING_LEN, ProtocolError, Publisher, PublisherOptions, Role, Settings, State, Subscriber,
    SubscriberOptions,
};
use proptest::prelude::*;
use tokio::time::timeout;

/// Far above anything these tests wait for; only a hang reaches it.
const LONG: Duration = Duration::from_secs(60);

fn keys(n: u8) -> CurveKeys {
    CurveKeys::new(&[n; 32])
}

fn entropy(n: u8) -> Entropy {
    Entropy { short_secret: [n; 32], nonce: [n; 16], cookie: [n; 96] }
}

fn server(admitted: Admitted) -> Arc<CurveServer> {
    Arc::new(CurveServer { keys: keys(1), admitted: admitted.into(), observer: None })
}

fn client(own: u8, server: u8) -> Arc<CurveClient> {
    Arc::new(CurveClient { keys: keys(own), server: *keys(server).public() })
}

fn listed() -> Admitted {
    Admitted::Listed([*keys(2).public()].into())
}

fn settings(role: Role) -> Settings {
    Settings {
        role,
        minor: 1,
        max_frame: 4096,
        handshake_timeout: Duration::from_secs(10),
        heartbeat: None,
    }
}

fn pair(server: Arc<CurveServer>, client: Arc<CurveClient>) -> [Connection; 2] {
    let now = Instant::now();
    let publisher = Curve::server(server, entropy(9));
    let subscriber = Curve::client(client, entropy(8));
    [
        Connection::secured(settings(Role::Publisher), Some(publisher), now),
        Connection::secured(settings(Role::Subscriber), Some(subscriber), now),
    ]
}

/// Carries at most `turns` batches of bytes, from the publisher first; each side's end.
fn settle(
    sides: &mut [Connection; 2],
    turns: usize,
    mut alter: impl FnMut(usize, &mut Vec<u8>),
) -> [Option<ProtocolError>; 2] {
    let mut ends = [None, None];
    for turn in 0..turns {
        let (from, to) = (turn % 2, (turn + 1) % 2);
        let mut bytes = sides[from].output().split().to_vec();
        alter(turn, &mut bytes);
        if ends[to].is_none() {
            sides[to].input().extend_from_slice(&bytes);
            ends[to] = sides[to].received(Instant::now()).err();
        }
    }
    ends
}

/// The publisher's greeting, the subscriber's with HELLO, WELCOME, INITIATE, READY, and one more.
const WHOLE: usize = 6;

#[test]
fn a_listed_client_and_any_client_where_all_are_admitted_get_through() {
    for admitted in [listed(), Admitted::All] {
        let mut sides = pair(server(admitted), client(2, 1));
        assert_eq!(settle(&mut sides, WHOLE, |_, _| {}), [None, None]);
        assert!(sides.iter().all(Connection::is_ready));
        assert_eq!(sides[0].peer_key(), Some(keys(2).public()));
        sides[1].subscribe(b"t");
        sides[0].send(b"topic");
        assert_eq!(settle(&mut sides, 2, |_, _| {}), [None, None]);
        assert_eq!(sides[0].event(), Some(Event::Ready));
        assert_eq!(sides[0].event(), Some(Event::Subscribe("t".into())));
        assert_eq!(sides[1].event(), Some(Event::Ready));
        assert_eq!(sides[1].event(), Some(Event::Message("topic".into())));
    }
}

#[test]
fn an_unlisted_client_is_told_the_status_and_both_sides_the_key() {
    let unlisted = *keys(3).public();
    for admitted in [listed(), Admitted::Listed(Default::default())] {
        let mut sides = pair(server(admitted), client(3, 1));
        let ends = settle(&mut sides, WHOLE, |_, _| {});
        let [Some(publisher), Some(subscriber)] = ends else { panic!("{ends:?}") };
        assert_eq!(publisher, ProtocolError::Curve(CurveError::NotAdmitted(unlisted)));
        let refused = CurveError::Refused { key: unlisted, status: "400".to_owned() };
        assert_eq!(subscriber, ProtocolError::Curve(refused));
        assert!(
            !sides[0].is_ready() && sides[0].event().is_none() && sides[0].peer_key().is_none()
        );
    }
}

#[test]
fn a_wrong_server_key_ends_at_hello_and_the_client_knows_why() {
    let mut sides = pair(server(Admitted::All), client(2, 5));
    let [publisher, subscriber] = settle(&mut sides, WHOLE, |_, _| {});
    assert_eq!(publisher, Some(ProtocolError::Curve(CurveError::Key { command: "HELLO" })));
    assert_eq!(subscriber, None, "the server says nothing");
    let closed = sides[1].closed().unwrap();
    assert!(closed.is_handshake() && closed.to_string().contains("server key"), "{closed}");
    let end = sides[1].deadline().unwrap();
    let late = sides[1].expire(end).unwrap_err().to_string();
    assert_eq!(late, "no complete WELCOME command from the peer within 10000 ms");
}

/// A key of low order would make everybody the holder of the shared key.
#[test]
fn keys_of_low_order_open_nothing() {
    let weak = Arc::new(CurveClient { keys: keys(2), server: [0; 32] });
    let mut sides = pair(server(Admitted::All), weak);
    let [_, subscriber] = settle(&mut sides, 1, |_, _| {});
    assert_eq!(subscriber, Some(ProtocolError::Curve(CurveError::Key { command: "HELLO" })));
}

#[test]
fn a_client_without_curve_is_refused_at_the_greeting() {
    let now = Instant::now();
    let curve = Curve::server(server(Admitted::All), entropy(9));
    let mut publisher = Connection::secured(settings(Role::Publisher), Some(curve), now);
    let mut plain = Connection::new(settings(Role::Subscriber), now);
    publisher.input().extend_from_slice(&plain.output().split());
    let error = publisher.received(now).unwrap_err().to_string();
    assert_eq!(error, "peer requires mechanism NULL, this side is configured for CURVE");
}

#[test]
fn a_repeated_or_reordered_message_ends_the_connection() {
    let mut sides = pair(server(listed()), client(2, 1));
    settle(&mut sides, WHOLE, |_, _| {});
    sides[0].send(b"once");
    let bytes = sides[0].output().split();
    for expected in [Ok(()), Err(ProtocolError::Curve(CurveError::Message))] {
        sides[1].input().extend_from_slice(&bytes);
        assert_eq!(sides[1].received(Instant::now()), expected);
    }
    assert!(!ProtocolError::Curve(CurveError::Message).is_handshake());
}

#[test]
fn nothing_is_sent_in_the_clear_before_the_handshake_is_over() {
    let mut sides = pair(server(listed()), client(2, 1));
    sides[0].send(b"secret");
    assert_eq!(sides[0].output().len(), GREETING_LEN);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One altered bit in the body of any handshake command keeps the two from agreeing.
    #[test]
    fn an_altered_handshake_never_succeeds(turn in 1usize..5, at in 0usize..300, bit in 0u8..8) {
        let mut sides = pair(server(listed()), client(2, 1));
        let mut altered = false;
        settle(&mut sides, WHOLE, |now, bytes| {
            // HELLO goes out together with the greeting of its side; its padding has no meaning.
            let body = if turn == 1 { GREETING_LEN } else { 0 } + 2;
            if now == turn {
                let at = body + at % (bytes.len() - body);
                if turn != 1 || !(body + 8..body + 80).contains(&at) {
                    bytes[at] ^= 1 << bit;
                    altered = true;
                }
            }
        });
        prop_assert_eq!(sides.iter().all(Connection::is_ready), !altered);
    }

    /// Any bytes at any step are survived, and what a side keeps is bounded by a frame.
    #[test]
    fn garbage_at_every_step_is_survived(
        turns in 0usize..=WHOLE,
        garbage in prop::collection::vec(any::<u8>(), 0..400),
        framed in any::<bool>(),
    ) {
        let mut sides = pair(server(listed()), client(2, 1));
        settle(&mut sides, turns, |_, _| {});
        for side in &mut sides {
            let before = side.output().len();
            if framed {
                let kind = if side.is_ready() { bus::Kind::Message { more: false } } else { bus::Kind::Command };
                bus::Frame::encode(kind, &garbage, side.input());
            } else {
                side.input().extend_from_slice(&garbage);
            }
            let _ = side.received(Instant::now());
            prop_assert!(side.input().len() <= 4096 + GREETING_LEN + 9);
            prop_assert!(side.output().len() - before <= 512);
            while side.event().is_some() {}
        }
    }
}

async fn publisher(server: Arc<CurveServer>) -> (Publisher, String) {
    let options = PublisherOptions { curve: Some(server), ..Default::default() };
    let publisher = Publisher::bind("tcp://127.0.0.1:0", options).await.unwrap();
    let at = publisher.endpoint().to_string();
    (publisher, at)
}

fn subscriber(at: &str, client: Arc<CurveClient>) -> Subscriber {
    let options = SubscriberOptions { curve: Some(client), ..Default::default() };
    Subscriber::connect(at, options).unwrap()
}

async fn failure(subscriber: &Subscriber) -> String {
    let mut states = subscriber.watch();
    let failed = states.wait_for(|state| matches!(state, State::HandshakeFailed(_)));
    timeout(LONG, failed).await.expect("reported").unwrap().to_string()
}

static DECISIONS: Mutex<Vec<([u8; 32], bool)>> = Mutex::new(Vec::new());

fn observe(key: &[u8; 32], admitted: bool) {
    DECISIONS.lock().unwrap().push((*key, admitted));
}

/// P36, and the acceptance matrix of `spec/registrar.md` 10.2 over real sockets.
#[tokio::test]
async fn subscribers_with_wrong_keys_say_why_and_hear_nothing() {
    let server = CurveServer { keys: keys(1), admitted: listed().into(), observer: Some(observe) };
    let (publisher, at) = publisher(Arc::new(server)).await;
    let mut right = subscriber(&at, client(2, 1));
    timeout(LONG, right.connected()).await.unwrap();
    let (mut unlisted, mut wrong) = (subscriber(&at, client(3, 1)), subscriber(&at, client(2, 4)));
    let mut plain = Subscriber::connect(&at, SubscriberOptions::default()).unwrap();

    let text = failure(&unlisted).await;
    assert!(text.contains("with status 400"), "{text}");
    let text = failure(&wrong).await;
    assert!(text.contains("after HELLO; most likely its key is not the configured"), "{text}");
    let text = failure(&plain).await;
    assert!(text.contains("peer requires mechanism CURVE"), "{text}");

    timeout(LONG, async {
        while !publisher.peers().iter().any(|peer| peer.subscribed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(publisher.peers().len(), 1);
    assert_eq!(publisher.peers()[0].key, Some(*keys(2).public()));
    let fanout = publisher.publish("registration".into());
    assert_eq!((fanout.queued, fanout.dropped), (1, 0));
    assert_eq!(timeout(LONG, right.recv()).await.unwrap(), "registration");
    assert_eq!((unlisted.try_recv(), wrong.try_recv(), plain.try_recv()), (None, None, None));
    let decisions = DECISIONS.lock().unwrap();
    assert!(decisions.contains(&(*keys(2).public(), true)));
    assert!(decisions.contains(&(*keys(3).public(), false)));
    assert!(!decisions.iter().any(|(key, admitted)| *key == *keys(3).public() && *admitted));
}

/// P36: the registrar was switched to NULL, or is something that answers nothing.
#[tokio::test]
async fn a_publisher_without_curve_and_a_mute_one_are_failed_handshakes() {
    let null = Publisher::bind("tcp://127.0.0.1:0", PublisherOptions::default()).await.unwrap();
    let text = failure(&subscriber(&null.endpoint().to_string(), client(2, 1))).await;
    assert!(text.contains("peer requires mechanism NULL, this side is configured for CURVE"));

    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("tcp://{}", mute.local_addr().unwrap());
    let limit = Duration::from_millis(100);
    let options = SubscriberOptions {
        curve: Some(client(2, 1)),
        handshake_timeout: limit,
        ..Default::default()
    };
    let subscriber = Subscriber::connect(&at, options).unwrap();
    let text = failure(&subscriber).await;
    assert!(text.contains("no complete greeting from the peer within 100 ms"), "{text}");
}

/// P36: the registrar was switched to CURVE. Every attempt of a subscriber without it ends for the same
/// reason, whichever side is quicker.
#[tokio::test]
async fn a_subscriber_without_curve_is_told_so_every_time() {
    let (_publisher, at) = publisher(server(Admitted::All)).await;
    let options =
        SubscriberOptions { reconnect_max: Duration::from_millis(100), ..Default::default() };
    let subscriber = Subscriber::connect(&at, options).unwrap();
    let mut states = subscriber.watch();
    let attempts = async {
        while subscriber.stats().failed < 12 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let state = states.borrow_and_update().clone();
            assert!(!matches!(state, State::Disconnected(_)), "{state}");
        }
    };
    timeout(LONG, attempts).await.unwrap();
    assert!(failure(&subscriber).await.contains("peer requires mechanism CURVE"));
}

/// One bad peer does not disturb the others.
#[tokio::test]
async fn one_bad_peer_among_many_disturbs_nobody() {
    let (publisher, at) = publisher(server(Admitted::All)).await;
    let mut good: Vec<Subscriber> = (10..40).map(|n| subscriber(&at, client(n, 1))).collect();
    let _bad = subscriber(&at, client(2, 4));
    for subscriber in &good {
        timeout(LONG, subscriber.connected()).await.unwrap();
    }
    timeout(LONG, async {
        while publisher.peers().iter().filter(|peer| peer.subscribed).count() != good.len() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    publisher.publish("for all".into());
    for subscriber in &mut good {
        assert_eq!(timeout(LONG, subscriber.recv()).await.unwrap(), "for all");
    }
}
