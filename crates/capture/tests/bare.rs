//! What measurements are made of: frames that the kernel makes, and the least that receiving them takes.
//!
//! The test binary runs itself again inside the namespaces (`--exact inside`), and there once more as the generator
//! that gets killed (`--exact generator`).

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use capture::{BarePacket, BareXdp, Burst, Generator, OpenError, PassThrough, XdpOptions};
use shm::{Server, ServerOptions};

const ROLE: &str = "CAPTURE_BARE_TEST_ROLE";
const GROUP: u16 = 200;
const PERIOD: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_millis(20);

/// A frame that no host sends by itself.
fn frame() -> Vec<u8> {
    let head = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    head.into_iter().chain((0..200).map(|n| n ^ 0x5a)).collect()
}

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The generator in a process of its own, which is how it can be ended.
struct Sending(Child, Instant);

impl Sending {
    fn start() -> Self {
        let begun = Instant::now();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "generator", "--nocapture"]).env(ROLE, "generator");
        Self(command.spawn().unwrap(), begun)
    }

    /// Counts what `turn` says until it is at least `wanted`; it never is more than a generator of this pace has
    /// sent.
    fn counted(mut self, wanted: u64, mut turn: impl FnMut() -> u32) -> u64 {
        let mut count = 0;
        while count < wanted {
            count += u64::from(turn());
            let periods = self.1.elapsed().as_nanos() / PERIOD.as_nanos() + 1;
            assert!(u128::from(count) <= periods * u128::from(GROUP), "{count} in {periods}");
            assert!(self.1.elapsed() < PATIENCE, "{count} of {wanted}");
        }
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        count
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        // It has ended in a test that passes.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Run by `inside`; does nothing when run on its own.
#[test]
fn generator() {
    if std::env::var(ROLE).as_deref() == Ok("generator") {
        let generator = Generator::new("gen0", frame(), GROUP, PERIOD).unwrap();
        generator.run().unwrap();
    }
}

/// Run by the test below inside the namespaces; does nothing when run on its own.
#[test]
fn inside() {
    if std::env::var(ROLE).as_deref() != Ok("inside") {
        return;
    }
    lab::isolate::enter().unwrap();
    for of in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{of}/disable_ipv6");
        if std::path::Path::new(&path).exists() {
            std::fs::write(path, "1").unwrap();
        }
    }
    ip("link add tap0 type veth peer name gen0");
    ip("link set gen0 up");
    ip("link set tap0 up");
    through_a_packet_socket();
    through_af_xdp();
    let missing = Generator::new("gen7", frame(), GROUP, PERIOD).unwrap_err();
    assert!(matches!(missing, OpenError::NoInterface { .. }), "{missing}");
    println!("all was counted");
}

/// The frames go on into the host, as they were given, and a bare reader counts as many as one that looks at them.
fn through_a_packet_socket() {
    let through = PassThrough::new("tap0").unwrap();
    assert!(PassThrough::new("tap0").is_err(), "an interface takes one program");
    let mut looking = capture::open("afp:tap0").unwrap();
    let mut bare = BarePacket::open("tap0").unwrap();
    let mut count = Sending::start().counted(3 * u64::from(GROUP), || bare.turn(WAIT).unwrap());
    // What was on its way when the generator ended.
    loop {
        match bare.turn(Duration::from_millis(200)).unwrap() {
            0 => break,
            more => count += u64::from(more),
        }
    }
    let (sent, mut looked) = (frame(), 0);
    looking.cease();
    while looking
        .burst(64, WAIT, &mut |frame| {
            assert!(*frame.data == *sent, "{:02x?}", frame.data);
            looked += 1;
        })
        .unwrap()
        != Burst::Ended
    {}
    assert_eq!(looked, count);
    drop(through);
}

/// More frames than there are buffers: each goes round.
fn through_af_xdp() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ServerOptions::new(dir.path().to_owned(), 98, vec![1]);
    (options.slots, options.working_set) = (128, 1024);
    let (_server, mut producers) = Server::bind(options, [1; 16]).unwrap();
    let (memory, loans) = (producers[0].memory(), producers[0].lend(512));
    let sizes =
        XdpOptions { entries: 512, zero_copy: false, generic: false, ..XdpOptions::for_queues(1) };
    let mut bare = BareXdp::open("tap0", sizes, &memory, loans).unwrap();
    Sending::start().counted(1200, || bare.turn(WAIT).unwrap());
    assert!(PassThrough::new("tap0").is_err(), "its program is on the interface");
    drop(bare);
    assert!(PassThrough::new("tap0").is_ok());
}

#[test]
fn what_is_sent_is_counted() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--nocapture"])
        .env(ROLE, "inside")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("all was counted"), "{said}");
}
