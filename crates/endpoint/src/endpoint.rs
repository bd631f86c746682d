//! The socket with all its sessions.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use dtls::{ClientRandom, Peek, peek};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use transports::dtls::{Ended, Party, Session};

use crate::handover::{self, Predecessor};
use crate::link::{Link, Opened};
use crate::segments::Segments;
use crate::socket::{Batch, Path, Socket};
use crate::stream::Stream;

/// Content type of handshake records (RFC 6347).
const HANDSHAKE: u8 = 22;
/// Pause after a receive that failed.
const RECEIVE_PAUSE: Duration = Duration::from_millis(20);

/// The first datagram of a peer without a session.
#[derive(Debug, Clone, Copy)]
pub struct Hello<'a> {
    /// The ClientHello's random; its tag names the registration.
    pub random: &'a ClientRandom,
    /// Address of the peer.
    pub peer: SocketAddr,
    /// Address at which it arrived.
    pub local: Option<IpAddr>,
}

/// How a peer that said hello is served.
pub struct Answer {
    /// The DTLS server's keys.
    pub config: dtls::Config,
    /// Whose end of the tunnel this is.
    pub party: Party,
    /// Is told when the session opens, or why it did not. Must not block.
    pub opened: Box<dyn FnOnce(Result<Stream, Ended>) + Send>,
}

/// What decides about datagrams of peers without a session. Called on the receiving task for every
/// such datagram, so it must be quick and must not block.
pub trait Listener: Send + Sync + 'static {
    /// Who serves this hello; `None` leaves it without an answer.
    fn hello(&self, hello: &Hello<'_>) -> Option<Answer>;

    /// A datagram that is no hello; it gets no answer.
    fn stray(&self, peer: SocketAddr, local: Option<IpAddr>, datagram: &[u8]) {
        let _ = (peer, local, datagram);
    }
}

/// Bounds of an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Sessions at one time.
    pub sessions: usize,
    /// Sessions of listeners that are not open yet, at one time.
    pub openings: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sessions: 65_536, openings: 1024 }
    }
}

/// What an endpoint counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Datagrams received.
    pub datagrams: u64,
    /// Datagrams of peers without a session that got no answer.
    pub unanswered: u64,
    /// Datagrams lost because their session did not keep up.
    pub lost: u64,
    /// Hellos lost because a bound was reached.
    pub refused: u64,
    /// Sessions now.
    pub sessions: u64,
}

#[derive(Debug, Default)]
struct Counts {
    datagrams: AtomicU64,
    unanswered: AtomicU64,
    lost: AtomicU64,
    refused: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A UDP socket on which DTLS sessions are served and dialled. Handles are cheap copies; the socket
/// is closed with the last handle and the last stream.
#[derive(Clone)]
pub struct Endpoint {
    shared: Arc<Shared>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Routes {
    links: HashMap<Path, Arc<Link>>,
    /// Of listeners, not open yet.
    openings: usize,
}

pub(crate) struct Shared {
    pub(crate) socket: Arc<Socket>,
    pub(crate) segments: Segments,
    routes: Mutex<Routes>,
    listener: OnceLock<Arc<dyn Listener>>,
    limits: Limits,
    /// Sessions at one time; as the limits say until it is changed.
    sessions: AtomicUsize,
    counts: Counts,
    receiver: Mutex<Option<AbortHandle>>,
    /// The process that had the socket before, as long as it has sessions.
    predecessor: ArcSwapOption<Predecessor>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(receiver) = &*self.receiver.lock() {
            receiver.abort();
        }
    }
}

impl Endpoint {
    /// Binds a socket, of both families when `address` is the IPv6 wildcard. Must be called within
    /// a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn bind(address: SocketAddr, limits: Limits) -> io::Result<Self> {
        let endpoint = Self::on(Socket::bind(address)?, limits);
        endpoint.receive();
        Ok(endpoint)
    }

    /// Takes a bound socket. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be set up.
    pub fn from_socket(socket: std::net::UdpSocket, limits: Limits) -> io::Result<Self> {
        let endpoint = Self::waiting(socket, limits)?;
        endpoint.receive();
        Ok(endpoint)
    }

    /// Takes a bound socket that another process still reads; [`Endpoint::receive`] begins to read it.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be set up.
    pub fn waiting(socket: std::net::UdpSocket, limits: Limits) -> io::Result<Self> {
        Ok(Self::on(Socket::from_std(socket)?, limits))
    }

    /// Begins to read the socket. Must be called within a tokio runtime.
    pub fn receive(&self) {
        let (socket, shared) = (Arc::clone(&self.shared.socket), Arc::downgrade(&self.shared));
        self.read_by(tokio::spawn(receive(socket, shared)).abort_handle());
    }

