//! An interface of a network namespace, with frames that the kernel itself sends.
//!
//! The test binary runs itself again inside the namespaces (`--exact inside`).

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use capture::{Burst, Frame, OpenError, Source};

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Sends `frame` as it is.
fn send_raw(interface: &str, frame: &[u8]) {
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: a terminated string that lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    assert!(index > 0 && fd >= 0);
    // SAFETY: a descriptor that was just made and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = index as i32;
    // SAFETY: both pointers and lengths describe values that live through the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            std::mem::size_of_val(&to) as libc::socklen_t,
        )
    };
    assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
}

/// Frames that hold `mark`, until there are `count` of them or 5 s are over.
fn read(source: &mut dyn Source, mark: &[u8], count: usize) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut frames = Vec::new();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    while frames.len() < count && Instant::now() < deadline {
        let burst = source.burst(64, Duration::from_millis(20), &mut |frame| {
            assert!(!frame.truncated);
            assert!(now.abs_diff(u128::from(frame.timestamp)) < 60_000_000_000);
            if frame.data.windows(mark.len()).any(|window| window == mark) {
                frames.push(frame.data.to_vec());
            }
        });
        assert!(matches!(burst, Ok(Burst::Frames(_))));
    }
    frames
}

/// Run by the test below inside the namespaces; does nothing when run on its own.
#[test]
fn inside() {
    if std::env::var_os("CAPTURE_TEST_INSIDE").is_none() {
        return;
    }
    lab::isolate::enter().unwrap();
    ip("link add tap0 type veth peer name gen0");
    ip("addr add 10.9.0.1/24 dev gen0");
    ip("link set gen0 up");
    ip("link set tap0 up");
    ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev gen0");
    let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
    let send = |content: &[u8]| {
        assert_eq!(socket.send_to(content, "10.9.0.2:9").unwrap(), content.len());
    };

    let mut tap = capture::open("afp:tap0").unwrap();
    for number in 0..300u32 {
        send(format!("plain {number:04}").as_bytes());
    }
    let frames = read(&mut *tap, b"plain ", 300);
    assert_eq!(frames.len(), 300);
    for (number, frame) in frames.iter().enumerate() {
        // Nobody's address on this side: the interface is promiscuous.
        assert_eq!(frame[..6], [2, 0, 0, 0, 0, 2]);
        assert_eq!(frame[12..14], [0x08, 0x00]);
        assert!(frame.ends_with(format!("{number:04}").as_bytes()), "frame {number}");
    }

    // A reader that pauses for long at a low rate: a block is handed over for each of these.
    for number in 0..150u32 {
        send(format!("paused {number:04}").as_bytes());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(read(&mut *tap, b"paused ", 150).len(), 150);

    // The kernel takes the outer tag off, whatever its type.
    for tpid in [[0x81, 0x00], [0x88, 0xa8]] {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        frame.extend([tpid, [0x60, 0x05], [0x08, 0x00]].concat());
        frame.extend(b"tagged, and long enough for a frame of Ethernet");
        send_raw("gen0", &frame);
        assert_eq!(read(&mut *tap, b"tagged", 1), [frame]);
    }

    // What the sending side sees of its own frames is nothing.
    let mut own = capture::open("gen0").unwrap();
    send(b"outgoing");
    assert_eq!(read(&mut *tap, b"outgoing", 1).len(), 1);
    let mut seen = 0;
    own.burst(64, Duration::from_millis(50), &mut |frame| {
        seen += usize::from(frame.data.ends_with(b"outgoing"));
    })
    .unwrap();
    assert_eq!(seen, 0);

    let statistics = tap.statistics();
    assert!(statistics.received >= 302 && statistics.dropped == 0, "{statistics:?}");

    // What has come when a source ceases is handed out, also from the block that the kernel fills.
    for count in [0, 1, 100] {
        let mut ceasing = capture::open("afp:tap0").unwrap();
        for number in 0..count {
            send(format!("ceasing {number:04}").as_bytes());
        }
        let captured = ceasing.statistics().received;
        ceasing.cease();
        let (mut read, deadline) = (0, Instant::now() + Duration::from_secs(60));
        let ended = |read: &mut u64, ceasing: &mut dyn Source| {
            let each = &mut |_: Frame<'_>| *read += 1;
            ceasing.burst(7, Duration::from_millis(20), each).unwrap() == Burst::Ended
        };
        while !ended(&mut read, &mut *ceasing) {
            assert!(Instant::now() < deadline, "{read} of {captured}, and no end");
        }
        assert!(read >= captured && captured >= count.min(1), "{read} of {captured}");
        send(b"too late");
        assert!(ended(&mut read, &mut *ceasing));
    }

    ip("link set tap0 down");
    let deadline = Instant::now() + Duration::from_secs(5);
    while tap.burst(64, Duration::from_millis(20), &mut |_| {}).is_ok() {
        assert!(Instant::now() < deadline, "the interface that is down goes unnoticed");
    }
    match capture::open("afp:tap7").map(|_| ()) {
        Err(error @ OpenError::NoInterface { .. }) => {
            // Interfaces without an address are offered, too.
            assert!(error.to_string().contains("tap0"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    println!("everything captured");
}

#[test]
fn frames_of_an_interface() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--nocapture"])
        .env("CAPTURE_TEST_INSIDE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("everything captured"), "{said}");
}
