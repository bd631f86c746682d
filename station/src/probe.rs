//! `station probe`: registers a canary over each configured channel and reports which parts of the
//! station heard it.
//!
//! The canary asks for a covert that nobody else asks for, by which it is recognised on the bus that
//! the application repeats; its phantom and port are looked for among the sessions that detectors are
//! told of. No connection is made to either.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bus::{Subscriber, SubscriberOptions};
use client::{
    AmpChannel, Channel, Client, ClientAddress, ClientConf, DnsChannel, Families, Options,
    Resolver, Session, Transport,
};
use session::watch::{DetectorId, Watch, watch};
use session::{SessionKey, SessionSink};
use signalling::{C2sWrapper, Message};
use telemetry::admin;
use telemetry::process::Exit;

use crate::arguments::Configuration;

/// Time for the first look at bus and sessions.
const ATTACH: Duration = Duration::from_secs(2);
/// How often is looked whether the canary has arrived.
const LOOK: Duration = Duration::from_millis(10);

/// Arguments of `station probe`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    configuration: Configuration,
    /// Channels to try: decoy, api, bdapi, dns, bddns, amp, bdamp, grpc; otherwise all that the
    /// registrar's configuration offers. decoy needs a host whose traffic passes the tap.
    #[arg(long, value_name = "CHANNEL,…", value_delimiter = ',')]
    channel: Vec<String>,
    /// Host of the registrar.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    registrar: IpAddr,
    /// ClientConf; otherwise the registrar's.
    #[arg(long, value_name = "FILE")]
    client_conf: Option<PathBuf>,
    /// PEM file of trust anchors for decoys and for gRPC with TLS.
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// Address that the canary claims where the registrar does not see one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    client_address: IpAddr,
    /// Seconds in which each part has to hear a canary.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    wait: u64,
    /// Number of the station on this host.
    #[arg(long, env = "OFFSET", default_value_t = 0)]
    offset: u32,
}

/// Probes and reports; fails unless every canary was heard everywhere.
pub(crate) fn main(arguments: &Arguments) -> Exit {
    let setup = match Setup::load(arguments) {
        Ok(setup) => setup,
        Err((exit, error)) => {
            eprintln!("probe: {error}");
            return exit;
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("probe: cannot start: {error}");
            return Exit::OsErr;
        }
    };
    let heard = runtime.block_on(run(arguments, &setup));
    // Decoy flows may still wait for an answer that nobody needs any more.
    runtime.shutdown_background();
    match heard {
        Ok(true) => Exit::Ok,
        Ok(false) => Exit::Unavailable,
        Err(error) => {
            eprintln!("probe: {error}");
            Exit::Unavailable
        }
    }
}

/// What the configuration says.
struct Setup {
    application: conf::Application,
    registrar: conf::Registrar,
    client_conf: ClientConf,
    session_socket: PathBuf,
}

impl Setup {
    fn load(arguments: &Arguments) -> Result<Self, (Exit, String)> {
        let wrong = |error: conf::Problems| (Exit::Config, error.to_string());
        let sources = arguments.configuration.sources();
        let station = conf::Station::load(&sources).map_err(wrong)?.value;
        let application = conf::Application::load(&station.station_config).map_err(wrong)?.value;
        let registrar = conf::Registrar::load(&station.registrar_config).map_err(wrong)?.value;
        let path = arguments.client_conf.as_deref().unwrap_or(&registrar.clientconf_path);
        let client_conf = ClientConf::load(path).map_err(|e| (Exit::NoInput, e.to_string()))?;
        let dir = station.ipc_dir.clone().unwrap_or_else(admin::ipc_dir);
        let session_socket = match application.session_socket.as_deref() {
            Some(path) if !path.is_empty() => PathBuf::from(path),
            _ => dir.join(session::socket_name(arguments.offset)),
        };
        Ok(Self { application, registrar, client_conf, session_socket })
    }