    fn read_by(&self, reader: AbortHandle) {
        if let Some(earlier) = self.shared.receiver.lock().replace(reader) {
            earlier.abort();
        }
    }

    /// Leaves the socket to a successor, which passes on what belongs to present sessions through
    /// `datagrams`; they go on. Returns their paths, for [`Endpoint::succeed`]. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// When the runtime does not take `datagrams`.
    pub fn hand_over(&self, datagrams: UnixDatagram) -> io::Result<Vec<u8>> {
        datagrams.set_nonblocking(true)?;
        let datagrams = tokio::net::UnixDatagram::from_std(datagrams)?;
        let shared = Arc::downgrade(&self.shared);
        self.read_by(tokio::spawn(receive_passed(datagrams, shared)).abort_handle());
        Ok(handover::encode_paths(self.shared.routes.lock().links.keys()))
    }

    /// Passes on, through `datagrams`, what belongs to the sessions on `paths` of a predecessor, and what
    /// neither process knows.
    ///
    /// # Errors
    /// When `datagrams` has failed.
    pub fn succeed(&self, datagrams: UnixDatagram, paths: &[u8]) -> io::Result<()> {
        let predecessor = Predecessor::new(datagrams, paths)?;
        self.shared.predecessor.store(Some(Arc::new(predecessor)));
        Ok(())
    }

    /// The socket, for a successor.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn copy_socket(&self) -> io::Result<OwnedFd> {
        self.shared.socket.as_fd().try_clone_to_owned()
    }

    fn on(socket: Socket, limits: Limits) -> Self {
        let shared = Arc::new(Shared {
            socket: Arc::new(socket),
            segments: Segments::default(),
            routes: Mutex::default(),
            listener: OnceLock::new(),
            limits,
            sessions: AtomicUsize::new(limits.sessions),
            counts: Counts::default(),
            receiver: Mutex::default(),
            predecessor: ArcSwapOption::empty(),
        });
        Self { shared }
    }

    /// Lets `listener` decide about peers without a session. Only the first call counts.
    pub fn listen(&self, listener: Arc<dyn Listener>) {
        let _ = self.shared.listener.set(listener);
    }

    /// Changes how many sessions there are at one time; those that are open stay.
    pub fn limit_sessions(&self, sessions: usize) {
        self.shared.sessions.store(sessions, Ordering::Relaxed);
    }

    /// Address of the socket.
    ///
    /// # Errors
    /// When the socket has failed.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.socket.local_addr()
    }

    /// Sends one datagram from outside any session.
    pub fn send(&self, peer: SocketAddr, local: Option<IpAddr>, datagram: &[u8]) {
        // Lost like any other when the kernel does not take it.
        let _ = self.shared.socket.send(Path { peer, local }, datagram, datagram.len().max(1));
    }

    /// Begins a session with `peer`, as DTLS client or server as `config` says, and waits until it
    /// is open. Dropping the future ends the session.
    ///
    /// # Errors
    /// Why it did not open; [`Ended::Local`] when there is a session on the path or no room.
    pub async fn dial(
        &self,
        peer: SocketAddr,
        local: Option<IpAddr>,
        party: Party,
        config: dtls::Config,
    ) -> Result<Stream, Ended> {
        let (tell, told) = oneshot::channel();
        let opened: Opened = Box::new(move |result| {
            // Nobody waits any more: the stream ends.
            drop(tell.send(result));
        });
        let path = Path { peer, local };
        let link =
            Shared::begin(&self.shared, path, party, config, opened, false).ok_or(Ended::Local)?;
        let mut guard = CloseOnDrop(Some(link));
        let result = told.await.unwrap_or(Err(Ended::Local));
        guard.0 = None;
        result
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        let (shared, load) = (&self.shared, |c: &AtomicU64| c.load(Ordering::Relaxed));
        Counters {
            datagrams: load(&shared.counts.datagrams),
            unanswered: load(&shared.counts.unanswered),
            lost: load(&shared.counts.lost),
            refused: load(&shared.counts.refused),
            sessions: shared.routes.lock().links.len() as u64,
        }
    }
}

/// Ends a session whose dialler has gone.
struct CloseOnDrop(Option<Arc<Link>>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(link) = &self.0 {
            link.state.lock().session.close(Instant::now());
            link.wake.notify_one();
        }
    }
}

