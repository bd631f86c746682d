//! Copying and splicing relays with accounting.
//!
//! [`relay`] moves bytes between a client and a covert until both directions have ended, one has
//! failed, or nothing has moved for the stall limit (`spec/application.md` 12.3). The first
//! 64 KiB of a direction are copied through a buffer of the thread, so that an interactive or
//! idle session owns no buffer at all; after that the direction is spliced through pipes that
//! are borrowed from a pool only while bytes are in flight. A spliced direction is not woken by its
//! source while its sink takes no more, and a fast one only for a batch of bytes.
//!
//! A client whose bytes are no plain TCP (obfs4, DTLS) is relayed by [`relay_wrapped`], which never
//! splices; [`Sealed`] makes such a stream of a socket and a [`Codec`].
#![deny(unsafe_code)]

mod class;
mod flow;
mod pace;
mod pipe;
mod sealed;
mod watermark;
mod wrapped;

pub use class::ErrorClass;
pub use sealed::{Codec, Pace, Sealed};
pub use wrapped::relay_wrapped;

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use flow::{End, Flow, Side};

/// When a relay that moves nothing is closed.
#[derive(Debug, Clone, Copy)]
pub struct StallLimits {
    /// Before the first transfer.
    pub first: Duration,
    /// After the last transfer in either direction.
    pub later: Duration,
}

impl Default for StallLimits {
    /// 30 s, then 120 s (`spec/application.md` 12.3).
    fn default() -> Self {
        Self { first: Duration::from_secs(30), later: Duration::from_secs(120) }
    }
}

/// How bytes are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Copy first, then splice.
    #[default]
    Auto,
    /// Always copy.
    Copy,
}

/// Bytes moved by all relays of a process, counted as they are written.
#[derive(Debug, Default)]
pub struct Traffic {
    up: AtomicU64,
    down: AtomicU64,
}

impl Traffic {
    /// Bytes from clients to coverts.
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// Bytes from coverts to clients.
    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }
}

/// How a relay went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Time until the direction that ended first had ended.
    pub duration: Duration,
    /// Bytes written to the covert.
    pub up: u64,
    /// Bytes written to the client.
    pub down: u64,
    /// What went wrong with the covert's connection.
    pub covert_error: Option<ErrorClass>,
    /// What went wrong with the client's connection.
    pub client_error: Option<ErrorClass>,
}

/// Relays between `client` and `covert`; `first` was already read from the client and goes to the
/// covert before anything else. Both sockets are closed when the report is returned.
///
/// The end of one direction is passed on as the end of writing (half-close); the other direction
/// goes on until its own end or the stall limit.
pub async fn relay(
    client: TcpStream,
    covert: TcpStream,
    first: Vec<u8>,
    limits: StallLimits,
    mode: Mode,
    traffic: &Traffic,
) -> Report {
    let mut up = Flow::new(first, mode);
    let mut down = Flow::new(Vec::new(), mode);
    watch(limits, traffic, |cx| Polled {
        up: up.poll(&client, &covert, cx),
        down: down.poll(&covert, &client, cx),
        moved: (up.moved, down.moved),
    })
    .await
}

/// Both directions after one poll: whether they have ended, and what they have moved in all.
struct Polled {
    up: Poll<End>,
    down: Poll<End>,
    moved: (u64, u64),
}

/// Polls both directions until both have ended, one has failed, or nothing moves any more.
async fn watch(
    limits: StallLimits,
    traffic: &Traffic,
    mut poll: impl FnMut(&mut Context<'_>) -> Polled,
) -> Report {
    let start = Instant::now();
    let mut stall = pin!(sleep_until(start + limits.first));
    let mut last_move: Option<Instant> = None;
    let mut first_end: Option<Duration> = None;
    let mut moved = (0, 0);

    let outcome = std::future::poll_fn(|cx| {
        let polled = poll(cx);
        if polled.moved != moved {
            traffic.up.fetch_add(polled.moved.0 - moved.0, Ordering::Relaxed);
            traffic.down.fetch_add(polled.moved.1 - moved.1, Ordering::Relaxed);
            moved = polled.moved;
            last_move = Some(Instant::now());
        }
        if first_end.is_none() && (polled.up.is_ready() || polled.down.is_ready()) {
            first_end = Some(start.elapsed());
        }
        match (polled.up, polled.down) {
            (Poll::Ready(End::Failed(side, class)), _) => {
                return Poll::Ready(Some((side, class)));
            }
            (_, Poll::Ready(End::Failed(side, class))) => {
                return Poll::Ready(Some((side.other(), class)));
            }
            (Poll::Ready(End::Finished), Poll::Ready(End::Finished)) => return Poll::Ready(None),
            _ => {}
        }
        while stall.as_mut().poll(cx).is_ready() {
            let deadline = last_move.map_or(start + limits.first, |at| at + limits.later);
            if deadline <= Instant::now() {
                return Poll::Ready(Some((Side::Source, ErrorClass::Timeout)));
            }
            stall.as_mut().reset(deadline);
        }
        Poll::Pending
    })
    .await;

    let (mut client_error, mut covert_error) = (None, None);
    match outcome {
        None => {}
        // The stall is reported on the client's side, as the reference does.
        Some((Side::Source, class)) => client_error = class.reported(),
        Some((Side::Sink, class)) => covert_error = class.reported(),
    }
    Report {
        duration: first_end.unwrap_or_else(|| start.elapsed()),
        up: moved.0,
        down: moved.1,
        covert_error,
        client_error,
    }
}
