//! Packets of flows that the kernel gives to the host.

use std::net::UdpSocket;
use std::num::NonZeroU64;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use shm::fast_path::{Entered, FastPath, FlowKey};

use crate::frames::HEAD;
use crate::life::NO_ZERO_COPY;
use crate::station::{
    Balancer, CLUSTER, Reader, Sender, command, failure, ip, number, state, until,
};

const LIMIT: Duration = Duration::from_secs(60);

/// A datagram for port 7777 of the host, as a tap sees it: for the hardware address of another one.
fn datagram(port: u16, number: u8) -> Vec<u8> {
    let mut header = [0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 7, 7, 7, 10, 9, 0, 77];
    let words = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let check = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&check.to_be_bytes());
    let ports = [port.to_be_bytes(), 7777u16.to_be_bytes()].concat();
    let mut frame = [&HEAD[..], &[8, 0], &header, &ports, &[0, 9, 0, 0, number]].concat();
    frame.resize(60, 0);
    frame
}

fn reverse_path(scope: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/ipv4/conf/{scope}/rp_filter"), value).unwrap();
}

fn passed(dir: &Path) -> Option<u64> {
    state(dir)?["interfaces"][0]["passed"].as_u64()
}

/// What the host would not take is said before anything is captured; then packets of a flow that is in the table go
/// to the host and nowhere else.
pub(crate) fn of_sessions() {
    let mut sender = Sender::new("tap", "wire0");
    ip("link set wire0 up");
    ip("addr add 10.9.0.77/32 dev lo");
    let dir = tempfile::tempdir().unwrap();
    let line =
        |source: &str| command(dir.path(), &format!("-i {source} -c 98 -n 1 -z -p --fast-path"));
    let in_the_way = |source: &str, text: &str| {
        let (code, said) = failure(&mut line(source));
        assert!(code == 78 && said.contains(text), "{code} {said}");
    };
    for scope in ["all", "wire0"] {
        reverse_path("all", "0");
        reverse_path("wire0", "0");
        reverse_path(scope, "2");
        let setting = format!("net.ipv4.conf.{scope}.rp_filter");
        let text = format!(
            "wire0: no fast path: {setting} is 2, so that the host drops packets of clients there: sysctl -w {setting}=0"
        );
        in_the_way("xdp:wire0", &text);
    }
    reverse_path("wire0", "0");
    let switch = |value: &str| {
        let status = Command::new("ethtool").args(["-K", "tap0", "rxvlan", value]).status();
        assert!(status.expect("ethtool is needed").success());
    };
    switch("on");
    in_the_way("xdp:tap0", "ethtool -K tap0 rxvlan off");
    switch("off");

    let way = "AF_XDP, native, copy, 1 queue(s), rings of 32768, fast path; not IPv6 on the fast path: net.ipv6.conf.wire0.disable_ipv6 is 1";
    let balancer =
        Balancer::start(&mut line("xdp:wire0"), &format!("wire0: {way}; {NO_ZERO_COPY}"));
    let mut reader = Reader::attach(dir.path(), 0);
    let host = UdpSocket::bind("10.9.0.77:7777").unwrap();
    host.set_read_timeout(Some(LIMIT)).unwrap();
    let path = FastPath::ask(dir.path(), CLUSTER).unwrap();
    assert!(path.is_here());
    let table = path.table().expect("a table");
    let sent: Vec<Vec<u8>> = (0..20).map(|n| datagram(1000 + u16::from(n % 2), n)).collect();
    sender.send(&sent);
    assert_eq!(reader.read(20), sent, "no flow is in the table");

    let (flow, owner) = (FlowKey::of(&sent[1]).unwrap(), NonZeroU64::MIN);
    let entered = table.enter(&flow, owner, shm::fast_path::now());
    let Entered::Fresh(slot) = entered else { panic!("{entered:?}") };
    sender.send(&sent);
    let [even, odd] = [0, 1].map(|n| (n..20u8).step_by(2));
    let others: Vec<Vec<u8>> = even.map(|n| sent[usize::from(n)].clone()).collect();
    assert_eq!(reader.read(10), others, "another flow of the same addresses");
    for wanted in odd {
        let mut got = [0; 16];
        assert_eq!(host.recv(&mut got).unwrap(), 1);
        assert_eq!(got[0], wanted);
    }
    until("ten are counted", || passed(dir.path()).filter(|passed| *passed == 10));

    table.remove(slot, owner);
    sender.send(&sent);
    assert_eq!(reader.read(20), sent, "it is in the table no more");
    balancer.terminate();
    assert!(path.has_ended(LIMIT));
    let text = balancer.end();
    assert_eq!((number(&text, "IFFastPath:"), number(&text, "Packets:")), (10, 50));
}

/// A source of another kind goes on without.
pub(crate) fn of_other_sources() {
    let dir = tempfile::tempdir().unwrap();
    let mut line = command(dir.path(), "-i afp:tap0 -c 98 -n 1 -z --fast-path");
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    line.stderr(std::fs::File::create(&err).unwrap());
    line.stdout(std::fs::File::create(&out).unwrap());
    let mut child = line.spawn().unwrap();
    let without = "tap0: no fast path in the kernel: --fast-path is for AF_XDP";
    until("it says so", || {
        let said = [&out, &err].map(|path| std::fs::read_to_string(path).unwrap()).concat();
        (said.contains(without) && said.contains("zbalance: ready")).then_some(())
    });
    let path = FastPath::ask(dir.path(), CLUSTER).unwrap();
    assert!(path.table().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}