impl Shared {
    /// Begins a session; `None` when the path has one or a bound is reached.
    fn begin(
        this: &Arc<Self>,
        path: Path,
        party: Party,
        config: dtls::Config,
        opened: Opened,
        heard: bool,
    ) -> Option<Arc<Link>> {
        let mut routes = this.routes.lock();
        // A session that only repeats its farewell makes room.
        if routes.links.get(&path).is_some_and(|link| !link.has_ended())
            || routes.links.len() >= this.sessions.load(Ordering::Relaxed)
        {
            return None;
        }
        let opened: Opened = if heard {
            routes.openings += 1;
            let shared = Arc::downgrade(this);
            Box::new(move |result| {
                if let Some(shared) = shared.upgrade() {
                    shared.routes.lock().openings -= 1;
                }
                opened(result);
            })
        } else {
            opened
        };
        let session = Session::new(party, config, Instant::now(), &mut rand::rng());
        let link = Arc::new(Link::new(Arc::clone(this), path, session, opened));
        routes.links.insert(path, Arc::clone(&link));
        drop(routes);
        tokio::spawn(Arc::clone(&link).drive());
        Some(link)
    }

    /// The session is over.
    pub(crate) fn forget(&self, link: &Arc<Link>) {
        let mut routes = self.routes.lock();
        if routes.links.get(&link.path).is_some_and(|known| Arc::ptr_eq(known, link)) {
            routes.links.remove(&link.path);
        }
    }

    fn find(&self, path: Path) -> Option<Arc<Link>> {
        let routes = self.routes.lock();
        let found = routes.links.get(&path);
        // A dialler does not always know from which address it sends.
        found.or_else(|| routes.links.get(&Path { local: None, ..path })).cloned()
    }

    fn received(self: &Arc<Self>, path: Path, datagram: &mut [u8]) {
        count(&self.counts.datagrams);
        // A new handshake may follow a session that only repeats its farewell.
        let is_new = |link: &Arc<Link>| datagram.first() == Some(&HANDSHAKE) && link.has_ended();
        if let Some(link) = self.find(path).filter(|link| !is_new(link)) {
            if !link.deliver(datagram) {
                count(&self.counts.lost);
            }
            return;
        }
        if self.pass_on(path, datagram) {
            return;
        }
        if !self.serve(path, datagram) {
            count(&self.counts.unanswered);
        }
    }

    /// Passes a datagram of a predecessor's session on. What is neither that nor a hello may be meant for
    /// it as well, e.g. to prime one of its dials.
    fn pass_on(&self, path: Path, datagram: &[u8]) -> bool {
        let predecessor = self.predecessor.load();
        let Some(predecessor) = &*predecessor else { return false };
        let belongs = predecessor.has(&path);
        let is_passed = belongs || !matches!(peek(datagram), Peek::Hello(_));
        if is_passed && predecessor.pass(path, datagram).is_err() {
            self.predecessor.store(None);
            return false;
        }
        belongs
    }

    /// Serves a peer without a session, if it says the right hello. Nothing is computed before.
    fn serve(self: &Arc<Self>, path: Path, datagram: &[u8]) -> bool {
        let Some(listener) = self.listener.get() else { return false };
        let Peek::Hello(random) = peek(datagram) else {
            listener.stray(path.peer, path.local, datagram);
            return false;
        };
        if self.routes.lock().openings >= self.limits.openings {
            count(&self.counts.refused);
            return false;
        }
        let hello = Hello { random: &random, peer: path.peer, local: path.local };
        let Some(Answer { config, party, opened }) = listener.hello(&hello) else { return false };
        match Self::begin(self, path, party, config, opened, true) {
            Some(link) => link.deliver(datagram),
            None => {
                count(&self.counts.refused);
                false
            }
        }
    }
}

async fn receive(socket: Arc<Socket>, shared: Weak<Shared>) {
    let mut batch = Batch::new();
    loop {
        let received = socket
            .receive(&mut batch, |path, datagram| {
                if let Some(shared) = shared.upgrade() {
                    shared.received(path, datagram);
                }
            })
            .await;
        if received.is_err() {
            // An error of some peer's path, or a lack of memory; neither ends the service.
            tokio::time::sleep(RECEIVE_PAUSE).await;
        }
    }
}

/// Takes what a successor passes on, until it is gone.
async fn receive_passed(datagrams: tokio::net::UnixDatagram, shared: Weak<Shared>) {
    let mut message = vec![0; handover::MAX_MESSAGE];
    while let Ok(length) = datagrams.recv(&mut message).await {
        let Some(shared) = shared.upgrade() else { return };
        if let Some((path, datagram)) = handover::decode(&mut message[..length]) {
            shared.received(path, datagram);
        }
    }
}
