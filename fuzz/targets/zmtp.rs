//! A peer of the registration bus, from its greeting on: whatever it sends, and in whatever pieces,
//! nothing grows beyond what it sent, and the pieces change nothing.
#![no_main]

use std::time::{Duration, Instant};

use bus::{Connection, Event, GREETING_LEN, Greeting, Heartbeat, Mechanism, Role, Settings};
use libfuzzer_sys::fuzz_target;

const MAX_FRAME: usize = 64;
/// Greeting and READY of this side, and the frame around an answer.
const OWN: usize = 256;

/// READY of a peer of the wanted type.
fn ready(role: Role) -> &'static [u8] {
    match role {
        Role::Subscriber => b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB",
        Role::Publisher => b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03SUB",
    }
}

/// Feeds `pieces`; what happened, whether the connection lives, and all output.
fn feed<'a>(
    settings: Settings,
    now: Instant,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Event>, bool, Vec<u8>) {
    let mut connection = Connection::new(settings, now);
    let (mut events, mut output, mut sent) = (Vec::new(), Vec::new(), 0);
    let mut alive = true;
    for piece in pieces {
        sent += piece.len();
        connection.input().extend_from_slice(piece);
        let result = connection.received(now);
        events.extend(std::iter::from_fn(|| connection.event()));
        output.extend_from_slice(&connection.output().split());
        if let Err(error) = result {
            assert!(!error.to_string().is_empty());
            alive = false;
            break;
        }
        let held = if connection.is_ready() { MAX_FRAME + 9 } else { GREETING_LEN + MAX_FRAME + 9 };
        assert!(connection.input().len() <= held, "{} bytes kept", connection.input().len());
    }
    assert!(output.len() <= OWN + sent, "{} bytes of output for {sent}", output.len());
    if alive {
        // Time goes by without the peer.
        for _ in 0..4 {
            let Some(deadline) = connection.deadline() else { break };
            if connection.expire(deadline).is_err() {
                break;
            }
        }
    }
    (events, alive, output)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((flags, bytes)) = bytes.split_first() else { return };
    let role = if flags & 1 == 0 { Role::Publisher } else { Role::Subscriber };
    let settings = Settings {
        role,
        minor: flags >> 1 & 1,
        max_frame: MAX_FRAME,
        handshake_timeout: Duration::from_secs(10),
        heartbeat: (flags & 4 != 0).then_some(Heartbeat {
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(1),
        }),
    };
    // With a good greeting, and with READY, the fuzzer gets to the frames behind them.
    let mut input = Vec::new();
    if flags & 8 != 0 {
        let greeting = Greeting { minor: flags >> 4 & 1, mechanism: Mechanism::Null };
        input.extend_from_slice(&greeting.encode());
    }
    if flags & 32 != 0 {
        input.extend_from_slice(ready(role));
    }
    input.extend_from_slice(bytes);

    let now = Instant::now();
    let whole = feed(settings.clone(), now, std::iter::once(&input[..]));
    let single = feed(settings, now, std::iter::once(&[][..]).chain(input.chunks(1)));
    assert_eq!(whole.0, single.0, "pieces change what happens");
    assert_eq!(whole.1, single.1, "pieces change whether it is accepted");
    if whole.1 {
        assert_eq!(whole.2, single.2, "pieces change what is answered");
    }
});
