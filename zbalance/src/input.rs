//! What an ingest thread reads: a source whose frames are copied, or one that receives into the frames of
//! the balancer.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use capture::{Burst, Frame, Name, OpenError, Pace, Position, Replay, Source};
use capture::{Standby, Xdp, XdpName, XdpOptions};
use shm::{Memory, Piece, Producer};

use crate::log;

/// An open source.
#[derive(Debug)]
pub enum Input {
    /// Frames are copied out of it.
    Copied(Box<dyn Source>),
    /// Frames lie where consumers read them.
    InPlace(Box<Xdp>),
    /// The interface went away; the socket waits for it.
    Absent(Option<Standby>),
}

/// A frame, as an input hands it out.
#[derive(Debug)]
pub enum Arrival<'a> {
    /// It is gone after the call. By reference: moving it would wait for the packet before to be written.
    Copied(&'a Frame<'a>),
    /// It lies in frames on loan, with the time of its arrival in nanoseconds since the epoch.
    InPlace(&'a mut [Piece], u64),
}

/// How the source that `name` names is opened.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// By itself.
    Alone,
    /// As a recording.
    Recording(PathBuf, Pace),
    /// Through AF_XDP, with this much memory.
    InPlace {
        /// Interface and queue.
        name: XdpName,
        /// Receive queues.
        queues: u32,
        /// Without AF_XDP it is read through AF_PACKET.
        optional: bool,
    },
}

impl Plan {
    /// Decides over the source `text`, and says why an interface that may be read in any way is not read
    /// through AF_XDP. `succeeding`: a predecessor reads it now and keeps it, so AF_XDP is not to be had. A
    /// recording is played at `pace`.
    ///
    /// # Errors
    /// When the text names no source, or an interface that is not there.
    pub fn new(text: &str, succeeding: bool, pace: Pace) -> Result<Self, OpenError> {
        let (name, optional) = match text.parse()? {
            Name::Xdp(name) if succeeding => {
                let reason = "the predecessor does not hand it over; a restart brings AF_XDP back";
                notice_packet(&name.interface, reason);
                return Ok(Self::Alone);
            }
            Name::Xdp(name) => (name, false),
            Name::Auto(_) if succeeding => return Ok(Self::Alone),
            Name::Auto(interface) => {
                if let Some(reason) = capture::against_xdp(&interface)? {
                    notice_packet(&interface, &reason.to_string());
                    return Ok(Self::Alone);
                }
                (XdpName { interface, queue: None }, true)
            }
            Name::Interface(_) => return Ok(Self::Alone),
            Name::File(path) => return Ok(Self::Recording(path, pace)),
        };
        let queues = name.queues()?;
        Ok(Self::InPlace { name, queues, optional })
    }

    /// Frames that the source takes on loan.
    pub fn frames(&self) -> u32 {
        match self {
            Self::Alone | Self::Recording(..) => 0,
            Self::InPlace { queues, .. } => XdpOptions::for_queues(*queues).frames(*queues),
        }
    }

    /// Opens the source, which `text` named, over `memory`.
    ///
    /// # Errors
    /// When it cannot be opened in any of the ways that are meant.
    pub fn open(&self, text: &str, memory: &Memory) -> Result<Input, OpenError> {
        let (name, queues, optional) = match self {
            Self::InPlace { name, queues, optional } => (name, queues, optional),
            Self::Recording(path, pace) => {
                return Ok(Input::Copied(Box::new(Replay::open(path, *pace)?)));
            }
            Self::Alone => return Ok(Input::Copied(capture::open(text)?)),
        };
        match Xdp::open(name, XdpOptions::for_queues(*queues), memory) {
            Ok(xdp) => {
                log::say(format_args!("{}: {}", name.interface, xdp.attachment()));
                Ok(Input::InPlace(Box::new(xdp)))
            }
            Err(error) if *optional => {
                notice_packet(&name.interface, &error.to_string());
                Ok(Input::Copied(capture::open(text)?))
            }
            Err(error) => Err(error),
        }
    }
}

/// Says why an interface is read through AF_PACKET.
fn notice_packet(interface: &str, reason: &str) {
    log::say(format_args!("{interface}: AF_PACKET; not AF_XDP: {reason}"));
}

impl Input {
    /// Gives the source the frames that it receives into.
    pub fn supply(&mut self, producer: &mut Producer) {
        if let Self::InPlace(xdp) = self {
            xdp.lend(producer.lend(u32::MAX));
        }
    }

    /// Waits at most `timeout` for frames and hands at most `max` of them to `each`.
    ///
    /// # Errors
    /// When the source has failed.
    pub fn burst(
        &mut self,
        max: usize,
        timeout: Duration,
        each: &mut dyn FnMut(Arrival<'_>),
    ) -> io::Result<Burst> {
        match self {
            Self::Copied(source) => {
                source.burst(max, timeout, &mut |frame| each(Arrival::Copied(&frame)))
            }
            Self::InPlace(xdp) => {
                xdp.burst(max, timeout, &mut |pieces, time| each(Arrival::InPlace(pieces, time)))
            }
            Self::Absent(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Frames that were lost before they were read, since the source was opened.
    pub fn dropped(&mut self) -> u64 {
        match self {
            Self::Copied(source) => source.statistics().dropped,
            Self::InPlace(xdp) => xdp.statistics().dropped,
            Self::Absent(_) => 0,
        }
    }

    /// Tries to go on after an error; `name` is that of the source. True when it counts from zero.
    ///
    /// A packet socket goes on with the interface that has its name now, which takes no privilege. AF_XDP
    /// would take some, so that its interface is read through AF_PACKET when it comes back.
    ///
    /// # Errors
    /// When it cannot go on yet.
    pub fn resume(&mut self, name: &str, producer: &mut Producer) -> io::Result<bool> {
        if let Self::InPlace(_) = self
            && let Self::InPlace(xdp) = std::mem::replace(self, Self::Absent(None))
        {
            let (loans, standby) = xdp.close();
            loans.into_iter().for_each(|loan| producer.settle(loan));
            *self = Self::Absent(Some(standby));
        }
        match self {
            Self::Copied(source) => match source.resume() {
                Ok(()) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    *self = Self::Copied(capture::open(name).map_err(io::Error::other)?);
                }
                Err(error) => return Err(error),
            },
            Self::Absent(standby) => match standby.take().map(Standby::start) {
                Some(Ok(source)) => {
                    *self = Self::Copied(Box::new(source));
                    notice_packet(name, "the interface was gone; a restart brings AF_XDP back");
                }
                Some(Err((kept, error))) => {
                    *standby = Some(kept);
                    return Err(error);
                }
                None => return Err(io::ErrorKind::NotConnected.into()),
            },
            Self::InPlace(_) => {}
        }
        Ok(true)
    }

    /// Hands out what was begun and says where another process goes on; `None` when the source cannot be
    /// shared.
    pub fn hand_over(&mut self, each: &mut dyn FnMut(Arrival<'_>)) -> Option<Position> {
        match self {
            Self::Copied(source) => source.hand_over(&mut |frame| each(Arrival::Copied(&frame))),
            Self::InPlace(xdp) => Some(xdp.hand_over()),
            Self::Absent(_) => Some(Position::Absent),
        }
    }

    /// What is open, for a successor.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Copied(source) => source.descriptors(),
            Self::InPlace(xdp) => xdp.descriptors(),
            // Only after it was open.
            Self::Absent(_) => Vec::new(),
        }
    }
}
