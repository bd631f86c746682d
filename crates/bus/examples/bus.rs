//! Looks at a registration bus, or feeds one: `bus sub ENDPOINT` prints each message as a line of
//! hexadecimal digits, `bus pub ENDPOINT` publishes each line of standard input.
#![forbid(unsafe_code)]

use std::io::{BufRead, Write};
use std::time::Duration;

use bus::{Heartbeat, Publisher, PublisherOptions, Subscriber, SubscriberOptions};
use bytes::Bytes;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["sub", endpoint] => {
            let heartbeat =
                Heartbeat { interval: Duration::from_secs(1), timeout: Duration::from_secs(1) };
            let options = SubscriberOptions { heartbeat: Some(heartbeat), ..Default::default() };
            let mut subscriber = Subscriber::connect(endpoint, options)?;
            let mut out = std::io::stdout();
            loop {
                let message = subscriber.recv().await;
                let text: String = message.iter().map(|b| format!("{b:02x}")).collect();
                writeln!(out, "{text}")?;
                out.flush()?;
            }
        }
        ["pub", endpoint] => {
            let publisher = Publisher::bind(endpoint, PublisherOptions::default()).await?;
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
        _ => Err("usage: bus sub ENDPOINT | bus pub ENDPOINT".into()),
    }
}
