//! One session on the socket: its state, and the task that drives it.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep_until;
use transports::dtls::{Ended, MAX_DATAGRAM, Session};

use crate::endpoint::Shared;
use crate::segments::Trial;
use crate::socket::Path;
use crate::stream::Stream;

/// Bytes of datagrams that wait for a session at most; more are lost.
const MAX_INBOX: usize = 256 << 10;
/// Bytes of one send at most.
const MAX_SEND: usize = 60_000;

thread_local! {
    /// Datagrams on their way into the kernel.
    static SENDING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Datagrams on their way out of an inbox.
    static TAKING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What happens when a session opens, or fails before that.
pub(crate) type Opened = Box<dyn FnOnce(Result<Stream, Ended>) + Send>;

/// A session on the socket.
pub(crate) struct Link {
    pub(crate) shared: Arc<Shared>,
    pub(crate) path: Path,
    pub(crate) state: Mutex<State>,
    inbox: Mutex<Vec<u8>>,
    pub(crate) wake: Notify,
}

/// What the driver and the stream share.
pub(crate) struct State {
    pub(crate) session: Session,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
    opened: Option<Opened>,
    /// Datagrams that the kernel did not take, and the length of each.
    blocked: Option<(Vec<u8>, usize)>,
    /// When the driver wakes by itself.
    wakes_at: Option<Instant>,
    /// Whether several datagrams may be handed to the kernel as one.
    trial: Trial,
}

impl Link {
    pub(crate) fn new(shared: Arc<Shared>, path: Path, session: Session, opened: Opened) -> Self {
        let state = State {
            session,
            reader: None,
            writer: None,
            opened: Some(opened),
            blocked: None,
            wakes_at: None,
            trial: Trial::default(),
        };
        Self {
            shared,
            path,
            state: Mutex::new(state),
            inbox: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Whether its session is over.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.lock().session.ended().is_some()
    }

    /// Puts a datagram into the inbox; false when it is full.
    pub(crate) fn deliver(&self, datagram: &[u8]) -> bool {
        let mut inbox = self.inbox.lock();
        if datagram.is_empty() || inbox.len() + datagram.len() > MAX_INBOX {
            return datagram.is_empty();
        }
        // A datagram has less than 65,536 bytes.
        inbox.extend_from_slice(&(datagram.len() as u16).to_ne_bytes());
        inbox.extend_from_slice(datagram);
        drop(inbox);
        self.wake.notify_one();
        true
    }

    /// Hands the inbox to the session.
    fn take_inbox(&self, state: &mut State, now: Instant) {
        TAKING.with_borrow_mut(|taken| {
            taken.clear();
            {
                let mut inbox = self.inbox.lock();
                if inbox.is_empty() {
                    // An idle session owns no inbox.
                    *inbox = Vec::new();
                    return;
                }
                std::mem::swap(taken, &mut inbox);
            }
            let mut rest = &mut taken[..];
            while let Some((length, behind)) = rest.split_first_chunk_mut::<2>() {
                let length = usize::from(u16::from_ne_bytes(*length)).min(behind.len());
                let (datagram, behind) = behind.split_at_mut(length);
                state.session.handle_datagram(now, datagram);
                rest = behind;
            }
            if taken.capacity() > MAX_INBOX {
                *taken = Vec::new();
            }
        });
    }

    /// Sends what the session has to send, as far as the kernel takes it, and wakes the driver when
    /// it has to look after the rest.
    pub(crate) fn transmit(&self, state: &mut State, now: Instant) {
        SENDING.with_borrow_mut(|buffer| self.transmit_through(buffer, state, now));
        let earlier = match (state.session.poll_timeout(), state.wakes_at) {
            (Some(wanted), Some(planned)) => wanted < planned,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if earlier || state.blocked.is_some() {
            self.wake.notify_one();
        }
    }

    fn transmit_through(&self, buffer: &mut Vec<u8>, state: &mut State, now: Instant) {
        if !self.unblock(state) {
            return;
        }
        buffer.clear();
        let counters = state.session.counters();
        // A trial that fails costs an unordered stream its order, so others make it.
        let tries = !state.session.is_unordered();
        let shared = &self.shared;
        let most = state.trial.allowed(tries, &counters, &shared.segments, &shared.socket);
        let (mut segment, mut count) = (0, 0);
        loop {
            let start = buffer.len();
            let Some(length) = state.session.poll_transmit(now, buffer) else { break };
            if count > 0 && length > segment {
                // Longer than those before: they go first.
                if !self.send(state, &buffer[..start], segment) {
                    state.keep_also(&buffer[start..]);
                    return;
                }
                buffer.drain(..start);
                count = 0;
            }
            if count == 0 {
                segment = length;
            }
            count += 1;
            if length < segment || count >= most || buffer.len() + MAX_DATAGRAM > MAX_SEND {
                if !self.send(state, buffer, segment) {
                    return;
                }
                buffer.clear();
                count = 0;
            }
        }
        if count > 0 {
            self.send(state, buffer, segment);
        }
    }

    /// Sends datagrams; false when the kernel is full, which keeps them.
    fn send(&self, state: &mut State, datagrams: &[u8], segment: usize) -> bool {
        if datagrams.len() > segment {
            state.trial.begin(datagrams.len(), || state.session.counters());
        }
        let sent = self.shared.socket.send(self.path, datagrams, segment);
        let blocked = sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        if blocked {
            state.blocked = Some((datagrams.to_vec(), segment));
        }
        !blocked
    }

    /// Sends what was kept; false when it still is.
    fn unblock(&self, state: &mut State) -> bool {
        match state.blocked.take() {
            None => true,
            Some((datagrams, segment)) => self.send(state, &datagrams, segment),
        }
    }

    /// One round: datagrams, timers, sending, waking. False when the session is over and said so.
    fn advance(self: &Arc<Self>) -> bool {
        let now = Instant::now();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        self.take_inbox(state, now);
        if state.session.poll_timeout().is_some_and(|at| at <= now) {
            state.session.handle_timeout(now);
        }
        SENDING.with_borrow_mut(|buffer| self.transmit_through(buffer, state, now));
        state.wakes_at = state.session.poll_timeout();
        let ended = state.session.ended();
        let opened = (state.session.is_open() || ended.is_some()).then(|| state.opened.take());
        if !state.session.readable().is_empty() || state.session.is_read_to_end() {
            wake(&mut state.reader);
        }
        if state.session.writable() > 0 || state.session.is_delivered() {
            wake(&mut state.writer);
        }
        let goes_on = !state.session.is_gone() || state.blocked.is_some();
        let is_open = state.session.is_open();
        drop(guard);
        if let Some(opened) = opened.flatten() {
            match ended {
                Some(why) if !is_open => opened(Err(why)),
                _ => opened(Ok(Stream::new(Arc::clone(self)))),
            }
        }
        goes_on
    }

    /// Drives the session to its end.
    pub(crate) async fn drive(self: Arc<Self>) {
        while self.advance() {
            let (wakes_at, blocked) = {
                let state = self.state.lock();
                (state.wakes_at, state.blocked.is_some())
            };
            let timer = async {
                match wakes_at {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = timer => {}
                // A socket that fails says so on the next send.
                _ = self.shared.socket.writable(), if blocked => {}
            }
        }
        self.shared.forget(&self);
    }
}

impl State {
    /// Keeps one more datagram behind those that were kept; it may be longer than they are, so it
    /// goes by itself: it is lost, and SCTP repeats it.
    fn keep_also(&mut self, datagram: &[u8]) {
        if let Some((kept, segment)) = &mut self.blocked
            && kept.len() % *segment == 0
            && datagram.len() <= *segment
        {
            kept.extend_from_slice(datagram);
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
