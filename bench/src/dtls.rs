//! Row of DTLS and SCTP over UDP on the loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use ::dtls::Config;
use endpoint::{Answer, Endpoint, Hello, Limits, Listener, Stream};
use keys::SharedSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use transports::dtls::Party;

use crate::foreign;
use crate::measure::{Row, thread_time};

/// Bytes of one repetition.
const BYTES: usize = 64 << 20;
const GIGABYTE: f64 = 1e9;
/// What is written and read at once, as a relay does.
const BUFFER: usize = 32 << 10;
/// Date of the certificates, in seconds since 1970.
const DATE: u64 = 1_795_600_000;

fn secret() -> SharedSecret {
    SharedSecret::new(&[7; 32])
}

/// Serves one session.
struct Once(Mutex<Option<oneshot::Sender<Stream>>>);

impl Listener for Once {
    fn hello(&self, _: &Hello<'_>) -> Option<Answer> {
        let opened = self.0.lock().ok()?.take()?;
        Some(Answer {
            config: Config::server(&secret(), DATE),
            party: Party::Station { unordered: false },
            opened: Box::new(move |result| {
                if let Ok(stream) = result {
                    // Nobody waits: the row has failed already.
                    let _ = opened.send(stream);
                }
            }),
        })
    }
}

/// Both ends of a session, on one thread.
struct Pair {
    runtime: Runtime,
    client: Stream,
    station: Stream,
}

impl Pair {
    fn open() -> Result<Self, String> {
        let failed = |e: std::io::Error| e.to_string();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (client, station) = runtime.block_on(async {
            let station = Endpoint::bind(any, Limits::default()).map_err(failed)?;
            let (opened, accepted) = oneshot::channel();
            station.listen(Arc::new(Once(Mutex::new(Some(opened)))));
            let to = station.local_addr().map_err(failed)?;
            let client = Endpoint::bind(any, Limits::default()).map_err(failed)?;
            let config = Config::client(&secret(), DATE);
            let client = client.dial(to, None, Party::Client, config).await;
            let client = client.map_err(|e| e.to_string())?;
            let station = accepted.await.map_err(|_| "the station's end does not open")?;
            Ok::<_, String>((client, station))
        })?;
        Ok(Self { runtime, client, station })
    }

    /// Thread time, in milliseconds per GB, of both ends.
    fn cost(&mut self) -> f64 {
        let Self { runtime, client, station } = self;
        let start = thread_time();
        runtime.block_on(async {
            let sending = async {
                let data = vec![0x5a; BUFFER];
                for _ in 0..BYTES / BUFFER {
                    client.write_all(&data).await.expect("the session is open");
                }
            };
            let receiving = async {
                let mut buffer = vec![0; BUFFER];
                let mut got = 0;
                while got < BYTES {
                    let n = station.read(&mut buffer).await.expect("the session is open");
                    assert!(n > 0, "the stream does not end");
                    got += n;
                }
                assert_eq!(got, BYTES);
            };
            tokio::join!(sending, receiving);
        });
        (thread_time() - start).as_secs_f64() * 1e3 * GIGABYTE / BYTES as f64
    }
}

/// Bytes through a session of ours against bytes through one of pion's.
pub(crate) fn relay() -> Result<Row, String> {
    let mut pair = Pair::open()?;
    Ok(Row {
        unit: "ms/GB",
        baseline_name: "pion's dtls and sctp",
        ours: Box::new(move || pair.cost()),
        baseline: foreign::go("dtls"),
        plausible: None,
    })
}
