//! `registrar-curve.json`: greetings, handshakes and messages of both mechanisms.

use std::time::{Duration, Instant};

use std::sync::Arc;

use bus::{
    Admitted, Connection, Curve, CurveClient, CurveKeys, CurveServer, Entropy, Event, Heartbeat,
    Role, Settings,
};
use vectors::{Tally, Value, hex, load};

fn settings(role: Role, minor: u8) -> Settings {
    Settings {
        role,
        minor,
        max_frame: 4096,
        handshake_timeout: Duration::from_secs(10),
        heartbeat: None,
    }
}

fn connection(role: Role, minor: u8) -> Connection {
    Connection::new(settings(role, minor), Instant::now())
}

fn feed(connection: &mut Connection, bytes: &[u8]) {
    connection.input().extend_from_slice(bytes);
    connection.received(Instant::now()).unwrap();
}

#[test]
fn null_frames() {
    const FILE: &str = "registrar-curve.json";
    let file = load(FILE);
    let greeting = hex(&file["greeting_null"]);
    let ready_pub = hex(&file["null_ready_pub_frame"]);
    let ready_sub = hex(&file["null_ready_sub_frame"]);
    let mut tally = Tally::new(FILE);

    for (minor, subscription) in
        [(1, &file["null_subscribe_v31_frame"]), (0, &file["null_subscribe_v30_frame"])]
    {
        let subscription = hex(subscription);
        let mut greeting = greeting.clone();
        greeting[11] = minor;

        let mut subscriber = connection(Role::Subscriber, minor);
        assert_eq!(subscriber.output()[..], greeting);
        feed(&mut subscriber, &greeting);
        assert_eq!(subscriber.output()[64..], ready_sub);
        feed(&mut subscriber, &ready_pub);
        assert_eq!(subscriber.event(), Some(Event::Ready));
        subscriber.output().clear();
        subscriber.subscribe(b"");
        assert_eq!(subscriber.output()[..], subscription);

        let mut publisher = connection(Role::Publisher, minor);
        feed(&mut publisher, &greeting);
        assert_eq!(publisher.output()[64..], ready_pub);
        feed(&mut publisher, &ready_sub);
        feed(&mut publisher, &subscription);
        assert_eq!(publisher.event(), Some(Event::Ready));
        assert_eq!(publisher.event(), Some(Event::Subscribe(Default::default())));
        tally.pass();
    }
    tally.finish();
}

/// Both sides of the recorded handshake, with its keys and nonces, each step compared.
fn curve(file: &Value, minor: u8) -> (Connection, Connection) {
    let key = |name: &str| <[u8; 32]>::try_from(hex(&file[name])).unwrap();
    let entropy = |short: &str, nonce: &str| Entropy {
        short_secret: key(short),
        nonce: hex(&file[nonce]).try_into().unwrap(),
        cookie: hex(&file["cookie_opaque"]).try_into().unwrap(),
    };
    let (client_keys, server_keys) =
        (CurveKeys::new(&key("client_secret")), CurveKeys::new(&key("server_secret")));
    assert_eq!(*client_keys.public(), key("client_public"));
    assert_eq!(*server_keys.public(), key("server_public"));
    let admitted = Admitted::Listed([key("client_public")].into());
    let server = CurveServer { keys: server_keys, admitted: admitted.into(), observer: None };
    let client = CurveClient { keys: client_keys, server: key("server_public") };
    let client = Curve::client(Arc::new(client), entropy("client_short_secret", "vouch_nonce"));
    let server = Curve::server(Arc::new(server), entropy("server_short_secret", "welcome_nonce"));

    let mut heart = settings(Role::Subscriber, minor);
    heart.heartbeat =
        Some(Heartbeat { interval: Duration::from_secs(30), timeout: Duration::from_secs(1) });
    let mut client = Connection::secured(heart, Some(client), Instant::now());
    let mut server =
        Connection::secured(settings(Role::Publisher, minor), Some(server), Instant::now());
    let mut greeting = hex(&file["greeting_curve"]);
    greeting[11] = minor;
    for side in [&mut client, &mut server] {
        assert_eq!(side.output().split()[..], greeting);
        feed(side, &greeting);
    }
    assert!(server.output().is_empty(), "the client begins");
    for (from, to, name) in [
        (true, false, "hello_frame"),
        (false, true, "welcome_frame"),
        (true, false, "initiate_frame"),
        (false, true, "ready_frame"),
    ] {
        let side = |is_client: bool| if is_client { 0 } else { 1 };
        let sides = [&mut client, &mut server];
        let bytes = sides[side(from)].output().split();
        assert_eq!(bytes[..], hex(&file[name]), "{name}");
        feed(sides[side(to)], &bytes);
    }
    assert_eq!((client.event(), server.event()), (Some(Event::Ready), Some(Event::Ready)));
    assert_eq!(server.peer_key(), Some(&key("client_public")));
    (client, server)
}

#[test]
fn curve_handshake_and_messages() {
    const FILE: &str = "registrar-curve.json";
    let file = load(FILE);
    let mut tally = Tally::new(FILE);
    let messages = file["messages"].as_array().unwrap();
    let frame = |at: usize| hex(&messages[at]["frame"]);

    for (minor, subscription) in [(0, frame(0)), (1, frame(1))] {
        let (mut client, mut server) = curve(&file, minor);
        client.subscribe(b"");
        assert_eq!(client.output().split()[..], subscription);
        feed(&mut server, &subscription);
        assert_eq!(server.event(), Some(Event::Subscribe(Default::default())));
        let at = client.deadline().unwrap();
        client.expire(at).unwrap();
        let ping = client.output().split();
        assert_eq!(ping[..], frame(2));

        server.send(b"hello");
        feed(&mut server, &ping);
        server.send(&hex(&messages[5]["payload"]));
        let from_server = server.output().split();
        assert_eq!(from_server[..], [frame(3), frame(4), frame(5)].concat());
        feed(&mut client, &from_server);
        assert_eq!(client.event(), Some(Event::Message("hello".into())));
        assert_eq!(client.event(), Some(Event::Message(hex(&messages[5]["payload"]).into())));
        tally.pass();
    }
    tally.finish();
}
