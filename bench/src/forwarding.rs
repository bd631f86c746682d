//! Rows of the way into a tun device: what a detector forwards, against a write for each packet.
//!
//! Everything happens in a process inside namespaces. The packets are those of a client of this
//! program's own: the kernel's DNAT brings them to a socket, as on a station's host, whose answers
//! leave by another device. Only the thread that forwards is counted, and only while it does.

use capture::LiveFrames;
use capture::tun::Tun;
use detector::outlets::{PacketSink, Passage};
use packet::checksum::Sum;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::host::{self, Host};
use crate::loopback;
use crate::measure::{Row, run_on_first_cpu, thread_time};

/// Word that makes this program the host of the rows.
pub(crate) const HOST: &str = "--forwarding-host";

/// Packets of a burst, as a worker gets them.
const BURST: usize = 64;
/// Bursts of one measurement.
const BURSTS: usize = 200;
/// Data of a full segment with time stamps.
const FULL: usize = 1448;
const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const PHANTOM: Ipv4Addr = Ipv4Addr::new(192, 122, 190, 7);
/// Where the kernel brings the packets.
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 2), 41245);
/// What segments of data and SYNs carry: largest segment, time stamps, window scale.
const TIMES: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0];
const OPENING: [u8; 20] = [2, 4, 5, 0xb4, 1, 3, 3, 7, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0];
const RULES: &str = "table ip forwarding { chain prerouting { type nat hook prerouting priority -100; \
    ip daddr 192.122.190.0/24 tcp dport 443 dnat to 198.51.100.2:41245; }; }";
const PATIENCE: Duration = Duration::from_secs(20);

/// An upload in full segments.
pub(crate) fn bulk() -> Result<Row, String> {
    row("bulk", "bulk-plain")
}

/// Segments without data, with live frames.
pub(crate) fn acknowledgements() -> Result<Row, String> {
    row("ack", "ack-plain")
}

/// Segments without data, as they go without live frames.
pub(crate) fn acknowledgements_alone() -> Result<Row, String> {
    row("ack-alone", "ack-plain")
}

fn row(ours: &'static str, baseline: &'static str) -> Result<Row, String> {
    let host = Host::start(&[HOST])?;
    host.ask(baseline)?;
    Ok(Row {
        unit: "ns",
        baseline_name: "one write() for each packet",
        ours: host.side(ours),
        baseline: Ok(host.side(baseline)),
        plausible: None,
    })
}

/// Answers the questions of the rows until there are no more.
pub(crate) fn host() -> Result<(), String> {
    lab::isolate::enter().map_err(|e| e.to_string())?;
    for (file, value) in [
        ("conf/all/rp_filter", "0"),
        ("conf/default/rp_filter", "0"),
        // Windows that hold several bursts.
        ("tcp_rmem", "4096 8388608 16777216"),
    ] {
        let file = format!("/proc/sys/net/ipv4/{file}");
        std::fs::write(&file, value).map_err(|e| format!("{file}: {e}"))?;
    }
    let open = |result: Result<Tun, capture::tun::TunError>| result.map_err(|e| e.to_string());
    let together: Arc<dyn PacketSink> = Arc::new(open(Tun::open_for_batches("tun0"))?);
    let plain: Arc<dyn PacketSink> = Arc::new(open(Tun::open("tun1"))?);
    if together.batches().is_none() {
        return Err("this kernel has no headers before packets of a tun device".to_owned());
    }
    let live = open(Tun::open_for_batches("tun2"))?;
    // Why it cannot be had is the answer to the question that needs it.
    let ways = LiveFrames::open(&[&live]).map_err(|e| e.to_string());
    let live = ways
        .map(|mut ways| -> Arc<dyn PacketSink> { Arc::new(live.with_live_frames(ways.remove(0))) });
    let answers = Arc::new(open(Tun::open("out0"))?);
    loopback::tool("ip", &["link", "set", "lo", "up"], "")?;
    loopback::tool("ip", &["addr", "add", "198.51.100.2/32", "dev", "lo"], "")?;
    loopback::tool("ip", &["route", "add", "203.0.113.0/24", "dev", "out0"], "")?;
    loopback::tool("nft", &["-f", "-"], RULES)?;
    let listener = TcpListener::bind(SERVER).map_err(|e| e.to_string())?;
    let mut ours = Upload::open(together, 40_001, &answers, &listener)?;
    let mut other = Upload::open(plain, 40_002, &answers, &listener)?;
    let mut live = live.and_then(|live| Upload::open(live, 40_003, &answers, &listener));
    let over = Arc::new(AtomicBool::new(false));
    let drain = {
        let over = Arc::clone(&over);
        // What the server answers, until the rows are done.
        std::thread::spawn(move || {
            run_on_first_cpu();
            let mut buffer = [0; 2048];
            while !over.load(Relaxed) {
                while answers.receive(&mut buffer).is_ok() {}
                std::thread::sleep(Duration::from_micros(200));
            }
        })
    };
    let answered = host::answer(|question| match question {
        "bulk" => ours.bulk(),
        "bulk-plain" => other.bulk(),
        "ack" => live.as_mut().map(Upload::acknowledgements).map_err(|error| error.clone()),
        "ack-alone" => Ok(ours.acknowledgements()),
        "ack-plain" => Ok(other.acknowledgements()),
        unknown => Err(format!("{HOST}: unknown question {unknown}")),
    });
    over.store(true, Relaxed);
    drain.join().map_err(|_| "the draining thread has panicked".to_owned())?;
    answered
}

