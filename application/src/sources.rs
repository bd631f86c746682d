//! Where registrations come from: the `[[connect_sockets]]` of the configuration
//! (`spec/application.md` 4, `spec/registrar.md` 10.5).

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bus::{
    CurveClient, CurveKeys, Heartbeat, NatsOptions, NatsSubscriber, Publisher, State, Subscriber,
    SubscriberOptions,
};
use bytes::Bytes;
use conf::{Application, ConnectSocket};
use parking_lot::Mutex;
use telemetry::log::Logger;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::ingest;
use crate::screen::{Counters, Screen};

/// Limit of a connection, and again of its handshake, under CURVE: a server that has another key
/// may say nothing at all, and that is to be told within 10 s.
const CURVE_LIMIT: Duration = Duration::from_secs(5);

/// All that makes a source what it is: one that differs in anything is another source.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    socket: ConnectSocket,
    heartbeat: (Duration, Duration),
    prescanned_from_any: bool,
    /// Public half of the station's own CURVE key, where the source needs one.
    key: Option<[u8; 32]>,
}

/// A source that is connected, or being connected.
#[derive(Debug)]
struct Running {
    identity: Identity,
    state: watch::Receiver<State>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The sources in use; a reload changes them.
#[derive(Debug)]
pub(crate) struct Sources {
    running: Mutex<Vec<Running>>,
    fan_in: Arc<Publisher>,
    log: Logger,
}

impl Sources {
    /// Connects to every usable source and logs what becomes of it; the others are skipped. Messages
    /// go to `fan_in`.
    pub(crate) fn start(prepared: Prepared, fan_in: Arc<Publisher>, log: Logger) -> Self {
        let sources = Self { running: Mutex::default(), fan_in, log };
        sources.adopt(prepared);
        sources
    }

    /// Connects to what is new, then leaves what is no longer wanted. A source that stays as it is
    /// loses no message.
    pub(crate) fn adopt(&self, prepared: Prepared) {
        for text in &prepared.unusable {
            self.log.error(text);
        }
        for note in &prepared.notes {
            self.log.warn(note);
        }
        let mut running = self.running.lock();
        let mut old = std::mem::take(&mut *running);
        for (identity, link, screen) in prepared.usable {
            match old.iter().position(|source| source.identity == identity) {
                Some(at) => running.push(old.swap_remove(at)),
                None => running.extend(self.connect(identity, link, screen)),
            }
        }
        for gone in old {
            self.log.info(format_args!(
                "source {}: no longer configured",
                gone.identity.socket.address
            ));
        }
    }

    fn connect(&self, identity: Identity, link: Link, screen: Screen) -> Option<Running> {
        let address = identity.socket.address.clone();
        match link.open(&address) {
            Ok(source) => {
                let state = source.watch();
                let reporting = report(address.clone(), state.clone(), self.log.clone());
                let (fan_in, log) = (Arc::clone(&self.fan_in), self.log.clone());
                let forwarding = ingest::forward(source, address, screen, fan_in, log);
                let tasks = [tokio::spawn(reporting), tokio::spawn(forwarding)];
                Some(Running { identity, state, tasks })
            }
            Err(error) => {
                self.log.error(format_args!("failed to connect to {address}: {error}"));
                None
            }
        }
    }

    /// What each source is doing, by its address.
    pub(crate) fn states(&self) -> Vec<(String, watch::Receiver<State>)> {
        let state = |s: &Running| (s.identity.socket.address.clone(), s.state.clone());
        self.running.lock().iter().map(state).collect()
    }

    /// Leaves all of them.
    pub(crate) fn stop(&self) {
        self.running.lock().clear();
    }
}

/// How a source is reached.
#[derive(Debug)]
enum Link {
    /// ZeroMQ.
    Zmq(SubscriberOptions),
    /// NATS, under the durable name.
    Nats(NatsOptions, String),
}

impl Link {
    /// A source at `address`; the connection is made in the background.
    fn open(self, address: &str) -> Result<Source, bus::EndpointError> {
        Ok(match self {
            Self::Zmq(options) => Source::Zmq(Subscriber::connect(address, options)?),
            Self::Nats(options, name) => Source::Nats(NatsSubscriber::start(options, &name)),
        })
    }
}

/// A source of registrations.
#[derive(Debug)]
pub enum Source {
    /// ZeroMQ.
    Zmq(Subscriber),
    /// NATS.
    Nats(NatsSubscriber),
}

impl Source {
    /// The next message.
    pub async fn recv(&mut self) -> Bytes {
        match self {
            Self::Zmq(source) => source.recv().await,
            Self::Nats(source) => source.recv().await,
        }
    }

