//! The conformance scenarios of `spec/application.md` 22, against the real daemon.

mod cases;
mod curve;
mod host;
mod links;

use std::io::Read;
use std::time::{Duration, Instant};

use host::{
    Setup, end_writing, inside, inside_with, is_client, read_to_end, registration, send, tag, with,
};
use lab::Node;

const SECOND: Duration = Duration::from_secs(1);
/// No probed connection lives longer than its deadline of 10 s.
const LIMIT: Duration = Duration::from_secs(15);

#[test]
fn c1_c7_one_new_per_registration() {
    inside("c1_c7_one_new_per_registration", |host| {
        let message = registration(1);
        host.register(&message);
        let (key, lifetime) = host.sessions()[0];
        assert_eq!(key.client.map(Into::into).map(is_client), Some(true));
        assert_eq!(key.dst_port, 443);
        assert_eq!(lifetime, 600 * SECOND);
        host.publish(&message, 1);
        host.until("duplicate is noted", |h| h.log().contains("Duplicate registration"));
        assert_eq!(host.sessions().len(), 1);
    });
}

#[test]
fn c2_c4_tunnels_with_proxy_header() {
    inside("c2_c4_tunnels_with_proxy_header", |host| {
        let covert = host.covert();
        let message = with(registration(2), |p| {
            p.flags.as_mut().unwrap().proxy_header = Some(true);
        });
        let phantom = host.register(&message);
        for count in 1..=2u32 {
            let mut client = host.connect(phantom);
            send(&mut client, &[tag(2).as_slice(), b"hello"].concat());
            let (mut server, _) = covert.accept().unwrap();
            let mine = client.local_addr().unwrap();
            let expected =
                format!("PROXY TCP4 {} 127.0.0.1 {} 1234\r\nhello", mine.ip(), mine.port());
            let mut got = vec![0; expected.len()];
            server.read_exact(&mut got).unwrap();
            assert_eq!(String::from_utf8_lossy(&got), expected);
            drop((client, server));
            let line = format!("\"TunnelCount\":{count}");
            host.until("tunnel line", |h| {
                h.log().lines().any(|l| l.contains("proxy closed") && l.contains(&line))
            });
        }
        let log = host.log();
        let tunnel = log.lines().find(|l| l.contains("proxy closed")).unwrap();
        assert!(tunnel.starts_with("[MIN] 0202020202020202 "), "{tunnel}");
        assert!(tunnel.contains("\"BytesUp\":5,\"BytesDown\":0"), "{tunnel}");
        assert!(
            tunnel.contains("\"Transport\":\"Min\",\"Registrar\":\"API\",\"LibVer\":4,\"Gen\":1}")
        );
        host.until("updates", |h| h.sessions().len() == 3);
        assert_eq!(host.sessions()[1].1, 6 * 3600 * SECOND);
    });
}

#[test]
fn c3_c10_c22_split_tag_bulk_and_half_close() {
    let setup = Setup { clients: records::Clients::Shown, ..Setup::default() };
    inside_with("c3_c10_c22_split_tag_bulk_and_half_close", setup, |host| {
        let covert = host.covert();
        let phantom = host.register(&registration(3));
        // C3: the tag in two segments.
        let mut client = host.connect(phantom);
        client.set_nodelay(true).unwrap();
        send(&mut client, &tag(3)[..20]);
        std::thread::sleep(Duration::from_millis(100));
        send(&mut client, &tag(3)[20..]);
        let (mut server, _) = covert.accept().unwrap();
        // C22: a request, the end of writing, and the whole answer after it; C10: then a FIN.
        send(&mut client, b"request");
        end_writing(&client);
        let (request, fin, _) = read_to_end(&mut server, LIMIT);
        assert_eq!((request.as_slice(), fin), (b"request".as_slice(), true));
        let answer: Vec<u8> = (0..500_000u32).map(|i| (i % 251) as u8).collect();
        send(&mut server, &answer);
        drop(server);
        let (got, fin, _) = read_to_end(&mut client, LIMIT);
        assert!(got == answer && fin);
    });
}

