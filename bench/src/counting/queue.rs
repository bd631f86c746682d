//! A queue with both of its ends in this process.

use super::Round;
use shm::{Consumer, ConsumerOptions, Meta, Server, ServerOptions};
use std::hint::black_box;
use std::time::Duration;

/// Packets of one round: many, for connecting takes another number of instructions every time.
pub(crate) const PACKETS: u64 = 2048 * BURST;
/// Packets between two publications.
const BURST: u64 = 32;
const PACKET: usize = 60;
const CLUSTER: u32 = 4242;

/// Packets are sent and received in bursts.
pub(crate) fn hand_over() -> Result<Round, String> {
    let dir = tempfile::tempdir().map_err(|e| format!("a temporary folder: {e}"))?;
    let mut options = ServerOptions::new(dir.path().to_owned(), CLUSTER, vec![1]);
    options.slots = 1024;
    let (mut server, mut producers) =
        Server::bind(options, [7; 16]).map_err(|e| format!("the queue's socket: {e}"))?;
    let mut producer = producers.remove(0);
    let mut options = ConsumerOptions::new(dir.path().to_owned(), CLUSTER, 0);
    options.spin = Duration::ZERO;
    let connecting = std::thread::spawn(move || Consumer::connect(options));
    while !connecting.is_finished() {
        server.poll(Duration::from_millis(1), &mut |_| String::new());
    }
    let mut consumer = connecting
        .join()
        .map_err(|_| "the consumer panicked".to_owned())?
        .map_err(|e| e.to_string())?;
    producer.tick();
    Ok(Box::new(move || {
        // The socket and its folder live as long as the queue.
        let _ = (&server, &dir);
        let meta = Meta::default();
        for _ in 0..PACKETS / BURST {
            for _ in 0..BURST {
                // The packet is in its frame already, as after a receiver that writes in place.
                black_box(producer.send_with(PACKET, &meta, 1, |_| ()));
            }
            producer.flush();
            let burst = consumer.receive(Duration::ZERO);
            assert_eq!(burst.len() as u64, BURST, "a packet is missing");
            black_box(burst.iter().map(|frame| frame.data.len()).sum::<usize>());
        }
    }))
}
