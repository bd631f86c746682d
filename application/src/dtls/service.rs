//! Sessions of registrations: dialled, listened for, handed to the relay.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ::dtls::ReplayFilter;
use endpoint::{Answer, Endpoint, Hello, Limits, Listener, Stream};
use parking_lot::Mutex;
use telemetry::log::Logger;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};
use transports::dtls::Ended;

use super::{Material, NatEntries, WARM_UP};
use crate::Station;
use crate::registration::Registration;
use crate::tunnel::{Client, Tunnel};

/// Time for the attempts of a new registration (`spec/transports.md` 8.5).
const ATTEMPT: Duration = Duration::from_secs(5);
/// Time that the packet which primes an entry may take to come out of the device.
const PRIMING: Duration = Duration::from_millis(200);
/// Dials at one time.
const DIALS: usize = 512;
/// Sessions of one registration that are not open yet, at one time.
const OPENINGS: u32 = 4;
/// Hellos that are remembered.
const REMEMBERED: usize = 65_536;
/// Time in which a second session of one registration may be the loser of a race.
const RACE: Duration = Duration::from_secs(2);

/// Why there is no DTLS transport.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A variable that names the tun device is missing or no number.
    #[error(
        "{name} is {found}; set it in conjure.conf to a number, the tun device is tun<OFFSET+CJ_CORECOUNT>"
    )]
    Variable {
        /// Its name.
        name: &'static str,
        /// What was found.
        found: String,
    },
    /// The tun device cannot be used.
    #[error(transparent)]
    Tun(#[from] capture::tun::TunError),
    /// The socket cannot be bound.
    #[error("UDP {address}: {cause}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
}

/// What is opened before the station takes registrations for DTLS.
#[derive(Debug)]
pub struct Sockets {
    endpoint: Endpoint,
    entries: Box<dyn NatEntries>,
}

impl Sockets {
    /// Binds `address`; entries are made by `entries`, and `sessions` is the bound of sessions. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn with_entries(
        address: SocketAddr,
        sessions: Option<usize>,
        entries: Box<dyn NatEntries>,
    ) -> Result<Self, StartError> {
        let limits = Limits::default();
        let limits = Limits { sessions: sessions.unwrap_or(limits.sessions), ..limits };
        let endpoint =
            Endpoint::bind(address, limits).map_err(|cause| StartError::Bind { address, cause })?;
        Ok(Self { endpoint, entries })
    }

    /// Takes a socket that a predecessor still reads; [`Service::succeed`] begins to read it.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub fn inherited(
        socket: std::net::UdpSocket,
        sessions: Option<usize>,
        entries: Box<dyn NatEntries>,
    ) -> Result<Self, StartError> {
        let limits = Limits::default();
        let limits = Limits { sessions: sessions.unwrap_or(limits.sessions), ..limits };
        let address = socket.local_addr().unwrap_or_else(|_| SocketAddr::from(([0; 4], 0)));
        let endpoint = Endpoint::waiting(socket, limits)
            .map_err(|cause| StartError::Bind { address, cause })?;
        Ok(Self { endpoint, entries })
    }

    /// Address of the socket.
    ///
    /// # Errors
    /// When the socket has failed.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }
}

/// Name of the device: `CJ_DNAT_TUN`, or the one after the detector's.
pub(super) fn device_name() -> Result<String, StartError> {
    if let Some(name) = std::env::var("CJ_DNAT_TUN").ok().filter(|name| !name.is_empty()) {
        return Ok(name);
    }
    Ok(format!("tun{}", variable("OFFSET")? + variable("CJ_CORECOUNT")?))
}

fn variable(name: &'static str) -> Result<u32, StartError> {
    let found = std::env::var(name).unwrap_or_default();
    found.trim().parse().ok().filter(|number| *number < 1 << 16).ok_or_else(|| {
        let found = if found.is_empty() { "not set".to_owned() } else { format!("`{found}`") };
        StartError::Variable { name, found }
    })
}

