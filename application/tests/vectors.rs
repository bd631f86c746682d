//! `application-ingest.json` through the real pipeline and a real Redis, and
//! `application-misc.json`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use application::announce::Announcer;
use application::bound::Bound;
use application::covert::Resolver;
use application::decisions::Decisions;
use application::intake::Served;
use application::liveness::{Dialer, LivenessSettings, LivenessTester};
use application::pipeline::Pipeline;
use application::policy::Policy;
use application::stats::Stats;
use application::store::Store;
use arc_swap::ArcSwap;
use futures_util::StreamExt;
use telemetry::log::Logger;
use telemetry::privacy::parse_log_client_ip;
use transports::Transport;
use vectors::{Tally, Value, load};

/// The vectors were recorded without a name server.
struct Hosts;

impl Resolver for Hosts {
    async fn resolve(&self, host: &str) -> Vec<IpAddr> {
        if host.eq_ignore_ascii_case("localhost") { vec![[127, 0, 0, 1].into()] } else { vec![] }
    }
}

/// Nobody answers at any phantom.
struct Silence;

impl Dialer for Silence {
    async fn dial(&self, _: SocketAddr) -> std::io::Result<()> {
        std::future::pending().await
    }
}

struct Redis {
    child: Child,
    url: String,
}

impl Redis {
    fn start(dir: &Path) -> Self {
        let socket = dir.join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(dir)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed: apt-get install redis-server");
        for _ in 0..500 {
            if socket.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, url: format!("redis+unix://{}", socket.display()) }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The configuration of the vector file, as an operator would write it.
fn policy(file: &Value, dir: &Path) -> Policy {
    let config = &file["config"];
    let toml = format!(
        "enable_v4 = true\nenable_v6 = true\nsocket_name = \"x\"\n\
         covert_blocklist_domains = {}\ncovert_blocklist_subnets = {}\n\
         covert_allowlist_subnets = {}\nphantom_blocklist = {}\n",
        config["covert_blocklist_domains"],
        config["covert_blocklist_subnets"],
        config["covert_allowlist_subnets"],
        config["phantom_blocklist"]
    );
    let settings = conf::Application::parse(&toml, Path::new("app_config.toml")).unwrap().value;
    let phantoms = dir.join("phantom_subnets.toml");
    std::fs::write(&phantoms, file["phantom_subnets_toml"].as_str().unwrap()).unwrap();
    Policy::build(&settings, &phantoms).unwrap().0
}

/// The lines about a registration, as the reference wrote them for the same messages; ours has no secret.
#[test]
fn lines_of_the_reference() {
    use application::{intake, lines};
    use telemetry::output::Format::Reference;

    const PLACE: &str = "<RFC3339Nano>";
    let file = load("application-ingest.json");
    let dir = tempfile::tempdir().unwrap();
    let policy = policy(&file, dir.path());
    let served = Served { v4: true, v6: true, transports: Transport::ALL.to_vec() };
    telemetry::privacy::set_log_client_ip(true);
    let mut compared = [0; 3];
    for case in file["cases"].as_array().unwrap() {
        let frame = vectors::hex(&case["c2s_wrapper_hex"]);
        // Where we decide otherwise, the lines are about something else.
        let Some(intake) = intake::read(&frame, &served, &policy)
            .ok()
            .filter(|_| case.get("required_published").is_none())
        else {
            continue;
        };
        for line in case["reference_log"].as_array().unwrap() {
            let line = line.as_str().unwrap().trim_start_matches("[REG] ");
            let ours = |registration: &application::registration::Registration| {
                let refused = application::covert::Refused::Malformed;
                [
                    lines::received(Reference, registration, &frame),
                    lines::new(Reference, registration, &frame, PLACE),
                    lines::refused(Reference, registration, &refused),
                ]
            };
            let starts =
                ["received registration: ", "New registration: ", "Dropping reg, malformed"];
            let Some(kind) = starts.iter().position(|start| line.starts_with(start)) else {
                continue;
            };
            // The reference gives up on both families when one fails, and we keep the other.
            let found = intake.registrations.iter().any(|registration| {
                let secret = hex::encode(shared_secret(&frame));
                ours(registration)[kind] == line.replace(&secret, &registration.log_id())
            });
            assert!(
                found,
                "{}: {line}\n{:?}",
                case["name"],
                intake.registrations.iter().map(|r| ours(r)[kind].clone()).collect::<Vec<_>>()
            );
            compared[kind] += 1;
        }
    }
    println!("vectors application-ingest.json: {compared:?} lines compared");
    assert!(compared[0] > 90 && compared[1] > 90 && compared[2] > 10, "{compared:?}");
}

fn shared_secret(frame: &[u8]) -> Vec<u8> {
    use signalling::Message;
    signalling::C2sWrapper::decode(frame).unwrap().shared_secret().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn application_ingest() {
    let file = load("application-ingest.json");
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let client = redis::Client::open(redis.url.as_str()).unwrap();
    let (mut control, mut messages) = client.get_async_pubsub().await.unwrap().split();
    control.subscribe(session::SESSION_CHANNEL).await.unwrap();
    let mut marker = client.get_multiplexed_async_connection().await.unwrap();

    let store = Arc::new(Store::new(10_000));
    let pipeline = Pipeline {
        served: ArcSwap::from_pointee(Served {
            v4: true,
            v6: true,
            transports: Transport::ALL.to_vec(),
        }),
        policy: ArcSwap::from_pointee(policy(&file, dir.path())),
        announcer: Announcer::new(Arc::clone(&store), [0; 16], 100, &redis.url),
        store,
        liveness: LivenessTester::new(
            &LivenessSettings {
                window: Duration::from_millis(5),
                live_expiry: None,
                nonlive_expiry: None,
                live_capacity: 0,
                nonlive_capacity: 0,
            },
            Silence,
        ),
        resolver: Hosts,
        probes: Bound::new(10),
        stats: Arc::new(Stats::default()),
        log: Logger::new("[REG] "),
        sharer: None,
        dtls: OnceLock::new(),
        decisions: Decisions::default(),
    };
    // The connection begins with what is in the store; wait until that (nothing) is over.
    while !pipeline.announcer.redis().flush(Duration::from_secs(1)).await {}
    let mut tally = Tally::new("application-ingest.json");
    for case in file["cases"].as_array().unwrap() {
        pipeline.handle(&vectors::hex(&case["c2s_wrapper_hex"])).await;
        assert!(pipeline.announcer.redis().flush(Duration::from_secs(5)).await);
        let end = b"end of case".as_slice();
        let _: u64 = redis::cmd("PUBLISH")
            .arg(session::SESSION_CHANNEL)
            .arg(end)
            .query_async(&mut marker)
            .await
            .unwrap();
        let mut published = Vec::new();
        loop {
            let message = messages.next().await.unwrap();
            if message.get_payload_bytes() == end {
                break;
            }
            published.push(hex::encode(message.get_payload_bytes()));
        }
        let expected: Vec<&str> = match case.get("required_published") {
            Some(required) => {
                required.as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect()
            }
            None => {
                let all = case["published"].as_array().unwrap();
                all.iter().map(|m| m["hex"].as_str().unwrap()).collect()
            }
        };
        assert_eq!(published, expected, "{}", case["name"]);
        tally.pass();
    }
    tally.finish();
}

#[test]
fn application_misc() {
    let file = load("application-misc.json");
    let mut tally = Tally::new("application-misc.json");
    for case in file["proxy_header"].as_array().unwrap() {
        let client = case["client"].as_str().unwrap().parse().unwrap();
        let header = application::tunnel::proxy_header(client);
        assert_eq!(header.as_bytes(), vectors::hex(&case["hex"]));
        tally.pass();
    }
    for case in file["dnat_injection"].as_array().unwrap() {
        let at = |ip: &str, port: &str| {
            let ip: IpAddr = case[ip].as_str().unwrap().parse().unwrap();
            SocketAddr::new(ip, case[port].as_u64().unwrap() as u16)
        };
        let (source, destination) = (at("src", "sport"), at("dst", "dport"));
        let packet = packet::craft::udp(source, destination, b"Hello world").unwrap();
        assert_eq!(packet, vectors::hex(&case["packet_hex"]));
        tally.pass();
    }
    for case in file["curve_client_keys"].as_array().unwrap() {
        let secret: [u8; 32] = vectors::hex(&case["secret_hex"]).try_into().unwrap();
        let public = keys::public_key(&secret);
        assert_eq!(public.as_slice(), vectors::hex(&case["public_hex"]));
        assert_eq!(keys::z85(&secret), case["secret_z85"].as_str().unwrap());
        assert_eq!(keys::z85(&public), case["public_z85"].as_str().unwrap());
        tally.pass();
    }
    let shared = &file["share_over_api"];
    let body = application::share::body(&vectors::hex(&shared["received_c2s_wrapper_hex"]));
    assert_eq!(body.unwrap(), vectors::hex(&shared["posted_body_hex"]));
    tally.pass();
    for (class, expected) in
        [("true", Ok(true)), ("false", Ok(false)), ("error_then_false", Err(()))]
    {
        for text in file["log_client_ip_values"][class].as_array().unwrap() {
            let text = text.as_str().unwrap();
            assert_eq!(parse_log_client_ip(text).map_err(drop), expected, "{text:?}");
            tally.pass();
        }
    }
    for (configured, emitted) in file["log_levels"]["emitted_when_configured"].as_object().unwrap()
    {
        use telemetry::log::Level;
        let configured: Level = configured.parse().unwrap();
        let names = ["trace", "debug", "warn", "error", "info"];
        let shown: Vec<&str> =
            names.into_iter().filter(|n| n.parse::<Level>().unwrap() >= configured).collect();
        assert_eq!(serde_json::json!(shown), *emitted);
        tally.pass();
    }
    for line in file["stats_log_lines"].as_array().unwrap() {
        stats_line(line.as_str().unwrap());
        tally.pass();
    }
    tally.finish();
}

/// The form of a line: every number is the same.
fn form(line: &str) -> String {
    let number = regex::Regex::new(r"[0-9]+(\.[0-9]+)?|NaN|\+Inf|inf").unwrap();
    number.replace_all(line, "N").into_owned()
}

/// Our lines have the form of the reference's: words, order, units and decimals.
fn stats_line(reference: &str) {
    let stats = Stats::default();
    let settings = LivenessSettings {
        window: Duration::from_millis(5),
        live_expiry: Some(Duration::from_secs(9)),
        nonlive_expiry: Some(Duration::from_secs(9)),
        live_capacity: 0,
        nonlive_capacity: 0,
    };
    let liveness = LivenessTester::new(&settings, Silence);
    let origin = application::geoip::Origin { country: Some(*b"ZZ"), asn: 64500 };
    let mut progress = stats.connections.begin(false);
    progress.go(application::stats::connections::State::Discard);
    progress.finish(&origin);
    for per_key in [
        &stats.registrations.generations,
        &stats.registrations.transports,
        &stats.registrations.versions,
    ] {
        per_key.count(4);
    }
    let mut lines = application::stats::every_five_seconds(&stats, &Store::new(1), &liveness, 10);
    lines.extend(application::stats::every_minute(&stats));
    let forms: Vec<String> = lines.iter().map(|line| form(line)).collect();
    // `[STATS] date time text`.
    let text = reference.splitn(4, ' ').nth(3).unwrap();
    assert!(forms.contains(&form(text)), "{text}\n{lines:#?}");
}
