//! The NULL part of `registrar-curve.json`: greeting, READY and subscription frames.

use std::time::{Duration, Instant};

use bus::{Connection, Event, Mechanism, Role, Settings};
use vectors::{Tally, hex, load};

fn connection(role: Role, minor: u8) -> Connection {
    let settings = Settings {
        role,
        mechanism: Mechanism::Null,
        minor,
        max_frame: 4096,
        handshake_timeout: Duration::from_secs(10),
        heartbeat: None,
    };
    Connection::new(settings, Instant::now())
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
