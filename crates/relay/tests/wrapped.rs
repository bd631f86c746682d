//! The relay for a client whose transport wraps its bytes, between real sockets on loopback.

use std::io;
use std::time::Duration;

use relay::{Codec, ErrorClass, Pace, Report, Sealed, StallLimits, Traffic, relay_wrapped};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Frames of one length byte and payload with inverted bits; a frame of no bytes is an error.
#[derive(Debug, Default)]
struct Inverting {
    partial: Vec<u8>,
    pace: Option<Pace>,
}

impl Codec for Inverting {
    fn open(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.partial.extend_from_slice(bytes);
        while let Some((&len, rest)) = self.partial.split_first() {
            if len == 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let Some(frame) = rest.get(..usize::from(len)) else { break };
            out.extend(frame.iter().map(|byte| !byte));
            self.partial.drain(..=usize::from(len));
        }
        Ok(())
    }

    fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        for chunk in data.chunks(200) {
            out.push(chunk.len() as u8);
            out.extend(chunk.iter().map(|byte| !byte));
        }
        Ok(())
    }

    fn pace(&mut self) -> Option<Pace> {
        self.pace
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    (near, far)
}

struct Running {
    client: TcpStream,
    covert: TcpStream,
    report: JoinHandle<(Report, Sealed<Inverting>)>,
}

async fn start(opened: &[u8], limits: StallLimits) -> Running {
    let (client, station_side) = pair().await;
    let (covert, station_out) = pair().await;
    let mut sealed = Sealed::new(station_side, Inverting::default(), opened.to_vec());
    let report = tokio::spawn(async move {
        let traffic = Traffic::default();
        let report = relay_wrapped(&mut sealed, station_out, limits, &traffic).await;
        assert_eq!((traffic.up(), traffic.down()), (report.up, report.down));
        (report, sealed)
    });
    Running { client, covert, report }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 ^ (i / 65_521) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_goes_through_in_both_directions_and_both_ends_are_passed_on() {
    const LEN: usize = 3_000_001;
    let run = start(b"with the handshake", StallLimits::default()).await;
    // The client's own side paces its segments, as released obfs4 clients do.
    let pace = Some(Pace { segment: 1448, pause: Duration::ZERO });
    let client = Sealed::new(run.client, Inverting { pace, ..Default::default() }, Vec::new());
    let (mut client_in, mut client_out) = tokio::io::split(client);
    let (mut covert_in, mut covert_out) = run.covert.into_split();
    let up = tokio::spawn(async move {
        client_out.write_all(&pattern(LEN)).await.unwrap();
        client_out.shutdown().await.unwrap();
    });
    let down = tokio::spawn(async move {
        covert_out.write_all(&pattern(LEN)).await.unwrap();
    });
    let (mut at_covert, mut at_client) = (Vec::new(), Vec::new());
    let (a, b) =
        tokio::join!(covert_in.read_to_end(&mut at_covert), client_in.read_to_end(&mut at_client));
    assert_eq!((a.unwrap(), b.unwrap()), (LEN + 18, LEN));
    assert!(at_covert[..18] == *b"with the handshake" && at_covert[18..] == pattern(LEN));
    assert!(at_client == pattern(LEN));
    up.await.unwrap();
    down.await.unwrap();
    let (report, _) = run.report.await.unwrap();
    assert_eq!((report.up, report.down), (LEN as u64 + 18, LEN as u64));
    assert_eq!((report.client_error, report.covert_error), (None, None));
}

#[tokio::test]
async fn a_client_that_has_ended_still_gets_its_answer() {
    let mut run = start(b"", StallLimits::default()).await;
    run.client.write_all(&[3, !b'a', !b'b', !b'c']).await.unwrap();
    run.client.shutdown().await.unwrap();
    let mut request = Vec::new();
    run.covert.read_to_end(&mut request).await.unwrap();
    assert_eq!(request, b"abc");
    run.covert.write_all(&pattern(1_000_000)).await.unwrap();
    drop(run.covert);
    let mut client = Sealed::new(run.client, Inverting::default(), Vec::new());
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(answer == pattern(1_000_000));
}

#[tokio::test]
async fn payload_before_a_broken_frame_is_delivered_and_the_socket_stays_open() {
    let mut run = start(b"", StallLimits::default()).await;
    run.client.write_all(&[2, !b'o', !b'k', 0, 1, 1]).await.unwrap();
    let mut got = Vec::new();
    run.covert.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"ok");
    let (report, sealed) = run.report.await.unwrap();
    assert_eq!(report.client_error, Some(ErrorClass::Tampered));
    let mut byte = [0];
    let waits = tokio::time::timeout(Duration::from_millis(50), run.client.read(&mut byte));
    assert!(waits.await.is_err(), "nothing is closed before the stream is dropped");
    drop(sealed);
    assert!(!matches!(run.client.read(&mut [0]).await, Ok(1..)));
}

#[tokio::test]
async fn silence_ends_it() {
    let first = Duration::from_millis(50);
    let run = start(b"", StallLimits { first, later: first }).await;
    let (report, _) = run.report.await.unwrap();
    assert_eq!(report.client_error, Some(ErrorClass::Timeout));
}