/// The DTLS transport of a station.
pub struct Service {
    station: Weak<Station>,
    endpoint: Endpoint,
    entries: Box<dyn NatEntries>,
    waiting: Mutex<HashMap<Key, Waiting>>,
    replays: Mutex<ReplayFilter>,
    dials: Semaphore,
    /// Dials that wait for their priming packet.
    priming: Mutex<HashMap<SocketAddr, oneshot::Sender<Option<IpAddr>>>>,
    log: Logger,
}

/// Hellos of both families of one secret carry the same tag.
type Key = ([u8; 28], bool);

/// A valid registration.
struct Waiting {
    registration: Arc<Registration>,
    openings: u32,
    /// The attempt of a new registration, until it has dialled.
    attempt: Option<AbortHandle>,
    /// A new registration that has neither opened a session nor used up its time.
    connecting: bool,
    /// When a session opened last.
    opened: Option<Instant>,
}

impl Waiting {
    /// Stops an attempt that still goes on.
    fn give_up(self, station: &Station) {
        if let Some(attempt) = self.attempt {
            attempt.abort();
        }
        if self.connecting {
            station.pipeline.stats.connecting.created.down();
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Who began a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialler {
    Station,
    Client,
}

fn key(registration: &Registration) -> Option<(Key, &Material)> {
    let material = registration.dtls()?;
    Some(((*material.tag(), registration.phantom.is_ipv6()), material))
}

impl Service {
    /// Serves the registrations of `station` on `sockets` from now on.
    pub fn start(sockets: Sockets, station: &Arc<Station>) -> Arc<Self> {
        let Sockets { endpoint, entries } = sockets;
        let service = Arc::new(Self {
            station: Arc::downgrade(station),
            endpoint: endpoint.clone(),
            entries,
            waiting: Mutex::default(),
            replays: Mutex::new(ReplayFilter::new(REMEMBERED)),
            dials: Semaphore::new(DIALS),
            priming: Mutex::default(),
            log: Logger::new("[REG] "),
        });
        endpoint.listen(Arc::new(Doorway(Arc::downgrade(&service))));
        // Set once, by whoever starts the station.
        let _ = station.pipeline.dtls.set(Arc::clone(&service));
        service
    }

    /// The socket and its counters.
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A registration has become valid.
    pub fn valid(self: &Arc<Self>, registration: &Arc<Registration>) {
        let Some((key, _)) = key(registration) else { return };
        let Some(station) = self.station.upgrade() else { return };
        station.pipeline.stats.connecting.created.up();
        let mut waiting = self.waiting.lock();
        let (service, attempted) = (Arc::clone(self), Arc::clone(registration));
        let attempt = tokio::spawn(async move { service.attempt(key, attempted).await });
        let entry = Waiting {
            registration: Arc::clone(registration),
            openings: 0,
            attempt: Some(attempt.abort_handle()),
            connecting: true,
            opened: None,
        };
        if let Some(replaced) = waiting.insert(key, entry) {
            // Two phantoms of one family for one secret: the newer one counts.
            drop(waiting);
            replaced.give_up(&station);
        }
    }

    /// A registration that was valid at a predecessor: the client is not dialled again.
    pub fn resumed(&self, registration: &Arc<Registration>) {
        let Some((key, _)) = key(registration) else { return };
        let registration = Arc::clone(registration);
        let entry =
            Waiting { registration, openings: 0, attempt: None, connecting: false, opened: None };
        self.waiting.lock().insert(key, entry);
    }

    /// Leaves the socket to a successor and dials nobody any more; open sessions go on, with what comes
    /// through `datagrams`. Returns their paths. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the runtime does not take `datagrams`.
    pub fn leave(&self, datagrams: UnixDatagram) -> io::Result<Vec<u8>> {
        let Some(station) = self.station.upgrade() else { return Ok(Vec::new()) };
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for entry in waiting.into_values() {
            entry.give_up(&station);
        }
        self.endpoint.hand_over(datagrams)
    }

    /// Begins to read the socket that a predecessor has left; what belongs to its sessions goes to it.
    ///
    /// # Errors
    /// When `datagrams` has failed.
    pub fn succeed(&self, datagrams: Option<UnixDatagram>, paths: &[u8]) -> io::Result<()> {
        if let Some(datagrams) = datagrams {
            self.endpoint.succeed(datagrams, paths)?;
        }
        self.endpoint.receive();
        Ok(())
    }

    /// Copies of the UDP socket and of the tun device, for a successor.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn copies(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let mut copies = vec![("udp".to_owned(), self.endpoint.copy_socket()?)];
        if let Some(device) = self.entries.device() {
            copies.push((device_name().map_err(io::Error::other)?, device?));
        }
        Ok(copies)
    }

    /// A registration has ended; its open sessions go on.
    pub fn ended(&self, registration: &Arc<Registration>) {
        let Some((key, _)) = key(registration) else { return };
        let mut waiting = self.waiting.lock();
        let Some(entry) = waiting.get(&key) else { return };
        if Arc::ptr_eq(&entry.registration, registration)
            && let Some(entry) = waiting.remove(&key)
        {
            drop(waiting);
            if let Some(station) = self.station.upgrade() {
                entry.give_up(&station);
            }
        }
    }

    /// Dials the client of a new registration while the socket listens for it. The dial goes on when
    /// the client's own session opens meanwhile: each side keeps the session that it saw opening
    /// first, and only the client's choice counts.
    async fn attempt(self: Arc<Self>, key: Key, registration: Arc<Registration>) {
        let end = Instant::now() + ATTEMPT;
        if let Some((_, material)) = self::key(&registration)
            && let Some(client) = material.client()
        {
            let dialled = timeout(ATTEMPT, self.dial(material, client, &registration)).await;
            match dialled {
                Ok(Some(Ok(stream))) => {
                    self.opened(&key, &registration, Dialler::Station, stream);
                }
                // That the loser of a race is closed is no failure.
                Ok(Some(Err(why))) if self.is_connecting(&key, &registration) => self.failed(why),
                Ok(None) => self.count(|counters| counters.undialled.count()),
                Ok(Some(Err(_))) | Err(_) => {}
            }
        }
        if self.is_connecting(&key, &registration) {
            sleep_until(end).await;
        }
        let timed_out = self
            .with_entry(&key, &registration, |entry| {
                entry.attempt = None;
                std::mem::take(&mut entry.connecting)
            })
            .unwrap_or(false);
        if timed_out {
            self.count(|counters| {
                counters.created.down();
                counters.timeout.count();
            });
        }
    }

    /// The entry of `registration`, unless another one has taken its place.
    fn with_entry<T>(
        &self,
        key: &Key,
        registration: &Arc<Registration>,
        act: impl FnOnce(&mut Waiting) -> T,
    ) -> Option<T> {
        let mut waiting = self.waiting.lock();
        let entry = waiting.get_mut(key)?;
        Arc::ptr_eq(&entry.registration, registration).then(|| act(entry))
    }

    fn is_connecting(&self, key: &Key, registration: &Arc<Registration>) -> bool {
        self.with_entry(key, registration, |entry| entry.connecting).unwrap_or(false)
    }

    /// One dial; `None` when it could not be made.
    async fn dial(
        &self,
        material: &Material,
        client: SocketAddr,
        registration: &Registration,
    ) -> Option<Result<Stream, Ended>> {
        let _permit = self.dials.try_acquire().ok()?;
        let (tell, told) = oneshot::channel();
        self.priming.lock().insert(client, tell);
        let added = self.entries.add(client, registration.phantom_endpoint());
        if let Err(error) = added {
            self.priming.lock().remove(&client);
            // The system's text: it names neither side.
            self.log.debug(format_args!("error adding DNAT entry: {error}"));
            return None;
        }
        // The kernel translates only what leaves from the address that the entry leads to, which
        // the packet itself tells.
        let local = timeout(PRIMING, told).await.ok().and_then(Result::ok).flatten();
        self.priming.lock().remove(&client);
        Some(self.endpoint.dial(client, local, material.party(), material.dials()).await)
    }

    fn count(&self, count: impl FnOnce(&super::Counters)) {
        if let Some(station) = self.station.upgrade() {
            count(&station.pipeline.stats.connecting);
        }
    }

    fn failed(&self, why: Ended) {
        self.count(|counters| counters.ended(why));
        self.log.trace(format_args!("DTLS session did not open: {why}"));
    }

    /// A session is open: it becomes a tunnel, unless it is the loser of a race.
    fn opened(
        self: &Arc<Self>,
        key: &Key,
        registration: &Arc<Registration>,
        dialler: Dialler,
        stream: Stream,
    ) {
        let Some(station) = self.station.upgrade() else { return };
        let counters = &station.pipeline.stats.connecting;
        match dialler {
            Dialler::Station => counters.dialled.count(),
            Dialler::Client => counters.listened.count(),
        }
        let now = Instant::now();
        let mut races = false;
        if let Some(entry) = self.waiting.lock().get_mut(key) {
            races = entry.opened.is_some_and(|at| now - at < RACE);
            entry.opened = Some(now);
            if std::mem::take(&mut entry.connecting) {
                counters.created.down();
            }
        }
        registration.mark_used();
        station.pipeline.announcer.used(registration);
        let registration = Arc::clone(registration);
        tokio::spawn(async move {
            let mut stream = stream;
            if races && !wins(&mut stream).await {
                return;
            }
            let connections = &station.pipeline.stats.connections;
            connections.active.up();
            connections.accepted.count();
            let phantom = registration.phantom_endpoint();
            let tunnel = Tunnel { registration, peer: stream.peer(), phantom };
            tunnel.run(Client::Dtls(stream), &station).await;
            connections.active.down();
        });
    }

    /// Who serves a hello.
    fn hello(self: &Arc<Self>, hello: &Hello<'_>) -> Option<Answer> {
        let v6 = hello.local.unwrap_or(hello.peer.ip()).is_ipv6();
        let key = (*hello.random.tag(), v6);
        let registration = {
            let mut waiting = self.waiting.lock();
            let entry = waiting.get_mut(&key)?;
            if entry.openings >= OPENINGS {
                return None;
            }
            let phantom = entry.registration.phantom;
            let now = std::time::Instant::now();
            if !self.replays.lock().admit(*hello.random, phantom, hello.peer, now) {
                drop(waiting);
                self.count(|counters| counters.replayed.count());
                return None;
            }
            entry.openings += 1;
            Arc::clone(&entry.registration)
        };
        let material = registration.dtls()?;
        let (config, party) = (material.listens(), material.party());
        let service = Arc::downgrade(self);
        let opened = Box::new(move |result| {
            let Some(service) = service.upgrade() else { return };
            if let Some(entry) = service.waiting.lock().get_mut(&key) {
                entry.openings = entry.openings.saturating_sub(1);
            }
            match result {
                Ok(stream) => service.opened(&key, &registration, Dialler::Client, stream),
                Err(why) => service.failed(why),
            }
        });
        Some(Answer { config, party, opened })
    }

    /// A datagram without a session: perhaps the one that primed an entry.
    fn stray(&self, peer: SocketAddr, local: Option<IpAddr>, datagram: &[u8]) {
        if datagram == WARM_UP
            && let Some(dial) = self.priming.lock().remove(&peer)
        {
            // The dial may have given up waiting.
            let _ = dial.send(local);
        }
    }
}

/// Both sides may dial, and the client keeps the session that it saw opening first, which need not
/// be the first here. A second one is served as soon as the client uses it, or when it was not
/// closed for a while.
async fn wins(stream: &mut Stream) -> bool {
    match timeout(RACE, stream.readable()).await {
        Ok(has_bytes) => has_bytes,
        Err(_) => stream.ended().is_none(),
    }
}

/// What the socket asks; the service owns the socket, not the other way round.
struct Doorway(Weak<Service>);

impl Listener for Doorway {
    fn hello(&self, hello: &Hello<'_>) -> Option<Answer> {
        self.0.upgrade()?.hello(hello)
    }

    fn stray(&self, peer: SocketAddr, local: Option<IpAddr>, datagram: &[u8]) {
        if let Some(service) = self.0.upgrade() {
            service.stray(peer, local, datagram);
        }
    }
}
