//! A host of its own for a test: namespaces with an uplink to a peer, and nothing set up.

#![allow(dead_code, reason = "each test binary takes what it needs")]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The host's addresses on its uplink.
pub(crate) const HOST_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
pub(crate) const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
/// A phantom and a client somewhere beyond the uplink.
pub(crate) const PHANTOM_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
pub(crate) const PHANTOM_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 77, 0, 0, 0, 0, 1);
pub(crate) const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
pub(crate) const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 1);

const NETWORK: &str = "\
netns add peer
link set lo up
link add eth0 type veth peer name out0 netns peer
link set eth0 up
addr add 192.0.2.10/24 dev eth0
addr add 2001:db8:1::10/64 dev eth0 nodad
-n
link set lo up
link set out0 up
addr add 192.0.2.1/24 dev out0
addr add 2001:db8:1::1/64 dev out0 nodad
";

/// Runs `body` of the test `name` inside namespaces of its own: the test binary calls itself.
pub(crate) fn inside(name: &str, body: fn(&Stage)) {
    if std::env::var("STAGE").as_deref() == Ok(name) {
        lab::isolate::enter().unwrap();
        body(&Stage::new());
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("STAGE", name)
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("1 passed"), "the test did not run: {out}");
}

/// The namespaces, with a folder for files.
pub(crate) struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        shell("mount -t tmpfs tmpfs /run && mkdir -p /run/netns");
        for line in NETWORK.lines().take_while(|line| *line != "-n") {
            shell(&format!("ip {line}"));
        }
        for line in NETWORK.lines().skip_while(|line| *line != "-n").skip(1) {
            shell(&format!("ip -n peer {line}"));
        }
        shell("ip route add default via 192.0.2.1; ip route add default via 2001:db8:1::1");
        // What others send must not have unfinished checksums, and nothing may depend on the host's own.
        shell("ethtool -K eth0 tx off rx off tso off gso off gro off");
        shell("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1");
        let stage = Self { dir: tempfile::tempdir().unwrap() };
        stage.write("conjure.conf", "CJ_CORECOUNT=2\n");
        stage
    }

    /// Place of the file `name` of this test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the file `name`.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs `station COMMAND --conf conjure.conf …`.
    pub(crate) fn station(&self, command: &str, arguments: &[&str]) -> Said {
        Said::of(
            Command::new(env!("CARGO_BIN_EXE_station"))
                .args([command, "--conf"])
                .arg(self.path("conjure.conf"))
                .args(arguments)
                .output()
                .unwrap(),
        )
    }
}

/// What a program said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Panics unless the program went well.
    #[track_caller]
    pub(crate) fn good(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.out, self.err);
        self
    }
}

/// What a shell prints for `script`, which must go well.
#[track_caller]
pub(crate) fn shell(script: &str) -> String {
    let output = Command::new("sh")
        .args(["-ec", script])
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Moves this thread to the peer.
pub(crate) fn enter_peer() {
    use std::os::fd::AsFd;
    let namespace = std::fs::File::open("/run/netns/peer").unwrap();
    let kind = rustix::thread::LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind)).unwrap();
}

/// Everything that set-up may change, as text.
pub(crate) fn snapshot() -> String {
    shell(
        "nft -s list ruleset; ip -o -d link show | sed \
         's/^[0-9]*: //; s/NO-CARRIER,//; s/,LOWER_UP//; s/ state [A-Z]*//; s/ qdisc [a-z_]*//'; ip rule show; ip -6 rule show; \
         cd /proc/sys/net; for f in ipv4/conf/all/* ipv4/conf/eth0/* netfilter/*last_ack; do \
         echo $f $(cat $f); done; ls -d /run/conjure* 2>/dev/null || true",
    )
}

/// Waits until `what` is true, at most 10 s.
#[track_caller]
pub(crate) fn until(name: &str, mut what: impl FnMut() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(10), "{name}: not within 10 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The program under test, where it was built.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_station"))
}