    /// The channels that the registrar offers, by name.
    fn offered(&self) -> Vec<&'static str> {
        let mut names = vec!["api", "bdapi", "amp", "bdamp"];
        if !self.registrar.domain.is_empty() {
            names.extend(["dns", "bddns"]);
        }
        if self.registrar.grpc_listen_addr.is_some() {
            names.push("grpc");
        }
        names
    }

    fn channel(&self, name: &str, host: IpAddr) -> Result<Channel, String> {
        let registrar = &self.registrar;
        let api = |path| format!("http://{}{path}", SocketAddr::new(host, registrar.api_port));
        let amp = |bidirectional, path| {
            Channel::Amp(AmpChannel { bidirectional, url: api(path), cache: None, front: None })
        };
        Ok(match name {
            "decoy" => Channel::Decoy,
            "api" => Channel::Api(api("/register")),
            "bdapi" => Channel::BidirectionalApi(api("/register-bidirectional")),
            "amp" => amp(false, "/amp/register"),
            "bdamp" => amp(true, "/amp/register-bidirectional"),
            "dns" | "bddns" => {
                let listen: SocketAddr = registrar.dns_listen_addr.parse().map_err(|_| {
                    format!("dns_listen_addr: `{}` has no port", registrar.dns_listen_addr)
                })?;
                let resolver = format!("udp://{}", SocketAddr::new(host, listen.port()));
                Channel::Dns(DnsChannel {
                    bidirectional: name == "bddns",
                    resolver: Some(Resolver::parse(&resolver).map_err(|e| e.to_string())?),
                    domain: Some(registrar.domain.clone()),
                })
            }
            "grpc" => {
                let listen = registrar.grpc_listen_addr.ok_or("grpc_listen_addr is not set")?;
                let scheme = if registrar.grpc_tls_cert.is_some() { "https" } else { "http" };
                Channel::Grpc(format!("{scheme}://{}", SocketAddr::new(host, listen.port())))
            }
            other => return Err(format!("no channel {other}")),
        })
    }
}

/// What was heard so far.
#[derive(Debug, Default)]
struct Ear {
    /// Coverts of messages on the bus.
    coverts: Mutex<HashMap<String, Instant>>,
    /// Sessions that detectors are told of.
    sessions: Mutex<HashMap<SessionKey, Instant>>,
}

impl Ear {
    fn covert(&self, covert: &str) -> Option<Instant> {
        self.coverts.lock().unwrap_or_else(PoisonError::into_inner).get(covert).copied()
    }

    /// When a session of one of the phantoms was announced.
    fn phantom(&self, session: &Session) -> Option<Instant> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = [session.v4, session.v6];
        let matches = |key: &SessionKey| {
            let at = SocketAddr::new(key.phantom.to_canonical(), key.dst_port);
            wanted.contains(&Some(at))
        };
        sessions.iter().find(|(key, _)| matches(key)).map(|(_, at)| *at)
    }
}

impl SessionSink for Ear {
    fn upsert(&self, key: SessionKey, _: Duration) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.entry(key).or_insert_with(Instant::now);
    }

    fn pending(&self, _: SessionKey, _: Duration) {}

    fn remove(&self, key: SessionKey) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    fn clear(&self, confirmed: &dyn Fn(&SessionKey) -> bool) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|key, _| confirmed(key));
    }
}

async fn run(arguments: &Arguments, setup: &Setup) -> Result<bool, String> {
    let ear = Arc::new(Ear::default());
    let bus = format!("ipc://@{}", setup.application.socket_name);
    let subscriber = Subscriber::connect(&bus, SubscriberOptions::default());
    let subscriber = subscriber.map_err(|e| format!("{bus}: {e}"))?;
    if tokio::time::timeout(ATTACH, subscriber.connected()).await.is_err() {
        return Err(format!("{bus}: nobody is there; is the application running?"));
    }
    tokio::spawn(listen(subscriber, Arc::clone(&ear)));
    let sessions = sessions(setup, &ear).await;
    if sessions.is_none() {
        println!("probe: {}: no sessions are told there", setup.session_socket.display());
    }
    let names: Vec<String> = match &arguments.channel[..] {
        [] => setup.offered().into_iter().map(str::to_owned).collect(),
        wanted => wanted.to_vec(),
    };
    let mut all = sessions.is_some();
    for name in names {
        let report = match setup.channel(&name, arguments.registrar) {
            Ok(channel) => canary(arguments, setup, channel, &ear).await,
            Err(error) => Report { registered: Err(error), bus: None, session: None },
        };
        all &= report.is_whole();
        println!("{name:<6} {report}");
    }
    Ok(all)
}

