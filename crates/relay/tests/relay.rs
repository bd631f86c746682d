//! The relay between real sockets on loopback.

use std::time::Duration;

use relay::{ErrorClass, Mode, Report, StallLimits, Traffic, relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Two ends of a connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    (near, far)
}

/// A running relay: the client's end, the covert's end, and the report to come.
async fn start(first: &[u8], limits: StallLimits, mode: Mode) -> Running {
    let (client, station_side) = pair().await;
    let (covert, station_out) = pair().await;
    let first = first.to_vec();
    let report = tokio::spawn(async move {
        let traffic = Traffic::default();
        let report = relay(station_side, station_out, first, limits, mode, &traffic).await;
        assert_eq!((traffic.up(), traffic.down()), (report.up, report.down));
        report
    });
    Running { client, covert, report }
}

struct Running {
    client: TcpStream,
    covert: TcpStream,
    report: JoinHandle<Report>,
}

/// Bytes that repeat with no power of two, so that a lost or doubled block shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 ^ (i / 65_521) as u8).collect()
}

async fn bulk_both_ways(mode: Mode) {
    const LEN: usize = 9_000_001;
    let run = start(b"first", StallLimits::default(), mode).await;
    let (mut client_in, mut client_out) = run.client.into_split();
    let (mut covert_in, mut covert_out) = run.covert.into_split();
    let send = |mut half: tokio::net::tcp::OwnedWriteHalf| async move {
        half.write_all(&pattern(LEN)).await.unwrap();
        half.shutdown().await.unwrap();
        half
    };
    let receive = async |half: &mut tokio::net::tcp::OwnedReadHalf| {
        let mut all = Vec::new();
        half.read_to_end(&mut all).await.unwrap();
        all
    };
    let up = tokio::spawn(send(client_out));
    let down = tokio::spawn(send(covert_out));
    let (at_covert, at_client) = tokio::join!(receive(&mut covert_in), receive(&mut client_in));
    client_out = up.await.unwrap();
    covert_out = down.await.unwrap();
    assert!(at_covert[..5] == *b"first" && at_covert[5..] == pattern(LEN));
    assert!(at_client == pattern(LEN));
    let report = run.report.await.unwrap();
    assert_eq!((report.up, report.down), (LEN as u64 + 5, LEN as u64));
    assert_eq!((report.client_error, report.covert_error), (None, None));
    drop((client_out, covert_out));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spliced_bulk_arrives_whole() {
    bulk_both_ways(Mode::Auto).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copied_bulk_arrives_whole() {
    bulk_both_ways(Mode::Copy).await;
}

#[tokio::test]
async fn a_half_close_lets_the_answer_through() {
    let mut run = start(b"", StallLimits::default(), Mode::Auto).await;
    run.client.write_all(b"request").await.unwrap();
    run.client.shutdown().await.unwrap();
    let mut request = Vec::new();
    run.covert.read_to_end(&mut request).await.unwrap();
    assert_eq!(request, b"request");
    run.covert.write_all(&pattern(1 << 20)).await.unwrap();
    drop(run.covert);
    let mut answer = Vec::new();
    run.client.read_to_end(&mut answer).await.unwrap();
    assert!(answer == pattern(1 << 20));
    assert_eq!(run.report.await.unwrap().down, 1 << 20);
}

#[tokio::test]
async fn a_reset_is_attributed_to_its_side() {
    let run = start(b"", StallLimits::default(), Mode::Auto).await;
    socket2::SockRef::from(&run.covert).set_linger(Some(Duration::ZERO)).unwrap();
    drop(run.covert);
    let report = run.report.await.unwrap();
    assert_eq!(report.covert_error, Some(ErrorClass::Reset));
    assert_eq!(report.client_error, None);

    let run = start(b"", StallLimits::default(), Mode::Auto).await;
    socket2::SockRef::from(&run.client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(run.client);
    let report = run.report.await.unwrap();
    assert_eq!(report.client_error, Some(ErrorClass::Reset));
    assert_eq!(report.covert_error, None);
}

#[tokio::test]
async fn a_silent_session_ends_at_the_first_limit() {
    let run = start(b"", StallLimits::default(), Mode::Auto).await;
    tokio::time::pause();
    let begin = tokio::time::Instant::now();
    let report = run.report.await.unwrap();
    let waited = begin.elapsed();
    assert!(waited >= Duration::from_secs(29) && waited < Duration::from_secs(32), "{waited:?}");
    assert_eq!(report.client_error, Some(ErrorClass::Timeout));
}

#[tokio::test]
async fn a_transfer_in_either_direction_refreshes_the_later_limit() {
    let limits =
        StallLimits { first: Duration::from_millis(400), later: Duration::from_millis(1200) };
    let mut run = start(b"", limits, Mode::Auto).await;
    let begin = std::time::Instant::now();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        run.covert.write_all(b"x").await.unwrap();
    }
    let mut all = Vec::new();
    run.client.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"xxxxx");
    assert!(begin.elapsed() >= Duration::from_millis(1500 + 1100));
    assert_eq!(run.report.await.unwrap().client_error, Some(ErrorClass::Timeout));
}
