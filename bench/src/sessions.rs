//! Short sessions: a client connects, sends its tag and a byte, and the covert closes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::loopback::COVERT;
use crate::measure::{run_on_first_cpu, thread_time};
use crate::station;

/// Sessions of one measurement, one after the other.
const SESSIONS: u32 = 1000;
/// How long [`probe`] waits for the covert's side.
const WAIT: Duration = Duration::from_secs(1);

/// Microseconds of each session where all took `spent`.
pub(crate) fn each(spent: Duration) -> f64 {
    spent.as_secs_f64() * 1e6 / f64::from(SESSIONS)
}

/// Whether a session to `phantom` works now.
pub(crate) fn probe(phantom: SocketAddr, covert: &TcpListener) -> std::io::Result<bool> {
    let mut client = begin(phantom, &tag())?;
    covert.set_nonblocking(true)?;
    let start = Instant::now();
    let server = loop {
        match covert.accept() {
            Ok((server, _)) => break Some(server),
            Err(_) if start.elapsed() < WAIT => std::thread::sleep(Duration::from_millis(5)),
            Err(_) => break None,
        }
    };
    covert.set_nonblocking(false)?;
    let Some(server) = server else { return Ok(false) };
    server.set_nonblocking(false)?;
    finish(&mut client, server)?;
    Ok(true)
}

/// All sessions through a station.
pub(crate) fn all(phantom: SocketAddr, covert: &Arc<TcpListener>) -> Result<(), String> {
    clients(phantom, tag(), Arc::clone(covert)).join().expect("clients do not panic")
}

/// Thread time of the system calls that such sessions need, in one thread that blocks; clients come to
/// `relay` where a station would relay.
pub(crate) fn plainly(
    relay: &TcpListener,
    phantom: SocketAddr,
    covert: &Arc<TcpListener>,
) -> Result<Duration, String> {
    let phantom = SocketAddr::new(phantom.ip(), 444);
    let start = thread_time();
    let clients = clients(phantom, Vec::new(), Arc::clone(covert));
    for _ in 0..SESSIONS {
        relay_one(relay).map_err(|e| e.to_string())?;
    }
    let spent = thread_time() - start;
    clients.join().expect("clients do not panic")?;
    Ok(spent)
}

fn relay_one(relay: &TcpListener) -> std::io::Result<()> {
    let (mut client, _) = relay.accept()?;
    let mut byte = [0];
    client.read_exact(&mut byte)?;
    let mut covert = TcpStream::connect(COVERT)?;
    covert.write_all(&byte)?;
    // The covert closes; then both are closed.
    let _ = covert.read(&mut byte)?;
    client.shutdown(Shutdown::Write)
}

/// A thread that is client and covert of every session.
fn clients(
    phantom: SocketAddr,
    tag: Vec<u8>,
    covert: Arc<TcpListener>,
) -> std::thread::JoinHandle<Result<(), String>> {
    std::thread::spawn(move || {
        run_on_first_cpu();
        let one = || {
            let mut client = begin(phantom, &tag)?;
            finish(&mut client, covert.accept()?.0)
        };
        (0..SESSIONS).try_for_each(|_| one()).map_err(|e: std::io::Error| e.to_string())
    })
}

fn begin(phantom: SocketAddr, tag: &[u8]) -> std::io::Result<TcpStream> {
    let mut client = TcpStream::connect(phantom)?;
    client.write_all(&[tag, b"u"].concat())?;
    Ok(client)
}

fn finish(client: &mut TcpStream, mut server: TcpStream) -> std::io::Result<()> {
    server.read_exact(&mut [0])?;
    drop(server);
    match client.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

/// The tag of the first registration.
fn tag() -> Vec<u8> {
    keys::SharedSecret::new(&station::secret(0)).min_identifier().to_vec()
}