/// Notes the coverts of all messages.
async fn listen(mut subscriber: Subscriber, ear: Arc<Ear>) {
    loop {
        let frame = subscriber.recv().await;
        let wrapper = C2sWrapper::decode(&frame[..]).unwrap_or_default();
        let payload = wrapper.registration_payload.unwrap_or_default();
        let mut coverts = ear.coverts.lock().unwrap_or_else(PoisonError::into_inner);
        coverts.entry(payload.covert_address().to_owned()).or_insert_with(Instant::now);
    }
}

/// Watches the sessions as a detector does; nothing where there is no such channel.
async fn sessions(setup: &Setup, ear: &Arc<Ear>) -> Option<Watch> {
    let id = DetectorId { name: "station probe".to_owned(), boot_id: rand::random() };
    let sink: Arc<dyn SessionSink> = Arc::<Ear>::clone(ear);
    let watch = watch(setup.session_socket.clone(), id, sink);
    watch.first_snapshot(ATTACH).await.then_some(watch)
}

/// Registers one canary and waits until it was heard.
async fn canary(arguments: &Arguments, setup: &Setup, channel: Channel, ear: &Ear) -> Report {
    // TEST-NET-2 (RFC 5737): nobody is there, and nothing is dialled.
    let covert = Ipv4Addr::new(198, 51, 100, rand::random());
    let covert = SocketAddr::new(covert.into(), rand::random_range(1024..=u16::MAX)).to_string();
    let mut options = Options::new(channel, Transport::Min, covert.clone());
    let v4 = setup.application.enable_v4;
    options.families = Families { v4, v6: !v4 };
    options.address = ClientAddress::Known(arguments.client_address);
    if let Some(roots) = &arguments.roots {
        options.roots.clone_from(roots);
    }
    let start = Instant::now();
    let client = Client { conf: setup.client_conf.clone(), options };
    let session = match client.register().await {
        Ok(session) => session,
        Err(error) => {
            return Report { registered: Err(error.to_string()), bus: None, session: None };
        }
    };
    let registered = start.elapsed();
    let end = Instant::now() + Duration::from_secs(arguments.wait);
    loop {
        let (bus, told) = (ear.covert(&covert), ear.phantom(&session));
        if (bus.is_some() && told.is_some()) || Instant::now() >= end {
            let after = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(start));
            return Report { registered: Ok(registered), bus: after(bus), session: after(told) };
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Which parts heard a canary, and how long after its start.
struct Report {
    registered: Result<Duration, String>,
    bus: Option<Duration>,
    session: Option<Duration>,
}

impl Report {
    const fn is_whole(&self) -> bool {
        self.registered.is_ok() && self.bus.is_some() && self.session.is_some()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let registered = match &self.registered {
            Ok(registered) => registered,
            Err(error) => return write!(f, "FAILED: not registered: {error}"),
        };
        let verdict = if self.is_whole() { "ok" } else { "FAILED" };
        write!(f, "{verdict}: registered after {} ms", registered.as_millis())?;
        let mut part = |name: &str, heard: Option<Duration>| match heard {
            Some(after) => write!(f, " · {name} after {} ms", after.as_millis()),
            None => write!(f, " · NOT {name}"),
        };
        part("heard by the application", self.bus)?;
        part("told to detectors", self.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_the_part_that_heard_nothing() {
        let ms = Duration::from_millis;
        let report = |bus, session| Report { registered: Ok(ms(3)), bus, session };
        assert_eq!(
            report(Some(ms(5)), Some(ms(720))).to_string(),
            "ok: registered after 3 ms · heard by the application after 5 ms · told to detectors \
             after 720 ms"
        );
        let deaf = report(Some(ms(5)), None);
        assert!(!deaf.is_whole());
        assert!(deaf.to_string().starts_with("FAILED: "), "{deaf}");
        assert!(deaf.to_string().ends_with("NOT told to detectors"), "{deaf}");
    }
}