#[test]
fn c5_c6_probes_learn_nothing() {
    inside("c5_c6_probes_learn_nothing", |host| {
        let registered = host.register(&registration(5));
        let free = "192.122.190.254:443".parse().unwrap();
        assert_ne!(registered, free);
        let mut probes = Vec::new();
        for (phantom, len) in
            [(free, 0), (free, 100_000), (registered, 40), (registered, 9_000), (registered, 0)]
        {
            let mut client = host.connect(phantom);
            send(&mut client, &vec![0x5a; len]);
            let wait = move || (len, read_to_end(&mut client, LIMIT));
            probes.push(std::thread::spawn(wait));
        }
        for probe in probes {
            let (len, (answer, fin, took)) = probe.join().unwrap();
            assert!(answer.is_empty() && fin, "{len}: answered or reset");
            assert!(took >= 4 * SECOND && took <= 10 * SECOND + SECOND / 2, "{len}: {took:?}");
        }
    });
}

#[test]
fn c8_a_refused_covert_closes_the_client() {
    inside("c8_a_refused_covert_closes_the_client", |host| {
        let phantom = host.register(&registration(8));
        let mut client = host.connect(phantom);
        send(&mut client, &tag(8));
        let (answer, _, took) = read_to_end(&mut client, LIMIT);
        assert!(answer.is_empty() && took < 3 * SECOND, "{took:?}");
        host.until("tunnel line", |h| h.log().contains("\"CovertDialErr\":\"refused\""));
    });
}

#[test]
fn c9_a_silent_session_ends_after_thirty_seconds() {
    inside("c9_a_silent_session_ends_after_thirty_seconds", |host| {
        let covert = host.covert();
        let phantom = host.register(&registration(9));
        let mut client = host.connect(phantom);
        send(&mut client, &tag(9));
        let (_server, _) = covert.accept().unwrap();
        let (answer, _, took) = read_to_end(&mut client, 40 * SECOND);
        assert!(answer.is_empty());
        assert!(took >= 28 * SECOND && took <= 32 * SECOND, "{took:?}");
        host.until("tunnel line", |h| h.log().contains("\"ClientConnErr\":\"timeout\""));
    });
}

#[test]
fn c11_ipv6() {
    inside("c11_ipv6", |host| {
        let covert = host.covert();
        let mut message = with(registration(11), |p| {
            p.v4_support = Some(false);
            p.v6_support = Some(true);
            p.flags.as_mut().unwrap().proxy_header = Some(true);
        });
        message.registration_address = Some(lab::address::CLIENT_V6.octets().to_vec());
        let phantom = host.register(&message);
        assert!(phantom.is_ipv6());
        assert_eq!(host.sessions()[0].0.client, None);
        let mut client = host.connect(phantom);
        send(&mut client, &tag(11));
        let (mut server, _) = covert.accept().unwrap();
        let mine = client.local_addr().unwrap();
        let expected = format!("PROXY TCP6 {} 127.0.0.1 {} 1234\r\n", mine.ip(), mine.port());
        let mut got = vec![0; expected.len()];
        server.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8_lossy(&got), expected);
    });
}

fn not_prescanned(seed: u8) -> signalling::C2sWrapper {
    with(registration(seed), |p| p.flags = None)
}

#[test]
fn c13_c21_a_silent_phantom_is_probed_once() {
    inside("c13_c21_a_silent_phantom_is_probed_once", |host| {
        let message = not_prescanned(13);
        let start = Instant::now();
        host.publish(&message, 6);
        host.until("New is published", |h| !h.sessions().is_empty());
        let took = start.elapsed();
        assert!(took >= SECOND * 7 / 10, "published before the window ended: {took:?}");
        host.until("copies are noted", |h| h.log().matches("Duplicate registration").count() == 5);
        std::thread::sleep(SECOND);
        assert_eq!(host.sessions().len(), 1);
        host.until("statistics", |h| h.log().contains("liveness-stats: 1 1 "));
    });
}

