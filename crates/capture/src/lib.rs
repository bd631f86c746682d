//! Frame sources behind one trait (`spec/ingest.md` 6 and 8), and the [`tun`] devices that forwarded
//! packets go to.
//!
//! A source is named by a text: `afp:IF` or a bare interface name for `AF_PACKET`, `pcap:FILE` for
//! a capture file. [`open`] makes it; [`Source::burst`] hands out frames that are valid until it
//! returns. `xdp:IF` is another matter: an [`Xdp`] receives into memory of its owner.

mod afpacket;
mod name;
pub mod pcapng;
mod position;
pub mod recording;
mod replay;
mod standby;
pub mod tun;
mod xdp;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

pub use afpacket::{AfPacket, BarePacket};
pub use name::{Name, NameError};
pub use position::Position;
pub use replay::{Pace, Rate, Replay, ReplayError};
pub use standby::Standby;
pub use xdp::{
    AgainstFastPath, AgainstXdp, Attachment, BareXdp, FlowTable, Generator, Heir, Hook, LiveFrames,
    LiveFramesError, PassThrough, Passed, Reception, Refusal, Sorting, Staged, Trial, Xdp, XdpName,
    XdpOptions, against_fast_path, against_xdp,
};

/// One captured Ethernet frame, VLAN tags in place.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Bytes from the destination address on.
    pub data: &'a [u8],
    /// Time of capture in nanoseconds since the epoch.
    pub timestamp: u64,
    /// The frame was longer on the wire.
    pub truncated: bool,
    /// The sender, on this host, left the layer-4 checksum to its card, and it was never computed.
    pub checksum_incomplete: bool,
}

/// What a burst brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Burst {
    /// This many frames, possibly none within the time given.
    Frames(usize),
    /// There will be no more.
    Ended,
}

/// Counters of a source since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Frames that reached the source, dropped ones included.
    pub received: u64,
    /// Frames that the kernel dropped because nobody read them in time.
    pub dropped: u64,
    /// Times that the kernel found every block of the ring in use.
    pub full: u64,
    /// Frames that were cut.
    pub truncated: u64,
    /// Frames that a program in the kernel dropped because no detector needs them; not received.
    pub prefiltered: u64,
    /// Frames that a program in the kernel gave to the host because their flow is that of a session; not received.
    pub passed: u64,
}

/// Something that hands out captured frames.
pub trait Source: Send + std::fmt::Debug {
    /// Waits at most `timeout` for frames and hands at most `max` of them to `each`.
    ///
    /// # Errors
    /// When the source has failed, e.g. because its interface went away.
    fn burst(
        &mut self,
        max: usize,
        timeout: Duration,
        each: &mut dyn FnMut(Frame<'_>),
    ) -> io::Result<Burst>;

    /// Ends the source: what has come by now is still handed out, then [`Source::burst`] says
    /// [`Burst::Ended`]. A recording ends at once.
    fn cease(&mut self);

    /// Counters since the source was opened.
    fn statistics(&mut self) -> Statistics;

    /// Goes on after an error, e.g. when an interface that went away is there again. Needs no
    /// privilege: what is open already is used.
    ///
    /// # Errors
    /// When the source cannot go on yet, or not at all.
    fn resume(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// What is open, for a successor; none for a source that cannot be shared. They stay the same as long as
    /// the source lives.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// The table of flows whose packets a program gives to the host.
    fn fast_path(&self) -> Option<&FlowTable> {
        None
    }

    /// Hands out what was begun and says where another process goes on; frames that come meanwhile wait
    /// for it. `None` for a source that cannot be shared. Nothing may be read from it afterwards, unless no
    /// other process does.
    fn hand_over(&mut self, each: &mut dyn FnMut(Frame<'_>)) -> Option<Position> {
        let _ = each;
        None
    }
}

/// A source on its way to another process.
#[derive(Debug)]
pub struct Handed {
    /// [`Source::descriptors`], in their order.
    pub descriptors: Vec<OwnedFd>,
    /// Where reading goes on.
    pub position: Position,
}

/// Why a source cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The text names no source.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The interface does not exist.
    #[error("{interface}: no such interface; here are: {}", available())]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// The process may not capture.
    #[error(
        "{interface}: not permitted to capture; give the process CAP_NET_RAW (setcap \
         cap_net_raw,cap_net_admin+ep PROGRAM)"
    )]
    Permission {
        /// Name of the interface.
        interface: String,
    },
    /// The process may not read through AF_XDP.
    #[error(
        "{interface}: {what}: not permitted; AF_XDP takes CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF and \
         CAP_IPC_LOCK (setcap cap_net_raw,cap_net_admin,cap_bpf,cap_ipc_lock+p PROGRAM), or use \
         afp:{interface}"
    )]
    XdpPermission {
        /// Name of the interface.
        interface: String,
        /// What was attempted.
        what: &'static str,
    },
    /// Somebody else reads the interface through XDP.
    #[error(
        "{interface}: {what}: in use; another XDP program or AF_XDP socket is on the interface (ip link \
         show dev {interface}): end it, or use afp:{interface}"
    )]
    XdpBusy {
        /// Name of the interface.
        interface: String,
        /// What was attempted.
        what: &'static str,
    },
    /// The driver has no XDP hook, and only that one was wanted.
    #[error(
        "{interface}: its driver has no native XDP ({cause}); xdp:{interface} reads it in generic mode"
    )]
    NoNative {
        /// Name of the interface.
        interface: String,
        /// What the kernel says.
        cause: io::Error,
    },
    /// Packets that a fast path gives to the host would be lost there.
    #[error("{interface}: no fast path: {why}")]
    NoFastPath {
        /// Name of the interface.
        interface: String,
        /// What is in the way.
        why: AgainstFastPath,
    },
    /// The interface has fewer receive queues.
    #[error("{interface}: there is no receive queue {queue}; it has {queues} (0 to {last})", last = queues - 1)]
    NoQueue {
        /// Name of the interface.
        interface: String,
        /// The queue that was asked for.
        queue: u32,
        /// Receive queues that it has.
        queues: u32,
    },
    /// The system refused.
    #[error("{interface}: {what}: {cause}")]
    System {
        /// Name of the interface.
        interface: String,
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        cause: io::Error,
    },
    /// A recording cannot be replayed.
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