/// A connection whose client is this program.
struct Upload {
    sink: Arc<dyn PacketSink>,
    passage: Passage,
    port: u16,
    sequence: u32,
    ack: u32,
    identification: u16,
    /// Bytes that the server's program has read.
    read: Arc<AtomicUsize>,
    sent: usize,
}

impl Upload {
    fn open(
        sink: Arc<dyn PacketSink>,
        port: u16,
        answers: &Tun,
        listener: &TcpListener,
    ) -> Result<Self, String> {
        let read = Arc::new(AtomicUsize::new(0));
        let passage = Passage::into(&*sink);
        let (sequence, ack, identification, sent) = (1000, 0, 1, 0);
        let mut upload = Self { sink, passage, port, sequence, ack, identification, read, sent };
        let failed = |e: std::io::Error| e.to_string();
        upload.sink.send(&upload.segment(0x02, &OPENING, &[])).map_err(failed)?;
        upload.sequence += 1;
        upload.ack = answer(answers, port)?.wrapping_add(1);
        upload.sink.send(&upload.segment(0x10, &TIMES, &[])).map_err(failed)?;
        let (mut server, _) = listener.accept().map_err(failed)?;
        let read = Arc::clone(&upload.read);
        std::thread::spawn(move || {
            run_on_first_cpu();
            let mut buffer = vec![0; 256 * 1024];
            while let Ok(n @ 1..) = server.read(&mut buffer) {
                read.fetch_add(n, Relaxed);
            }
        });
        // The window opens with what has been received.
        for burst in (8..=BURST).step_by(8) {
            upload.forward(&upload.full_segments(burst));
            upload.arrive(burst)?;
        }
        Ok(upload)
    }

    fn segment(&self, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
        let tcp_len = (20 + options.len() + data.len()) as u16;
        let mut packet = vec![0x45, 0];
        packet.extend((20 + tcp_len).to_be_bytes());
        packet.extend(self.identification.to_be_bytes());
        packet.extend([0x40, 0, 64, 6, 0, 0]);
        packet.extend(CLIENT.octets());
        packet.extend(PHANTOM.octets());
        let checksum = Sum::default().and(&packet).checksum();
        packet[10..12].copy_from_slice(&checksum);
        packet.extend(self.port.to_be_bytes());
        packet.extend(443u16.to_be_bytes());
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(self.ack.to_be_bytes());
        packet.extend([((20 + options.len()) * 4) as u8, flags, 0x7f, 0xff, 0, 0, 0, 0]);
        packet.extend(options);
        packet.extend(data);
        let pseudo = Sum::default().and(&packet[12..20]).and_u16(6).and_u16(tcp_len);
        let checksum = pseudo.and(&packet[20..]).checksum();
        packet[36..38].copy_from_slice(&checksum);
        packet
    }

    /// The next `count` segments of data.
    fn full_segments(&self, count: usize) -> Vec<Vec<u8>> {
        let mut next = Self {
            sink: Arc::clone(&self.sink),
            passage: Passage::default(),
            read: Arc::clone(&self.read),
            ..*self
        };
        let data = [0x5a; FULL];
        let segment = |_| {
            let packet = next.segment(0x10, &TIMES, &data);
            next.sequence = next.sequence.wrapping_add(FULL as u32);
            next.identification = next.identification.wrapping_add(1);
            packet
        };
        (0..count).map(segment).collect()
    }

    /// Forwards a burst as a worker does; the thread time that it takes.
    fn forward(&mut self, burst: &[Vec<u8>]) -> Duration {
        let start = thread_time();
        for packet in burst {
            self.passage.push(&*self.sink, packet);
        }
        let (sent, _) = self.passage.finish(&*self.sink);
        let spent = thread_time() - start;
        assert_eq!((sent.packets, sent.lost), (burst.len() as u64, 0), "{:?}", sent.error);
        spent
    }

    /// Waits until the server's program has all of the last `count` segments.
    fn arrive(&mut self, count: usize) -> Result<(), String> {
        self.sent += count * FULL;
        self.sequence = self.sequence.wrapping_add((count * FULL) as u32);
        self.identification = self.identification.wrapping_add(count as u16);
        let deadline = Instant::now() + PATIENCE;
        while self.read.load(Relaxed) < self.sent {
            if Instant::now() > deadline {
                let read = self.read.load(Relaxed);
                return Err(format!("{read} bytes of {} have arrived", self.sent));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    /// Thread time per packet of an upload, in nanoseconds.
    fn bulk(&mut self) -> Result<f64, String> {
        let mut spent = Duration::ZERO;
        for _ in 0..BURSTS {
            let burst = self.full_segments(BURST);
            spent += self.forward(&burst);
            self.arrive(BURST)?;
        }
        Ok(spent.as_nanos() as f64 / (BURSTS * BURST) as f64)
    }

    /// Thread time per segment without data, in nanoseconds.
    fn acknowledgements(&mut self) -> f64 {
        let burst = vec![self.segment(0x10, &TIMES, &[]); BURST];
        let spent: Duration = (0..BURSTS).map(|_| self.forward(&burst)).sum();
        spent.as_nanos() as f64 / (BURSTS * BURST) as f64
    }
}

/// Sequence number with which the server answers the SYN from `port`.
fn answer(answers: &Tun, port: u16) -> Result<u32, String> {
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; 2048];
    loop {
        match answers.receive(&mut buffer) {
            Ok(len) => {
                let opens = len >= 40 && buffer[0] >> 4 == 4 && buffer[33] & 0x12 == 0x12;
                if opens && buffer[22..24] == port.to_be_bytes() {
                    return Ok(u32::from_be_bytes([
                        buffer[24], buffer[25], buffer[26], buffer[27],
                    ]));
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(format!("no answer to a SYN: {error}")),
        }
    }
}
