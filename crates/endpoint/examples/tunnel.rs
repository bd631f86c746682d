//! A tunnel as client or station, each as DTLS client or server, for tests against others.
//!
//! ```text
//! tunnel client|station listen|dial=ADDRESS secret=HEX [size=BYTES] [unordered]
//! ```
//! The client sends a length of 8 bytes and as many bytes, and wants the same bytes back; then it
//! closes. Exit status 0 says that all went well.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dtls::Config;
use endpoint::{Answer, Endpoint, Hello, Limits, Listener, Stream};
use keys::SharedSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use transports::dtls::{Ended, Party};

const PATIENCE: Duration = Duration::from_secs(60);

struct Served {
    secret: SharedSecret,
    party: Party,
    opened: mpsc::UnboundedSender<Result<Stream, Ended>>,
}

impl Listener for Served {
    fn hello(&self, hello: &Hello<'_>) -> Option<Answer> {
        let opened = self.opened.clone();
        let own = keys::dtls::client_hello_random(&self.secret);
        (*hello.random.tag() == own).then(|| Answer {
            config: Config::server(&self.secret, unix_time()),
            party: self.party,
            opened: Box::new(move |result| drop(opened.send(result))),
        })
    }
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[tokio::main]
async fn main() -> ExitCode {
    match timeout(PATIENCE, run()).await.unwrap_or_else(|error| Err(error.into())) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<String, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let with_equals = format!("{name}=");
        arguments.iter().find_map(|a| a.strip_prefix(&with_equals).map(str::to_owned))
    };
    let has = |word: &str| arguments.iter().any(|a| a == word);
    let hex = value("secret").ok_or("secret=HEX is missing")?;
    let bytes: Result<Vec<u8>, _> =
        (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16)).collect();
    let secret = SharedSecret::new(&bytes?);
    let party =
        if has("client") { Party::Client } else { Party::Station { unordered: has("unordered") } };
    let endpoint = Endpoint::bind((Ipv4Addr::LOCALHOST, 0).into(), Limits::default())?;
    let stream = match value("dial") {
        Some(address) => {
            let address: SocketAddr = address.parse()?;
            endpoint.dial(address, None, party, Config::client(&secret, unix_time())).await?
        }
        None => {
            let (send, mut opened) = mpsc::unbounded_channel();
            endpoint.listen(Arc::new(Served { secret, party, opened: send }));
            println!("listening {}", endpoint.local_addr()?);
            opened.recv().await.ok_or("nothing was opened")??
        }
    };
    match party {
        Party::Client => {
            let size = value("size").map_or(Ok(4 << 20), |size| size.parse())?;
            client(stream, size, has("unordered")).await
        }
        Party::Station { .. } => station(stream).await,
    }
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at / 7 + at / 65_521) as u8).collect()
}

async fn client(stream: Stream, size: usize, unordered: bool) -> Result<String, Box<dyn Error>> {
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = async {
        write.write_all(&(size as u64).to_be_bytes()).await?;
        write.write_all(&pattern(size)).await
    };
    let mut got = vec![0; size];
    let (sent, received) = tokio::join!(sending, read.read_exact(&mut got));
    sent?;
    received?;
    let mut wanted = pattern(size);
    if unordered {
        // Messages overtake each other, so only what there is can be compared.
        got.sort_unstable();
        wanted.sort_unstable();
    }
    if got != wanted {
        return Err("other bytes came back".into());
    }
    write.shutdown().await?;
    drop((read, write));
    // The farewell has a moment to be repeated.
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(format!("{size} bytes came back"))
}

async fn station(mut stream: Stream) -> Result<String, Box<dyn Error>> {
    let size = stream.read_u64().await?;
    let mut bytes = vec![0; usize::try_from(size)?];
    stream.read_exact(&mut bytes).await?;
    stream.write_all(&bytes).await?;
    let mut more = Vec::new();
    stream.read_to_end(&mut more).await?;
    if !more.is_empty() {
        return Err(format!("{} bytes too many", more.len()).into());
    }
    let heartbeats = stream.heartbeats();
    if heartbeats == 0 {
        return Err("no heartbeat".into());
    }
    // The client waits for our end as well, unless it is gone.
    let _ = stream.shutdown().await;
    Ok(format!("{size} bytes sent back, {heartbeats} heartbeats"))
}
