//! The life of a balancer with one interface, from its start to its end.

use std::path::Path;

use crate::frames;
use crate::station::{
    Balancer, Footprint, Manager, Reader, Sender, command, ip, number, queues_have,
    read_to_the_end, until,
};

/// How AF_XDP is refused zero copy by drivers that have none.
pub(crate) const NO_ZERO_COPY: &str = "not zero copy: Operation not supported (os error 95)";

/// The interfaces of the tests; without IPv6, so that the kernel sends nothing by itself.
pub(crate) fn network() {
    for name in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        if Path::new(&path).exists() {
            std::fs::write(path, "1").unwrap();
        }
    }
    ip("link add tap0 mtu 9000 type veth peer name gen0 mtu 9000");
    ip("link add probe0 type veth peer name probe1");
    for name in ["lo", "tap0", "gen0", "probe0", "probe1"] {
        ip(&format!("link set {name} up"));
    }
}

/// A back end and what it does to its interface.
struct Case {
    /// Name of the source.
    source: &'static str,
    interface: &'static str,
    /// What is said of it.
    chosen: String,
    /// Mode of the program on the interface.
    xdp: Option<u64>,
    /// Packet and AF_XDP sockets that it has open.
    sockets: [u64; 2],
}

impl Case {
    fn line(&self) -> String {
        format!("{}: {}", self.interface, self.chosen)
    }

    /// Everything that is sent arrives as it was on the wire, whatever it is, and every buffer comes back.
    fn everything_arrives(&self, dir: &Path, sender: &mut Sender) {
        let before = Footprint::of(self.interface);
        let mut command = command(dir, &format!("-i {} -c 98 -n 1,1 -z", self.source));
        let manager = Manager::of(&mut command, dir);
        let balancer = Balancer::start(&mut command, &self.line());
        let running = Footprint {
            promiscuity: before.promiscuity + 1,
            xdp: self.xdp,
            sockets: [before.sockets[0] + self.sockets[0], before.sockets[1] + self.sockets[1]],
        };
        assert_eq!(Footprint::of(self.interface), running);
        let mut readers = [0, 1].map(|queue| Reader::attach(dir, queue));
        let sent = frames::of_every_kind();
        sender.send(&sent);
        for reader in &mut readers {
            same(&reader.read(sent.len()), &sent);
        }
        queues_have(dir, "outstanding", |n| n == 0);

        // Nobody reads until the end has come, and nothing of what is queued is lost.
        let more = frames::short(0..500);
        sender.send(&more);
        queues_have(dir, "enqueued", |n| n == (sent.len() + more.len()) as u64);
        balancer.terminate();
        manager.hears("STOPPING=1");
        for got in read_to_the_end(readers) {
            same(&got, &more);
        }
        let text = balancer.end();
        let count = sent.len() + more.len();
        let numbers = ["Packets:", "Forwarded:", "Processed:"].map(|name| number(&text, name));
        assert_eq!(numbers, [count, 2 * count, 2 * count]);
        assert!(!text.contains("WARNING"), "{text}");
        self.is_as_before(&before);
    }

    /// The end comes while everything lies in the kernel's rings: it is read, and handed out.
    fn rings_are_drained(&self, dir: &Path, sender: &mut Sender) {
        let before = Footprint::of(self.interface);
        // For ten seconds nothing is read.
        let mut command = command(dir, &format!("-i {} -c 98 -n 1,1 -z -W 10", self.source));
        let balancer = Balancer::start(&mut command, &self.line());
        let readers = [0, 1].map(|queue| Reader::attach(dir, queue));
        let sent = [frames::short(0..3000), frames::of_every_kind()].concat();
        sender.send(&sent);
        queues_have(dir, "enqueued", |n| n == 0);
        balancer.terminate();
        for got in read_to_the_end(readers) {
            same(&got, &sent);
        }
        let text = balancer.end();
        assert_eq!(number(&text, "Packets:"), sent.len());
        self.is_as_before(&before);
    }

