//! A queue region that one side scribbles over while the other side uses it. Neither may crash,
//! and a fresh consumer must be served afterwards.
#![no_main]

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use shm::abi::{self, Header, header, ring};
use shm::{Consumer, ConsumerOptions, Meta, Producer, Server, ServerOptions};

const CLUSTER: u32 = 98;
const SLOTS: u32 = 64;
/// Words worth scribbling on, beside any place in the region.
const WORDS: [usize; 12] = [
    header::STATE,
    header::WAITING,
    abi::HEADER_LEN + ring::PROD,
    abi::HEADER_LEN + ring::DROPPED,
    abi::HEADER_LEN + ring::CONS,
    abi::HEADER_LEN + ring::RPROD,
    abi::HEADER_LEN + ring::RCONS,
    abi::HEADER_LEN + ring::PROCESSED,
    abi::HEADER_LEN + ring::DESCRIPTORS,
    abi::HEADER_LEN + ring::DESCRIPTORS + 8,
    abi::HEADER_LEN + abi::returns_offset(SLOTS),
    abi::HEADER_LEN + abi::returns_offset(SLOTS) + 8,
];

struct Bench {
    _dir: tempfile::TempDir,
    server: Server,
    producer: Producer,
    consumer: Option<Consumer>,
    options: ConsumerOptions,
    memory: File,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut options = ServerOptions::new(dir.path().to_owned(), CLUSTER, vec![1]);
        options.slots = SLOTS;
        options.working_set = 64;
        let (server, mut producers) = Server::bind(options, [1; 16]).expect("a socket");
        let mut options = ConsumerOptions::new(dir.path().to_owned(), CLUSTER, 0);
        options.spin = Duration::ZERO;
        let memory = File::options().read(true).write(true).open("/proc/self/mem");
        Self {
            server,
            producer: producers.remove(0),
            consumer: None,
            options,
            memory: memory.expect("the memory of this process"),
            _dir: dir,
        }
    }

    fn poll(&mut self) {
        self.server.poll(Duration::ZERO, &mut |_| "{}".to_owned());
    }

    /// A fresh consumer in place of the one that was cheated.
    fn attach(&mut self) {
        self.consumer = None;
        let options = self.options.clone();
        let client = std::thread::spawn(move || Consumer::connect(options));
        while !client.is_finished() {
            self.server.poll(Duration::from_millis(1), &mut |_| "{}".to_owned());
            self.producer.tick();
        }
        let consumer = client.join().expect("no panic");
        self.consumer = Some(consumer.expect("the queue is free again"));
        self.producer.tick();
        assert!(region().is_some(), "a region is mapped");
    }

    /// Looks the region up each time: both sides let go of it when they see what was done to it.
    fn scribble(&mut self, at: usize, value: u64) {
        let at = at % (abi::region_len(1, SLOTS) - 8);
        if let Some(base) = region() {
            let written = self.memory.write_all_at(&value.to_le_bytes(), base + at as u64);
            written.expect("the region is mapped");
        }
    }

    fn receive(&mut self) {
        let Some(consumer) = &mut self.consumer else { return };
        let burst = consumer.receive(Duration::ZERO);
        let sum: u64 =
            burst.iter().flat_map(|frame| frame.data.iter().copied()).map(u64::from).sum();
        std::hint::black_box(sum);
    }
}

/// Where the newest region is mapped.
fn region() -> Option<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.contains("/memfd:conjure-queue"))?;
    u64::from_str_radix(line.split('-').next()?, 16).ok()
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench::new());
}

fuzz_target!(|bytes: &[u8]| {
    let mut start = [0; 88];
    if let Some(bytes) = bytes.get(..88) {
        start.copy_from_slice(bytes);
        let _ = Header::decode(&start);
    }
    BENCH.with_borrow_mut(|bench| {
        bench.attach();
        for step in bytes.chunks_exact(8).take(64) {
            let value = u64::from(u32::from_le_bytes([step[4], step[5], step[6], step[7]]));
            let at = usize::from(u16::from_le_bytes([step[2], step[3]]));
            match step[0] % 8 {
                0 | 1 => {
                    let frame = vec![step[1]; at % 3000];
                    bench.producer.send(&frame, &Meta::default(), 1);
                }
                2 => bench.producer.flush(),
                3 => bench.receive(),
                4 => bench.poll(),
                5 => bench.scribble(at, value << (step[1] % 33)),
                _ => bench.scribble(WORDS[at % WORDS.len()], value << (step[1] % 33)),
            }
        }
        bench.producer.flush();
        bench.receive();
        bench.poll();
    });
});
