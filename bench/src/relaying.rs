//! Row of the relay: a Min tunnel, and a plain relay on the same path, in a network of their own.
//!
//! Everything happens in a process inside namespaces, which this one asks for each measurement:
//! a download from covert to client. One thread relays, on the last CPU; client and covert are
//! threads on the first.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use application::Station;

use crate::loopback::{self, COVERT, OTHER_RELAY};
use crate::measure::{Row, Side, run_on_first_cpu, thread_time};
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

/// The process inside the namespaces, and the pipes to it.
struct Host {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Host {
    fn start() -> std::io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(HOST)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (questions, answers) = child.stdin.take().zip(child.stdout.take()).expect("are piped");
        Ok(Self { child, questions, answers: BufReader::new(answers) })
    }

    /// The answer to `question`; lines of the application's log are passed over.
    fn ask(&mut self, question: &str) -> Result<f64, String> {
        writeln!(self.questions, "{question}").map_err(|e| e.to_string())?;
        loop {
            let mut line = String::new();
            if self.answers.read_line(&mut line).map_err(|e| e.to_string())? == 0 {
                return Err("the relaying process has ended".to_owned());
            }
            if let Some(answer) = line.strip_prefix('=') {
                return answer.trim().parse().map_err(|_| format!("no number: {answer}"));
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A download through a Min tunnel against one through a 32 KiB relay.
pub(crate) fn row() -> Result<Row, String> {
    let mut host = Host::start().map_err(|e| e.to_string())?;
    host.ask("plain")?;
    let host = Arc::new(Mutex::new(host));
    let side = |question: &'static str| -> Side {
        let host = Arc::clone(&host);
        Box::new(move || {
            let mut host = host.lock().expect("no measurement has panicked");
            host.ask(question).unwrap_or_else(|reason| panic!("{question}: {reason}"))
        })
    };
    Ok(Row {
        unit: "ms/GB",
        baseline_name: "a 32 KiB read/write relay",
        ours: side("tunnel"),
        baseline: Ok(side("plain")),
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
    for question in std::io::stdin().lines() {
        let spent = match &*question.map_err(failed)? {
            "tunnel" => runtime.block_on(tunnel(&station, phantom, &covert))?,
            "plain" => relay_plainly(&plain, phantom, &covert).map_err(failed)?,
            other => return Err(format!("{HOST}: unknown question {other}")),
        };
        println!("={}", spent * 1e3 * GIGABYTE / BYTES as f64);
    }
    Ok(())
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
fn relay_plainly(
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