    /// Nobody reads in time: what the queues cannot take is counted, and the end comes all the same.
    fn who_reads_nothing_delays_nothing(&self, dir: &Path, sender: &mut Sender) {
        let before = Footprint::of(self.interface);
        let mut command = command(dir, &format!("-i {} -c 98 -n 1,1 -q 128 -p -z", self.source));
        let balancer = Balancer::start(&mut command, &self.line());
        let mut reader = Reader::attach(dir, 0);
        let idle = Reader::attach(dir, 1);
        let sent = frames::short(0..200);
        for part in sent.chunks(40) {
            sender.send(part);
            same(&reader.read(part.len()), part);
        }
        queues_have(dir, "enqueued", |n| n >= 128);
        balancer.terminate();
        let text = balancer.end();
        let numbers = ["Packets:", "Forwarded:", "Processed:", "Q0Dropped:", "Q1Dropped:"]
            .map(|name| number(&text, name));
        assert_eq!(numbers, [200, 328, 200, 0, 72]);
        drop(idle);
        self.is_as_before(&before);
    }

    fn is_as_before(&self, before: &Footprint) {
        let is = || (Footprint::of(self.interface) == *before).then_some(());
        until(&format!("{before:?} as before, not {:?}", Footprint::of(self.interface)), is);
    }

    fn live(&self, sender: &mut Sender) {
        let dir = tempfile::tempdir().unwrap();
        self.everything_arrives(dir.path(), sender);
        self.rings_are_drained(dir.path(), sender);
        self.who_reads_nothing_delays_nothing(dir.path(), sender);
    }
}

/// Compares frames, and says where they differ.
pub(crate) fn same(got: &[Vec<u8>], sent: &[Vec<u8>]) {
    if let Some(n) = (0..sent.len()).find(|n| got.get(*n) != Some(&sent[*n])) {
        let got_it = got.get(n);
        panic!("{} of {}; frame {n}: {got_it:02x?}, not {:02x?}", got.len(), sent.len(), sent[n]);
    }
    assert_eq!(got.len(), sent.len());
}

pub(crate) fn xdp_native() {
    let case = Case {
        source: "xdp:tap0",
        interface: "tap0",
        chosen: format!("AF_XDP, native, copy, 1 queue(s), rings of 32768; {NO_ZERO_COPY}"),
        xdp: Some(1),
        // A packet socket keeps the interface promiscuous.
        sockets: [1, 1],
    };
    case.live(&mut Sender::new("packet", "gen0"));
}

pub(crate) fn xdp_generic() {
    let case = Case {
        source: "xdp:lo",
        interface: "lo",
        chosen: "AF_XDP, generic, copy, 1 queue(s), rings of 32768; not native: Operation not supported (os error 95)"
            .to_owned(),
        xdp: Some(2),
        sockets: [1, 1],
    };
    case.live(&mut Sender::new("packet", "lo"));
}

pub(crate) fn packet() {
    let case = Case {
        source: "afp:tap0",
        interface: "tap0",
        chosen: "AF_PACKET, ring of 64 MiB".to_owned(),
        xdp: None,
        sockets: [1, 0],
    };
    case.live(&mut Sender::new("packet", "gen0"));
}

/// An interface of which nothing is said: AF_XDP where the driver has it, AF_PACKET on a veth.
pub(crate) fn auto() {
    let mut sender = Sender::new("tap", "wire0");
    ip("link set wire0 mtu 9000 up");
    let case = Case {
        source: "wire0",
        interface: "wire0",
        chosen: format!("AF_XDP, native, copy, 1 queue(s), rings of 32768; {NO_ZERO_COPY}"),
        xdp: Some(1),
        sockets: [1, 1],
    };
    case.live(&mut sender);
    let case = Case {
        source: "tap0",
        interface: "tap0",
        chosen:
            "AF_PACKET, ring of 64 MiB; not AF_XDP: packets of a veth come at less cost that way"
                .to_owned(),
        xdp: None,
        sockets: [1, 0],
    };
    case.live(&mut Sender::new("packet", "gen0"));
}
