//! Recordings as sources.

use std::path::Path;

use capture::pcapng::{LINK_ETHERNET, PcapngWriter, Record};

use crate::frames;
use crate::life::same;
use crate::station::{Balancer, Reader, command, number, queues_have, read_to_the_end};

fn pcapng(path: &Path, frames: &[Vec<u8>]) {
    let mut writer = PcapngWriter::new(std::fs::File::create(path).unwrap()).unwrap();
    writer.interface(LINK_ETHERNET, 65_535, None).unwrap();
    for (n, data) in (0..).zip(frames) {
        let time = 1_700_000_000_000_000_000 + n * 1_000_000;
        let length = data.len();
        writer.packet(&Record { interface: 0, data, length, time, comments: &[] }).unwrap();
    }
}

fn pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut file = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1].map(u32::to_le_bytes).concat();
    for (n, data) in (0..).zip(frames) {
        let len = data.len() as u32;
        file.extend([1_700_000_000 + n, 0, len, len].map(u32::to_le_bytes).concat());
        file.extend(data);
    }
    std::fs::write(path, file).unwrap();
}

/// Both formats are read to their end, which is the end of the balancer when consumers have read all of it.
#[test]
fn a_recording_is_played_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recording");
    let sent = frames::of_every_kind();
    type Write = fn(&Path, &[Vec<u8>]);
    for (format, write) in [("pcapng", pcapng as Write), ("pcap", pcap)] {
        write(&path, &sent);
        let line = format!("-i pcap:{} -c 98 -n 1,1 -z", path.display());
        let chosen = format!("{}: recording, {format}, as fast as it is read", path.display());
        let balancer = Balancer::start(&mut command(dir.path(), &line), &chosen);
        // It begins when the second is there, and ends although nobody reads yet.
        let readers = [0, 1].map(|queue| Reader::attach(dir.path(), queue));
        for got in read_to_the_end(readers) {
            same(&got, &sent);
        }
        let text = balancer.end();
        let numbers = ["Packets:", "Processed:"].map(|name| number(&text, name));
        assert_eq!(numbers, [sent.len(), 2 * sent.len()]);
    }
}

/// One that never ends is stopped: what was read of it until then is handed out, and nothing else.
#[test]
fn a_recording_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recording");
    let frames = frames::short(0..100);
    pcapng(&path, &frames);
    let line = format!("-i pcap:{} -c 98 -n 1,1 -z --loop --pps 10000", path.display());
    let chosen = "recording, pcapng, at 10000 packets a second, again and again";
    let chosen = format!("{}: {chosen}", path.display());
    let balancer = Balancer::start(&mut command(dir.path(), &line), &chosen);
    let readers = [0, 1].map(|queue| Reader::attach(dir.path(), queue));
    queues_have(dir.path(), "enqueued", |n| n >= 250);
    balancer.terminate();
    let got = read_to_the_end(readers);
    let count = number(&balancer.end(), "Packets:");
    let expected: Vec<Vec<u8>> = frames.iter().cycle().take(count).cloned().collect();
    assert!(count >= 250);
    for got in got {
        same(&got, &expected);
    }
}