impl OpenError {
    /// What the system refused with `cause` while `what` was attempted.
    fn of_system(interface: &str, what: &'static str, cause: io::Error) -> Self {
        let interface = interface.to_owned();
        match cause.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Permission { interface },
            _ => Self::System { interface, what, cause },
        }
    }
}

/// Names of the interfaces of this network namespace, those without an address included.
fn available() -> String {
    let table = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let mut names: Vec<&str> =
        table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    names.sort_unstable();
    names.join(", ")
}

/// Goes on with the source that `text` names, as a predecessor handed it over.
///
/// # Errors
/// When the text names no interface, or what was handed over cannot be used.
pub fn take_over(text: &str, handed: Handed) -> Result<Box<dyn Source>, OpenError> {
    let interface = match text.parse()? {
        Name::Auto(interface)
        | Name::Interface(interface)
        | Name::Xdp(XdpName { interface, .. }) => interface,
        Name::File(path) => {
            return Err(OpenError::System {
                interface: path.display().to_string(),
                what: "taking over a recording",
                cause: io::ErrorKind::Unsupported.into(),
            });
        }
    };
    let failed = |what| {
        let interface = interface.clone();
        move |cause| OpenError::System { interface, what, cause }
    };
    let mut descriptors = handed.descriptors.into_iter();
    let socket = descriptors.next().ok_or_else(|| {
        failed("taking over a packet socket")(io::Error::from_raw_os_error(libc::EBADF))
    })?;
    Ok(match handed.position {
        Position::Block(block) => Box::new(AfPacket::take_over(&interface, socket, block)?),
        Position::Absent => Box::new(Heir::absent(Standby::of(socket, &interface)?)),
        Position::Rings(rings) => {
            let standby = Standby::of(socket, &interface)?;
            let heir = Heir::new(standby, descriptors, rings);
            Box::new(heir.map_err(failed("taking over AF_XDP sockets"))?)
        }
    })
}

/// Opens the source that `text` names, an interface through `AF_PACKET`.
///
/// # Errors
/// When the text is no source, or the source cannot be opened.
pub fn open(text: &str) -> Result<Box<dyn Source>, OpenError> {
    Ok(match text.parse()? {
        Name::Auto(interface)
        | Name::Interface(interface)
        | Name::Xdp(XdpName { interface, .. }) => Box::new(AfPacket::open(&interface)?),
        Name::File(path) => Box::new(Replay::open(&path, Pace::default())?),
    })
}
