//! Troubles that people had with software like this, against the real daemon.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use keys::{SharedSecret, StationKey};
use lab::Node;
use signalling::{C2sWrapper, PrefixTransportParams, RegistrationResponse};
use transports::Transport;
use transports::prefix::{FLUSH_NONE, PrefixTable, opening};

use crate::host::{
    Clocks, Host, Setup, end_writing, inside_with, read_to_end, registration, send, tag, with,
};
use crate::{LIMIT, SECOND, not_prescanned};

/// The application looks for ended registrations several times in this time.
const EXPIRY: Duration = Duration::from_secs(3);

/// Counts every IPv6 packet that the station's host sends, but for what its kernel says about
/// multicast by itself.
const WATCH: &str = "
table inet watch {
    counter leaving { }
    chain output {
        type filter hook output priority 0;
        oifname != \"lo\" meta nfproto ipv6 icmpv6 type mld2-listener-report accept
        oifname != \"lo\" meta nfproto ipv6 counter name leaving
    }
}
";

fn nft(node: Node, arguments: &[&str], input: &str) -> String {
    let mut command = node.command("nft");
    command.args(arguments).stdin(std::process::Stdio::piped());
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "nft {arguments:?} {input}");
    String::from_utf8(output.stdout).unwrap()
}

fn ipv6_packets_sent() -> u64 {
    let text = nft(Node::Station, &["list", "counter", "inet", "watch", "leaving"], "");
    let mut words = text.split_whitespace().skip_while(|w| *w != "packets").skip(1);
    words.next().unwrap().parse().unwrap()
}

/// One connection of Min to `phantom`, a byte each way.
fn ping_pong(host: &Host, covert: &std::net::TcpListener, phantom: SocketAddr, seed: u8) {
    let (client, server) = tunnel(host, covert, phantom, seed);
    exchange(&client, &server, b"there", b"back");
}

fn tunnel(
    host: &Host,
    covert: &std::net::TcpListener,
    phantom: SocketAddr,
    seed: u8,
) -> (TcpStream, TcpStream) {
    let mut client = host.connect(phantom);
    send(&mut client, &tag(seed));
    let (server, _) = covert.accept().unwrap();
    (client, server)
}

fn exchange(client: &TcpStream, server: &TcpStream, up: &[u8], down: &[u8]) {
    for (mut from, mut to, bytes) in [(client, server, up), (server, client, down)] {
        from.write_all(bytes).unwrap();
        let mut got = vec![0; bytes.len()];
        to.set_read_timeout(Some(LIMIT)).unwrap();
        to.read_exact(&mut got).unwrap();
        assert_eq!(got, bytes);
    }
}

/// P14: a station without IPv6 leaves the IPv6 half of a registration alone.
#[test]
fn p14_without_ipv6_only_the_ipv4_half_is_served() {
    let setup = Setup { replace: &[("enable_v6 = true", "enable_v6 = false")], ..Setup::default() };
    inside_with("cases::p14_without_ipv6_only_the_ipv4_half_is_served", setup, |host| {
        let covert = host.covert();
        nft(Node::Station, &["-f", "-"], WATCH);
        let dual = |seed, source, address: Option<[u8; 16]>| {
            let mut message = with(not_prescanned(seed), |p| p.v6_support = Some(true));
            message.registration_source = Some(source);
            message.registration_response = address.map(|a| RegistrationResponse {
                ipv6addr: Some(a.to_vec()),
                ..RegistrationResponse::default()
            });
            message
        };
        let v6 = [0x20, 1, 0x48, 0xa8, 0x68, 0x7f, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9];
        // From the detector, the API, another station, and with a phantom named by the registrar.
        let messages = [dual(1, 1, None), dual(2, 2, None), dual(3, 3, None), dual(4, 5, Some(v6))];
        for message in &messages {
            host.publish(message, 1);
        }
        host.until("every IPv4 half is announced", |h| h.sessions().len() == 4);
        host.until("statistics", |h| {
            h.log().contains("liveness-stats: 4 4 100.000% ") && h.log().contains("reg-stats: 4 4 ")
        });
        let log = host.log();
        let stats = log.lines().find(|l| l.contains("Conns: ") && l.contains("4 valid")).unwrap();
        assert!(stats.contains(" 0 miss 0 err 0 dup LiveT: 4 valid 0 live 0 cached"), "{stats}");
        assert!(!log.contains("cannot be probed") && !log.contains("live phantom"), "{log}");
        assert!(host.sessions().iter().all(|(key, _)| key.client.is_some()), "an IPv6 session");
        ping_pong(&host, &covert, host.registrations(&messages[0])[0].phantom_endpoint(), 1);
        assert_eq!(ipv6_packets_sent(), 0, "an IPv6 packet left the host");
        // The counter would have counted: a datagram of the test itself.
        Node::Station
            .run(|| UdpSocket::bind("[::]:0")?.send_to(b"x", "[2001:db8:4::2]:9").map(drop))
            .unwrap();
        assert!(ipv6_packets_sent() > 0);
    });
}