#[test]
fn c14_a_live_phantom_is_left_alone() {
    inside("c14_a_live_phantom_is_left_alone", |host| {
        for (seed, listens) in [(14, true), (15, false)] {
            let message = not_prescanned(seed);
            let phantom = host.registrations(&message)[0].phantom;
            // The probe leaves through inet, where a host now has the phantom's address.
            let add = format!("addr add {phantom}/32 dev eth0\n");
            let ip = |node: Node, words: &str| {
                let mut command = node.command("ip");
                assert!(command.args(words.split_whitespace()).status().unwrap().success());
            };
            ip(Node::Decoy, &add);
            ip(Node::Inet, &format!("route add {phantom}/32 via 198.51.100.2 table 100"));
            let _listener = listens
                .then(|| Node::Decoy.run(|| std::net::TcpListener::bind((phantom, 443))).unwrap());
            let warned = host.log().matches("live phantom").count();
            host.publish(&message, 1);
            host.until("warning", |h| h.log().matches("live phantom").count() > warned);
        }
        assert!(host.sessions().is_empty());
    });
}

#[test]
fn c17_reloads_apply_or_change_nothing() {
    inside("c17_reloads_apply_or_change_nothing", |mut host| {
        let message = registration(17);
        let phantom = host.registrations(&message)[0].phantom;
        let blocked = host.config_with(&format!("phantom_blocklist = [\"{phantom}/32\"]"));
        host.reload(&blocked);
        host.until("reload", |h| h.log().contains("received SIGHUP"));
        std::thread::sleep(SECOND / 2);
        host.publish(&message, 1);
        for (broken, named) in [
            ("enable_v4 = maybe", "app.toml:1"),
            ("phantom_blocklist = [\"x\"]\n", "phantom_blocklist"),
        ] {
            let text = format!("{broken}\n{}", host.config_with(""));
            host.reload(&text);
            host.until("refusal", |h| {
                h.log()
                    .lines()
                    .any(|l| l.contains("failed to parse app config") && l.contains(named))
            });
        }
        let regex = host.config_with("").replace("\"localhost\"", "\"(\"");
        host.reload(&regex);
        host.until("regex refused", |h| h.log().contains("covert_blocklist_domains"));
        // The blocklist of the last good reload still holds, and the process lives.
        host.publish(&message, 1);
        host.register(&registration(18));
        assert_eq!(host.sessions().len(), 1);
        assert!(host.is_alive());
    });
}

#[test]
fn c18_sigterm_ends_promptly_and_clears() {
    inside("c18_sigterm_ends_promptly_and_clears", |mut host| {
        host.register(&registration(19));
        host.signal("TERM");
        let status = host.wait_for_end(5 * SECOND).expect("still alive after 5 s");
        assert!(status.success(), "{status}");
        host.until("Clear", |h| {
            h.published().iter().any(|m| *m == session::command::encode_clear())
        });
    });
}

#[test]
fn c19_a_hung_redis_delays_nobody() {
    inside("c19_a_hung_redis_delays_nobody", |host| {
        let covert = host.covert();
        let phantom = host.register(&registration(20));
        host.signal_redis("STOP");
        for seed in 21..26 {
            host.publish(&registration(seed), 1);
        }
        let start = Instant::now();
        let mut client = host.connect(phantom);
        send(&mut client, &[tag(20).as_slice(), b"x"].concat());
        let (mut server, _) = covert.accept().unwrap();
        server.read_exact(&mut [0]).unwrap();
        let took = start.elapsed();
        assert!(took < SECOND, "{took:?}");
        host.signal_redis("CONT");
        host.until("all sessions after recovery", |h| {
            let keys: std::collections::HashSet<_> =
                h.sessions().into_iter().map(|(key, _)| key).collect();
            keys.len() == 6
        });
    });
}

#[test]
fn c20_the_station_itself_is_no_covert() {
    inside("c20_the_station_itself_is_no_covert", |host| {
        for (seed, covert) in
            [":6379", "0.0.0.0:6379", "[::]:6379", "169.254.169.254:80"].into_iter().enumerate()
        {
            let message = with(registration(30 + seed as u8), |p| {
                p.covert_address = Some(covert.to_owned());
            });
            host.publish(&message, 1);
            let line = format!("-> {covert} (");
            host.until("refusal", |h| h.log().contains(&line));
        }
        assert!(host.sessions().is_empty());
    });
}
