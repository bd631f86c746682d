//! Row of the relay: a Min tunnel, and a plain relay on the same path, in a network of their own.
//!
//! Everything happens in a process inside namespaces, which this one asks for each measurement:
//! a download from covert to client. One thread relays, on the last CPU; client and covert are
//! threads on the first.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use application::Station;

use crate::host::{self, Host};
use crate::loopback::{self, COVERT, OTHER_RELAY};
use crate::measure::{Row, run_on_first_cpu, thread_time};
use crate::station;

/// Word that makes this program the host of the row.
pub(crate) const HOST: &str = "--relay-host";

/// Bytes of one download.
const BYTES: usize = 1 << 30;
/// Bytes that client and covert move at one time.
const CHUNK: usize = 256 * 1024;
/// Buffer of the relay that ours is compared with: that of `io.Copy`, and of the reference.
const PLAIN: usize = 32 * 1024;
const GIGABYTE: f64 = 1e9;

/// A download through a Min tunnel against one through a 32 KiB relay.
pub(crate) fn row() -> Result<Row, String> {
    let host = Host::start(&[HOST])?;
    host.ask("plain")?;
    Ok(Row {
        unit: "ms/GB",
        baseline_name: "a 32 KiB read/write relay",
        ours: host.side("tunnel"),
        baseline: Ok(host.side("plain")),
        plausible: None,
    })
}

/// Answers the questions of the row until there are no more.
pub(crate) fn host() -> Result<(), String> {
    loopback::enter()?;
    let failed = |e: std::io::Error| e.to_string();
    let covert = Arc::new(TcpListener::bind(COVERT).map_err(failed)?);
    let plain = TcpListener::bind(OTHER_RELAY).map_err(failed)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let inside = runtime.enter();
    let station = station::listen()?;
    drop(inside);
    let phantom = runtime.block_on(station::register(&station, transports::Transport::Min, 0))?;
    host::answer(|question| {
        let spent = match question {
            "tunnel" => runtime.block_on(tunnel(&station, phantom, &covert))?,
            "plain" => relay_plainly(&plain, phantom, &covert).map_err(failed)?,
            other => return Err(format!("{HOST}: unknown question {other}")),
        };
        Ok(per_gigabyte(Duration::from_secs_f64(spent)))
    })
}

/// Milliseconds per GB where a download took `spent`.
pub(crate) fn per_gigabyte(spent: Duration) -> f64 {
    spent.as_secs_f64() * 1e3 * GIGABYTE / BYTES as f64
}

/// A download through a Min tunnel of the first registration.
pub(crate) fn whole_download(phantom: SocketAddr, covert: &Arc<TcpListener>) -> Result<(), String> {
    let tag = keys::SharedSecret::new(&station::secret(0)).min_identifier();
    let covert = Arc::clone(covert);
    let client = std::thread::spawn(move || download(phantom, &tag, &covert));
    let received = client.join().expect("the client does not panic").map_err(|e| e.to_string())?;
    if received == BYTES { Ok(()) } else { Err(format!("{received} bytes of {BYTES} came")) }
}

/// Thread time in seconds of a download through a tunnel of `station`.
async fn tunnel(
    station: &Station,
    phantom: SocketAddr,
    covert: &Arc<TcpListener>,
) -> Result<f64, String> {
    let covert = Arc::clone(covert);
    let tag = keys::SharedSecret::new(&station::secret(0)).min_identifier();
    let (done, received) = tokio::sync::oneshot::channel();
    let open = || station.pipeline.stats.proxy.open.value() > 0;
    let start = thread_time();
    std::thread::spawn(move || done.send(download(phantom, &tag, &covert)));
    let received = received.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    while open() {
        tokio::task::yield_now().await;
    }
    let spent = (thread_time() - start).as_secs_f64();
    if received == BYTES { Ok(spent) } else { Err(format!("{received} bytes of {BYTES} came")) }
}

/// Thread time in seconds of a download through a relay that reads and writes 32 KiB at a time.
pub(crate) fn relay_plainly(
    relay: &TcpListener,
    phantom: SocketAddr,
    covert: &Arc<TcpListener>,
) -> std::io::Result<f64> {
    let (relayed, covert) = (SocketAddr::new(phantom.ip(), 444), Arc::clone(covert));
    let start = thread_time();
    let client = std::thread::spawn(move || download(relayed, &[], &covert));
    let (mut to_client, _) = relay.accept()?;
    let mut from_covert = TcpStream::connect(COVERT)?;
    let mut buffer = vec![0; PLAIN];
    loop {
        match from_covert.read(&mut buffer)? {
            0 => break,
            n => to_client.write_all(&buffer[..n])?,
        }
    }
    drop((to_client, from_covert));
    let spent = (thread_time() - start).as_secs_f64();
    let received = client.join().expect("the client does not panic")?;
    if received == BYTES { Ok(spent) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

/// Client and covert of one download through `phantom`; bytes that the client received.
fn download(phantom: SocketAddr, tag: &[u8], covert: &TcpListener) -> std::io::Result<usize> {
    run_on_first_cpu();
    let mut client = TcpStream::connect(phantom)?;
    client.write_all(tag)?;
    let (mut server, _) = covert.accept()?;
    let sender = std::thread::spawn(move || {
        let chunk = vec![0x5a; CHUNK];
        let sent = (0..BYTES / CHUNK).try_for_each(|_| server.write_all(&chunk));
        sent.and_then(|()| server.shutdown(Shutdown::Both))
    });
    let (mut buffer, mut received) = (vec![0; CHUNK], 0);
    loop {
        match client.read(&mut buffer)? {
            0 => break,
            n => received += n,
        }
    }
    drop(client);
    sender.join().expect("the covert does not panic")?;
    Ok(received)
}