fn prefix_registration(seed: u8, id: i32) -> C2sWrapper {
    with(registration(seed), |p| {
        p.transport = Some(Transport::Prefix.number());
        let params = PrefixTransportParams { prefix_id: Some(id), ..Default::default() };
        p.transport_params = Some(signalling::params::pack(&params));
    })
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    })
    .take(len)
    .collect()
}

/// P21: prefix, tag and 300 kB in one write, spliced both ways, ended from either side.
#[test]
fn p21_splicing_neither_changes_nor_adds_a_byte() {
    const LEN: usize = 300_000;
    let replace = &[("enable_v4", "relay_mode = \"splice\"\nenable_v4")];
    let setup = Setup { replace, ..Setup::default() };
    inside_with("cases::p21_splicing_neither_changes_nor_adds_a_byte", setup, |host| {
        let covert = host.covert();
        let key = StationKey::from_private(&[0x40; 32]).unwrap();
        let before = host.pipes();
        for (seed, id) in [(1, 0), (2, 1), (3, 4), (4, 9)] {
            let phantom = host.register(&prefix_registration(seed, id));
            for client_ends in [true, false] {
                let prefix = PrefixTable::default().by_id(id).unwrap().bytes.clone();
                let secret = SharedSecret::new(&[seed; 32]);
                let rng = &mut rand::rng();
                let mut first =
                    opening(&prefix, FLUSH_NONE, &secret, key.public(), rng).unwrap().concat();
                let (up, down) = (noise(LEN, seed.into()), noise(LEN, 99));
                first.extend(&up);
                let client = host.connect(phantom);
                let writer = client.try_clone().unwrap();
                let writing = std::thread::spawn(move || {
                    (&writer).write_all(&first).unwrap();
                    if client_ends {
                        end_writing(&writer);
                    }
                });
                let (mut server, _) = covert.accept().unwrap();
                let mut got = vec![0; LEN];
                server.set_read_timeout(Some(LIMIT)).unwrap();
                server.read_exact(&mut got).unwrap();
                assert!(got == up, "prefix {id}: changed on the way up");
                writing.join().unwrap();
                let mut client = client;
                if client_ends {
                    let (more, fin, _) = read_to_end(&mut server, LIMIT);
                    assert!(more.is_empty() && fin, "prefix {id}: {} bytes more", more.len());
                }
                send(&mut server, &down);
                end_writing(&server);
                let (got, fin, _) = read_to_end(&mut client, LIMIT);
                assert!(got == down, "prefix {id}: changed on the way down ({})", got.len());
                assert!(fin, "prefix {id}: no orderly end");
                if !client_ends {
                    drop(client);
                    let (more, fin, _) = read_to_end(&mut server, LIMIT);
                    assert!(more.is_empty() && fin, "prefix {id}: {} bytes more", more.len());
                }
            }
        }
        assert!(host.pipes() > before, "nothing was spliced");
        host.until("tunnel lines", |h| {
            h.log().matches("\"BytesUp\":300000,\"BytesDown\":300000").count() == 8
        });
    });
}