    fn watch(&self) -> watch::Receiver<State> {
        match self {
            Self::Zmq(source) => source.watch(),
            Self::Nats(source) => source.watch(),
        }
    }
}

/// Name of this host, under which a NATS server keeps what it did not hear.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Why the CURVE key cannot be used.
#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error("no key is named; set zmq_privkey_path, or ZMQ_PRIVKEY in conjure.conf")]
    Unnamed,
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} has {found} bytes, a private key needs 32; write it with genkey", .path.display())]
    TooShort { path: PathBuf, found: usize },
}

/// The sources of a configuration with their keys.
#[derive(Debug)]
pub(crate) struct Prepared {
    usable: Vec<(Identity, Link, Screen)>,
    unusable: Vec<String>,
    notes: Vec<String>,
}

/// Reads what the sources of `settings` need; `key` is the CURVE key file where the configuration
/// names none. Without CURVE sources no key is read. What is not believed goes into `counters`.
pub(crate) fn prepare(
    settings: &Application,
    key: Option<&Path>,
    counters: &Arc<Counters>,
) -> Prepared {
    let heartbeat = (!settings.heartbeat_interval.is_zero()).then_some(Heartbeat {
        interval: settings.heartbeat_interval,
        timeout: settings.heartbeat_timeout,
    });
    let mut prepared = Prepared { usable: Vec::new(), unusable: Vec::new(), notes: Vec::new() };
    let wants_key = settings.connect_sockets.iter().any(|source| source.server_key.is_some());
    let keys =
        wants_key.then(|| read(settings.zmq_privkey_path.as_deref().or(key), &mut prepared.notes));
    for source in &settings.connect_sockets {
        let address = source.address.clone();
        let mut options = SubscriberOptions {
            topics: vec![source.subscription.clone().into()],
            heartbeat,
            ..SubscriberOptions::default()
        };
        match (source.server_key, &keys) {
            (Some(server), Some(Ok(keys))) => {
                options.curve = Some(Arc::new(CurveClient { keys: keys.clone(), server }));
                options.handshake_timeout = CURVE_LIMIT;
            }
            (Some(_), Some(Err(error))) => {
                let text = format!("failed to set up CURVE authentication for {address}: {error}");
                prepared.unusable.push(text);
                continue;
            }
            _ => {}
        }
        let link = if source.is_nats() {
            let credentials = source.credentials_path.as_deref();
            match NatsOptions::new(&address, &source.subscription, credentials) {
                Ok(options) => {
                    Link::Nats(options, source.durable_name.clone().unwrap_or_else(host_name))
                }
                Err(error) => {
                    let text = format!("source {address} is skipped: credentials_path: {error}");
                    prepared.unusable.push(text);
                    continue;
                }
            }
        } else {
            Link::Zmq(options)
        };
        match Screen::new(source, settings.prescanned_from_any, Arc::clone(counters)) {
            Ok(screen) => {
                let own = keys.as_ref().and_then(|keys| keys.as_ref().ok());
                let identity = Identity {
                    socket: source.clone(),
                    heartbeat: (settings.heartbeat_interval, settings.heartbeat_timeout),
                    prescanned_from_any: settings.prescanned_from_any,
                    key: source.server_key.and(own).map(|keys| *keys.public()),
                };
                prepared.usable.push((identity, link, screen));
            }
            Err(error) => {
                let text = format!(
                    "source {address} is skipped: signing_pubkey is {error}; the registrar prints \
                     it with --check-config"
                );
                prepared.unusable.push(text);
            }
        }
    }
    if let Some(Ok(keys)) = &keys {
        let own = keys::z85(keys.public());
        prepared.notes.push(format!("CURVE key of this station, for station_pubkeys: {own}"));
    }
    prepared
}

