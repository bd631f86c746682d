//! What is chosen where nothing is said, and what is said where something cannot be had.

use crate::life::NO_ZERO_COPY;
use crate::station::{Balancer, Sender, command, failure, ip, with_only};

/// For every kind of interface the back end that suits it, with the reason against better ones.
pub(crate) fn of_the_best_way() {
    let _sender = Sender::new("tap", "wire0");
    ip("link set wire0 up");
    ip("link add bridge0 type bridge");
    ip("link set bridge0 up");
    let dir = tempfile::tempdir().unwrap();
    let chooses = |command: &mut std::process::Command, line: &str| {
        let balancer = Balancer::start(command, line);
        balancer.terminate();
        balancer.end();
    };
    let line = |source: &str| command(dir.path(), &format!("-i {source} -c 98 -n 1 -z"));
    let packet = "AF_PACKET, ring of 64 MiB; not AF_XDP:";
    let native = format!("wire0: AF_XDP, native, copy, 1 queue(s), rings of 32768; {NO_ZERO_COPY}");

    chooses(&mut line("wire0"), &native);
    let less = "packets of a veth come at less cost that way";
    chooses(&mut line("tap0"), &format!("tap0: {packet} {less}"));
    let no_hook = "bridge0: its driver has no native XDP (Operation not supported (os error 95)); xdp:bridge0 reads it in generic mode";
    chooses(&mut line("bridge0"), &format!("bridge0: {packet} {no_hook}"));
    let address = "it has the address 127.0.0.1, and AF_XDP takes packets away from the host; xdp:lo does so all the same";
    chooses(&mut line("lo"), &format!("lo: {packet} {address}"));

    let not_permitted = "wire0: map of AF_XDP sockets: not permitted; AF_XDP takes CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF and CAP_IPC_LOCK (setcap cap_net_raw,cap_net_admin,cap_bpf,cap_ipc_lock+p PROGRAM), or use afp:wire0";
    let mut confined = with_only(",+net_raw", &line("wire0"));
    chooses(&mut confined, &format!("wire0: {packet} {not_permitted}"));

    let mut other = command(dir.path(), "-i xdp:wire0 -c 99 -n 1 -z");
    let other = Balancer::start(&mut other, &native);
    let in_use = "wire0: attaching an XDP program: in use; another XDP program or AF_XDP socket is on the interface (ip link show dev wire0): end it, or use afp:wire0";
    chooses(&mut line("wire0"), &format!("wire0: {packet} {in_use}"));
    other.terminate();
    other.end();
    chooses(&mut line("wire0"), &native);
}

/// A back end that is named and cannot be had is an error with its reason and its exit code, never another one.
pub(crate) fn of_what_cannot_be_had() {
    let dir = tempfile::tempdir().unwrap();
    let line = |source: &str| command(dir.path(), &format!("-i {source} -c 98 -n 1 -z"));
    let check = |command: &mut std::process::Command, code: i32, texts: &[&str]| {
        let (found, text) = failure(command);
        assert_eq!(found, code, "{text}");
        for wanted in texts {
            assert!(text.contains(wanted), "{wanted:?} is not in {text}");
        }
        assert!(!text.contains("AF_PACKET, ring") && !dir.path().join("ingest-98.sock").exists());
    };
    check(&mut line("xdp:none7"), 69, &["none7: no such interface; here are: gen0, lo, probe0"]);
    check(&mut line("afp:none7"), 69, &["none7: no such interface; here are: gen0, lo, probe0"]);
    check(&mut line("none7"), 69, &["none7: no such interface"]);
    check(&mut line("xdp:tap0@7"), 69, &["tap0: there is no receive queue 7; it has 1 (0 to 0)"]);
    check(&mut line("xdp:tap0@x"), 64, &["expected the number of a receive queue after @"]);
    check(&mut line("vde:/tmp/x"), 64, &["use afp:INTERFACE, xdp:INTERFACE or pcap:FILE"]);
    check(&mut with_only("", &line("afp:tap0")), 77, &["tap0: not permitted", "CAP_NET_RAW"]);
    let confined = &mut with_only(",+net_raw", &line("xdp:tap0"));
    check(confined, 77, &["tap0: map of AF_XDP sockets: not permitted", "CAP_BPF", "afp:tap0"]);
    let confined = &mut with_only(",+net_raw,+bpf,+ipc_lock", &line("xdp:tap0"));
    check(confined, 77, &["tap0: ", "not permitted", "CAP_NET_ADMIN", "afp:tap0"]);

    let mut other = command(dir.path(), "-i xdp:tap0 -c 99 -n 1 -z");
    let native = format!("tap0: AF_XDP, native, copy, 1 queue(s), rings of 32768; {NO_ZERO_COPY}");
    let other = Balancer::start(&mut other, &native);
    check(&mut line("xdp:tap0"), 69, &["tap0: attaching an XDP program: in use", "afp:tap0"]);
    other.terminate();
    other.end();

    let file = dir.path().join("text");
    std::fs::write(&file, "no recording at all").unwrap();
    let source = format!("pcap:{}", file.display());
    check(&mut line(&source), 69, &["expected a pcap or pcapng file"]);
    check(&mut line("pcap:/nowhere/x.pcap"), 69, &["/nowhere/x.pcap: No such file or directory"]);
}