/// A registration of `seed` whose phantom the registrar chose.
fn at(seed: u8, phantom: SocketAddr) -> C2sWrapper {
    let SocketAddr::V4(phantom) = phantom else { panic!("{phantom}") };
    let mut message = not_prescanned(seed);
    message.registration_response = Some(RegistrationResponse {
        ipv4addr: Some(u32::from(*phantom.ip())),
        dst_port: Some(phantom.port().into()),
        ..RegistrationResponse::default()
    });
    message
}

/// P08: steps of the wall clock end nothing early and keep nothing for ever.
#[test]
fn p08_steps_of_the_wall_clock_touch_no_lifetime() {
    let replace = &[("nonlive = \"5m\"", "nonlive = \"20s\"")];
    let setup = Setup { replace, clocks: Clocks::Wall, ..Setup::default() };
    inside_with("cases::p08_steps_of_the_wall_clock_touch_no_lifetime", setup, |mut host| {
        let covert = host.covert();
        let phantom = SocketAddr::from((Ipv4Addr::new(192, 122, 190, 77), 443));
        let message = not_prescanned(1);
        let own = host.register(&message);
        let (client, server) = tunnel(&host, &covert, own, 1);
        exchange(&client, &server, b"a", b"b");
        // The liveness of this phantom is known from now on.
        host.register(&at(2, phantom));
        let probed = Instant::now();
        for (seed, offset, date) in [(3, "-1h", "-1 hour"), (4, "+30d", "+30 days")] {
            host.step_clock(offset);
            // The clock does move: log lines carry it, to the hour here.
            let date = Command::new("date").args(["-d", date, "+%Y/%m/%d %H:"]).output().unwrap();
            let date = String::from_utf8(date.stdout).unwrap();
            host.until("the step shows in the log", |h| h.log().contains(date.trim_end()));
            host.register(&at(seed, phantom));
            exchange(&client, &server, b"still", b"open");
            for (seed, phantom) in [(1, own), (2, phantom), (seed, phantom)] {
                ping_pong(&host, &covert, phantom, seed);
            }
            assert!(host.is_alive());
        }
        // Neither was probed anew.
        host.until("two answers of the liveness cache", |h| cached_answers(&h.log()) == 2);
        // The daemon looks for ended registrations every few seconds.
        std::thread::sleep(EXPIRY);
        assert!(!host.log().contains("expired reg"), "{}", host.log());
        // Nothing became immortal: the cached result ends after its 20 s.
        host.step_clock("-1h");
        std::thread::sleep((21 * SECOND).saturating_sub(probed.elapsed()));
        let start = Instant::now();
        host.register(&at(5, phantom));
        assert!(start.elapsed() >= SECOND * 6 / 10, "a result of the liveness cache is immortal");
    });
}

/// Questions that the liveness cache has answered, by the lines of statistics so far.
fn cached_answers(log: &str) -> u64 {
    let of_line = |line: &str| {
        let (_, numbers) = line.split_once("LiveT: ")?;
        let (before, _) = numbers.split_once(" cached")?;
        before.rsplit(' ').next()?.parse::<u64>().ok()
    };
    log.lines().filter_map(of_line).sum()
}

/// P08, the other half: as time passes, unused registrations end and used ones stay.
#[test]
fn p08_registrations_end_by_the_monotonic_clock() {
    let setup = Setup { clocks: Clocks::All, ..Setup::default() };
    inside_with("cases::p08_registrations_end_by_the_monotonic_clock", setup, |host| {
        let covert = host.covert();
        host.register(&registration(1));
        let used = host.register(&registration(2));
        ping_pong(&host, &covert, used, 2);
        host.step_clock("+9m");
        host.until("statistics", |h| h.log().contains("reg-stats: 2 2 "));
        assert!(!host.log().contains("expired reg"));
        host.step_clock("+11m");
        let expired = |h: &Host| h.log().matches("expired reg").count();
        host.until("the unused registration ends", |h| expired(h) == 1);
        ping_pong(&host, &covert, used, 2);
        host.step_clock("+7h");
        host.until("the used registration ends", |h| expired(h) == 2);
    });
}