/// Reads the first 32 bytes of the key file; the public key is computed.
fn read(path: Option<&Path>, notes: &mut Vec<String>) -> Result<CurveKeys, KeyError> {
    let path = path.ok_or(KeyError::Unnamed)?;
    let failed = |source| KeyError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    let mut content = Zeroizing::new(Vec::with_capacity(64));
    file.take(64).read_to_end(&mut content).map_err(failed)?;
    let secret = content
        .first_chunk()
        .ok_or_else(|| KeyError::TooShort { path: path.to_owned(), found: content.len() })?;
    if mode & 0o077 != 0 {
        notes.push(format!(
            "CURVE key {} has mode {mode:04o}, others may read it; chmod 0600 it",
            path.display()
        ));
    }
    Ok(CurveKeys::new(secret))
}

impl Prepared {
    /// What is worth saying: first the sources that will be skipped and why.
    pub(crate) fn remarks(&self) -> impl Iterator<Item = &String> {
        self.unusable.iter().chain(&self.notes)
    }
}

/// Logs each change of a source: a failed handshake is the operator's business, a publisher that
/// is away for a moment is not an error.
async fn report(address: String, mut state: watch::Receiver<State>, log: Logger) {
    while state.changed().await.is_ok() {
        let now = state.borrow_and_update().clone();
        match now {
            State::HandshakeFailed(_) => log.error(format_args!("source {address}: {now}")),
            State::Disconnected(_) => log.warn(format_args!("source {address}: {now}")),
            State::Connecting | State::Connected => {
                log.info(format_args!("source {address}: {now}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "s5gkB.U$dl]gO=F{Qo3=4Api-T$5#tpwaT/bSOr@";

    fn settings(key: &str, with_curve: bool) -> Application {
        let mut text = format!(
            "log_level = \"error\"\nsocket_name = \"z\"\nzmq_privkey_path = \"{key}\"\n\
             [[connect_sockets]]\naddress = \"ipc://@detector\"\ntype = \"NULL\"\n"
        );
        if with_curve {
            text += &format!(
                "[[connect_sockets]]\naddress = \"tcp://192.0.2.1:5591\"\ntype = \"CURVE\"\n\
                 pubkey = \"{SERVER}\"\n"
            );
        }
        Application::parse(&text, Path::new("a.toml")).unwrap().value
    }

    fn text(prepared: &Prepared) -> String {
        prepared.remarks().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_key_is_needed_for_curve_sources_only() {
        let plain =
            prepare(&settings("", false), Some(Path::new("/nonexistent/key")), &Arc::default());
        assert_eq!((plain.usable.len(), text(&plain)), (1, String::new()));
        for (key, variable, cause) in [
            ("", None, "no key is named; set zmq_privkey_path, or ZMQ_PRIVKEY in conjure.conf"),
            ("/nonexistent/key", None, "cannot read /nonexistent/key: No such file"),
            ("", Some("/nonexistent/other"), "cannot read /nonexistent/other: No such file"),
            ("/dev/null", None, "/dev/null has 0 bytes, a private key needs 32"),
        ] {
            let skipped = prepare(&settings(key, true), variable.map(Path::new), &Arc::default());
            let start = "failed to set up CURVE authentication for tcp://192.0.2.1:5591: ";
            assert!(text(&skipped).starts_with(&format!("{start}{cause}")), "{}", text(&skipped));
            assert_eq!(skipped.usable.len(), 1, "the other source stays");
        }
    }

    #[test]
    fn the_key_file_comes_before_the_variable_and_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zmq");
        let pair = [7; 64];
        std::fs::write(&path, pair).unwrap();
        let named = settings(path.to_str().unwrap(), true);
        let good = prepare(&named, Some(Path::new("/nonexistent")), &Arc::default());
        let public = keys::public_key(&[7; 32]);
        assert!(text(&good).contains(&keys::z85(&public)), "{}", text(&good));
        let curve_of = |at: usize| match &good.usable[at].1 {
            Link::Zmq(options) => options.curve.as_ref(),
            Link::Nats(..) => panic!("no NATS server is configured"),
        };
        let curve = curve_of(1).unwrap();
        assert_eq!(curve.keys.public(), &public);
        assert_eq!(keys::z85(&curve.server), SERVER);
        assert!(curve_of(0).is_none());
        assert!(!format!("{good:?}").contains("7, 7, 7"), "secrets are not printed");
    }
}
