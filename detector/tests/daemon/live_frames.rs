//! Acknowledgements that the kernel takes in together, where the detector has what that takes and where it has not.

use super::*;
use etherparse::PacketBuilder;

/// The acknowledgement of the client's connection from `port`.
fn acknowledgement(port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let headers = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(CLIENT, PHANTOM, 64);
    headers.tcp(port, 443, 7, 1024).ack(9).write(&mut frame, &[]).unwrap();
    frame
}

fn run(line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success(), "{line}");
}

/// What a detector says that does not start, and its exit code.
fn refused(command: Command, dir: &Path) -> (String, Option<i32>) {
    let mut detector = Detector::start_by(command, dir, |command| {
        command.arg("--live-frames").stderr(Stdio::piped());
    });
    let mut text = String::new();
    detector.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (text, detector.0.wait().unwrap().code())
}

#[test]
fn acknowledgements_go_together() {
    if std::env::var_os(INSIDE).is_some() {
        return tokio::runtime::Runtime::new().unwrap().block_on(bursts());
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    // A program cannot be loaded from within a user namespace.
    unshare(&["--net", "--mount"], "live_frames::acknowledgements_go_together");
}

async fn bursts() {
    run("mount -t sysfs none /sys");
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    configure(dir);
    let may = |capabilities: &str| {
        let mut command = Command::new("setpriv");
        command.arg(format!("--bounding-set=-all{capabilities}"));
        command.args(["--no-new-privs", env!("CARGO_BIN_EXE_detector")]);
        command
    };
    let enough = || may(",+bpf,+net_admin");

    let (text, code) = refused(may(",+net_admin"), dir);
    assert!(text.contains("--live-frames: map of packets: ") && text.contains("CAP_BPF"), "{text}");
    assert_eq!(code, Some(77), "{text}");

    run("ip tuntap add name tun0 mode tun");
    let (text, code) = refused(may(",+bpf"), dir);
    assert!(text.contains("tun0 is down") && text.contains("ip link set tun0 up"), "{text}");
    assert_eq!(code, Some(77), "{text}");
    let steering = Path::new("/sys/class/net/tun0/queues/rx-0/rps_cpus");
    std::fs::write(steering, "1").unwrap();
    let (text, code) = refused(enough(), dir);
    assert!(text.contains("rps_cpus is ") && text.contains("write 0 there"), "{text}");
    assert_eq!(code, Some(78), "{text}");
    std::fs::write(steering, "0").unwrap();

    let frames = balancer(dir);
    let hub = Hub::new([7; 16], DEFAULT_QUEUE, Arc::new(One));
    hub.serve(&dir.join(session::socket_name(0))).unwrap();
    let tap = tap();
    let mut detector = Detector::start_by(enough(), dir, |command| {
        command.arg("--live-frames");
    });
    let syn = tcp4((CLIENT, 4000), (PHANTOM, 443), SYN, &[]);
    tokio::task::block_in_place(|| forwarded(&frames, &tap, &syn));
    assert!(Path::new("/sys/class/net/cjlive0").exists());

    let socket = telemetry::admin::socket_path(dir, "detector", 0);
    let mut admin =
        telemetry::admin::AdminClient::new(telemetry::admin::channel(&socket).await.unwrap());
    let start = Instant::now();
    let mut port = 10_000;
    loop {
        // Each takes a page of what the socket that looks on may hold.
        let burst: Vec<Vec<u8>> = (0..40).map(|number| acknowledgement(port + number)).collect();
        port += 40;
        burst.iter().for_each(|frame| frames.send(frame.clone()).unwrap());
        tokio::task::block_in_place(|| all_come(&tap, &burst));
        let request = signalling::station::StatusRequest {};
        let status = admin.status(request).await.unwrap().into_inner();
        let Some(signalling::station::status_reply::Detail::Detector(detail)) = status.detail
        else {
            panic!("{:?}", status.detail);
        };
        let worker = &detail.workers[0];
        if worker.forwarded_together >= 200 {
            assert!(worker.forwarded > worker.forwarded_together && worker.dropped_tun == 0);
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{} together", worker.forwarded_together);
    }
    detector.signal(rustix::process::Signal::TERM);
    let status = tokio::task::block_in_place(|| detector.0.wait().unwrap());
    assert!(status.success(), "{status}");
    assert!(!Path::new("/sys/class/net/cjlive0").exists(), "it goes with the process");
}

/// Waits until the packets of `burst`, and no other acknowledgement, have come out of the tun device in order.
fn all_come(tap: &socket2::Socket, burst: &[Vec<u8>]) {
    let (start, mut came) = (Instant::now(), 0);
    let mut buffer = vec![0; 65_536];
    while came < burst.len() {
        assert!(start.elapsed() < PATIENCE, "{came} of {} packets came", burst.len());
        let Ok(n) = (&mut &*tap).read(&mut buffer) else { continue };
        if n > 33 && buffer[0] == 0x45 && buffer[33] == 0x10 {
            assert!(buffer[..n] == burst[came][14..], "packet {came}: {:?}", &buffer[..n]);
            came += 1;
        }
    }
}
