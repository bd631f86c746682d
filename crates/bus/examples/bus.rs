//! Looks at a registration bus, or feeds one: `bus sub ENDPOINT [SERVER SECRET]` prints each message
//! as a line of hexadecimal digits, and on standard error why a handshake failed; `bus pub
//! ENDPOINT [SECRET STATION...]` publishes each line of standard input. Keys are 64 hexadecimal
//! digits and switch CURVE on; the station `*` admits all.
#![forbid(unsafe_code)]

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

use bus::{
    Admitted, CurveClient, CurveKeys, CurveServer, Heartbeat, Publisher, PublisherOptions, State,
    Subscriber, SubscriberOptions,
};
use bytes::Bytes;

fn key(text: &str) -> Result<[u8; 32], Box<dyn std::error::Error>> {
    let mut key = [0; 32];
    for (at, byte) in key.iter_mut().enumerate() {
        let digits = text.get(2 * at..2 * at + 2).ok_or("a key has 64 digits")?;
        *byte = u8::from_str_radix(digits, 16)?;
    }
    Ok(key)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["sub", endpoint, ref keys @ ..] => {
            let curve = match keys {
                [] => None,
                [server, secret] => Some(Arc::new(CurveClient {
                    keys: CurveKeys::new(&key(secret)?),
                    server: key(server)?,
                })),
                _ => return Err("a subscriber needs two keys".into()),
            };
            let heartbeat =
                Heartbeat { interval: Duration::from_secs(1), timeout: Duration::from_secs(1) };
            let options =
                SubscriberOptions { heartbeat: Some(heartbeat), curve, ..Default::default() };
            let mut subscriber = Subscriber::connect(endpoint, options)?;
            let mut states = subscriber.watch();
            tokio::spawn(async move {
                while states.changed().await.is_ok() {
                    let state = states.borrow_and_update().clone();
                    if matches!(state, State::HandshakeFailed(_)) {
                        eprintln!("{state}");
                    }
                }
            });
            let mut out = std::io::stdout();
            loop {
                let message = subscriber.recv().await;
                let text: String = message.iter().map(|b| format!("{b:02x}")).collect();
                writeln!(out, "{text}")?;
                out.flush()?;
            }
        }
        ["pub", endpoint, ref keys @ ..] => {
            let curve = match keys {
                [] => None,
                [secret, "*"] => Some((secret, Admitted::All)),
                [secret, listed @ ..] => {
                    let listed: Result<_, _> = listed.iter().map(|text| key(text)).collect();
                    Some((secret, Admitted::Listed(listed?)))
                }
            };
            let curve = match curve {
                None => None,
                Some((secret, admitted)) => {
                    let keys = CurveKeys::new(&key(secret)?);
                    Some(Arc::new(CurveServer { keys, admitted: admitted.into(), observer: None }))
                }
            };
            let options = PublisherOptions { curve, ..Default::default() };
            let publisher = Publisher::bind(endpoint, options).await?;
            println!("{}", publisher.endpoint());
            tokio::task::spawn_blocking(move || {
                for line in std::io::stdin().lock().lines() {
                    let fanout = publisher.publish(Bytes::from(line?));
                    println!("queued {} dropped {}", fanout.queued, fanout.dropped);
                }
                Ok::<_, std::io::Error>(publisher)
            })
            .await??
            .close(Duration::from_secs(5))
            .await;
            Ok(())
        }
        _ => {
            Err("usage: bus sub ENDPOINT [SERVER SECRET] | bus pub ENDPOINT [SECRET STATION...]"
                .into())
        }
    }
}
