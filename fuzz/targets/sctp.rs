//! The peer of an SCTP association: whatever packets it sends, with right checksums and tags, memory
//! stays within its bounds, answers stay few, and a timer runs while data is under way.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use sctp::chunk::Chunk;
use sctp::packet::Writer;
use sctp::{Association, Config, Packet, Role};

const WINDOW: u32 = 4096;

fn config() -> Config {
    Config { receive_window: WINDOW, send_buffer: 8192, keepalive: b"beat", ..Config::default() }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((flags, mut rest)) = bytes.split_first() else { return };
    let rng = &mut ChaCha20Rng::seed_from_u64(1);
    let (own, peer) =
        if flags & 1 == 0 { (Role::Server, Role::Client) } else { (Role::Client, Role::Server) };
    let mut victim = Association::new(own, config(), rng);
    let mut friend = Association::new(peer, config(), rng);
    let mut now = Instant::now();
    let (mut tag, mut packet) = (0, Vec::new());
    // Mostly the fuzzer begins with an association that is set up.
    for _ in 0..if flags & 2 == 0 { 4 } else { 0 } {
        for turn in 0..2 {
            let (from, to) =
                if turn == 0 { (&mut friend, &mut victim) } else { (&mut victim, &mut friend) };
            packet.clear();
            if from.poll_transmit(now, &mut packet).is_some() {
                let parsed = Packet::parse(&packet).expect("our own packet");
                if turn == 0 && parsed.tag != 0 {
                    tag = parsed.tag;
                }
                to.handle_packet(now, &packet);
            }
        }
    }
    if flags & 4 != 0 {
        victim.write(&[7; 6000]);
    }
    while let [kind, chunk_flags, length, behind @ ..] = rest {
        let (value, behind) = behind.split_at(behind.len().min(usize::from(*length) * 4));
        rest = behind;
        packet.clear();
        let own_tag = if *kind == 1 { 0 } else { tag };
        let mut writer = Writer::new(&mut packet, (5000, 5000), own_tag, 9999);
        if let Some(chunk) = Chunk::parse(*kind, *chunk_flags, value) {
            writer.chunk(&chunk);
        }
        if writer.finish().is_none() {
            now += Duration::from_millis(u64::from(*length) * 20);
            if victim.poll_timeout().is_some_and(|at| at <= now) {
                victim.handle_timeout(now);
            }
        }
        victim.handle_packet(now, &packet);
        let mut answers = 0;
        packet.clear();
        while victim.poll_transmit(now, &mut packet).is_some() {
            answers += 1;
            assert!(answers < 100, "it never stops sending");
        }
        assert!(victim.held() <= 2 * WINDOW as usize + 8192 + 4096, "{} bytes held", victim.held());
        if victim.is_established() && victim.unacknowledged() > 0 {
            assert!(victim.poll_timeout().is_some(), "data under way and no timer");
        }
        if chunk_flags & 0x80 != 0 {
            let mut read = [0; 100];
            victim.read(&mut read);
        }
    }
});
