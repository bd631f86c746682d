//! What an ingest thread reads: a source whose frames are copied, or one that receives into the frames of
//! the balancer.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use capture::{
    AfPacket, Burst, FlowTable, Frame, Name, OpenError, Pace, Position, Reception, Replay,
};
use capture::{Source, Standby, Statistics, Xdp, XdpName, XdpOptions};
use shm::{Memory, Piece, Producer};

use crate::log;
use crate::stages::Stages;

/// An open source.
#[derive(Debug)]
pub enum Input {
    /// Frames are copied out of the ring of an interface.
    Packet(Box<AfPacket>),
    /// Frames are copied out of another source.
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
    /// It lies in frames on loan.
    InPlace(&'a mut [Piece], &'a Reception),
}

/// How a source is opened.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// An interface, through `AF_PACKET`.
    Packet {
        /// Its name.
        interface: String,
        /// Why not through AF_XDP, unless `AF_PACKET` is meant.
        reason: Option<String>,
    },
    /// As a recording.
    Recording(PathBuf, Pace),
    /// Through AF_XDP, with this much memory.
    InPlace {
        /// Interface and queue.
        name: XdpName,
        /// Receive queues.
        queues: u32,
        /// Without AF_XDP in the driver it is read through `AF_PACKET`.
        optional: bool,
        /// What the kernel does before it hands frames over.
        stages: Stages,
    },
}

impl Plan {
    /// Decides over the source `text`. `succeeding`: a predecessor reads it now and keeps it, so AF_XDP is not to
    /// be had. A recording is played at `pace`. The `stages` are those of AF_XDP.
    ///
    /// # Errors
    /// When the text names no source, an interface that is not there, or one from which packets of a fast path would
    /// not reach the host.
    pub fn new(
        text: &str,
        succeeding: bool,
        pace: Pace,
        stages: &Stages,
    ) -> Result<Self, OpenError> {
        let packet = |interface, reason| Ok(Self::Packet { interface, reason });
        let (name, optional) = match text.parse()? {
            Name::Xdp(XdpName { interface, .. }) | Name::Auto(interface) if succeeding => {
                let reason = "the predecessor does not hand it over; a restart brings AF_XDP back";
                return packet(interface, Some(reason.to_owned()));
            }
            Name::Xdp(name) => (name, false),
            Name::Auto(interface) => {
                if let Some(reason) = capture::against_xdp(&interface)? {
                    return packet(interface, Some(reason.to_string()));
                }
                (XdpName { interface, queue: None }, true)
            }
            Name::Interface(interface) => return packet(interface, None),
            Name::File(path) => return Ok(Self::Recording(path, pace)),
        };
        let XdpName { interface, .. } = &name;
        if stages.fast_path.is_some()
            && let Some(why) = capture::against_fast_path(interface)?
        {
            return Err(OpenError::NoFastPath { interface: interface.clone(), why });
        }
        let queues = name.queues()?;
        Ok(Self::InPlace { name, queues, optional, stages: stages.clone() })
    }

    /// Frames that the source takes on loan.
    pub fn frames(&self) -> u32 {
        match self {
            Self::Packet { .. } | Self::Recording(..) => 0,
            Self::InPlace { queues, .. } => XdpOptions::for_queues(*queues).frames(*queues),
        }
    }

    /// Opens the source over `memory` and says how it is read, and why not in a better way.
    ///
    /// # Errors
    /// When it cannot be opened in any of the ways that are meant.
    pub fn open(&self, memory: &Memory) -> Result<Input, OpenError> {
        match self {
            Self::Packet { interface, reason } => packet(interface, reason.as_deref()),
            Self::Recording(path, pace) => {
                let replay = Replay::open(path, *pace)?;
                let (path, format) = (path.display(), replay.format());
                log::say(format_args!("{path}: recording, {format}, {pace}"));
                Ok(Input::Copied(Box::new(replay)))
            }
            Self::InPlace { name, queues, optional, stages } => {
                let XdpName { interface, .. } = name;
                let options = XdpOptions {
                    generic: !optional,
                    prefilter: stages.prefilter,
                    fast_path: stages.fast_path.as_ref(),
                    sorting: stages.sorting,
                    ..XdpOptions::for_queues(*queues)
                };
                match Xdp::open(name, options, memory) {
                    Ok(xdp) => {
                        log::say(format_args!("{interface}: {}", xdp.attachment()));
                        Ok(Input::InPlace(Box::new(xdp)))
                    }
                    Err(error) if *optional => packet(interface, Some(&error.to_string())),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

fn packet(interface: &str, reason: Option<&str>) -> Result<Input, OpenError> {
    let source = AfPacket::open(interface)?;
    say_packet(interface, reason);
    Ok(Input::Packet(Box::new(source)))
}

/// Says that an interface is read through `AF_PACKET`, and why not through AF_XDP.
fn say_packet(interface: &str, reason: Option<&str>) {
    let why = reason.map(|reason| format!("; not AF_XDP: {reason}")).unwrap_or_default();
    log::say(format_args!("{interface}: AF_PACKET, ring of {} MiB{why}", AfPacket::RING >> 20));
}

impl Input {
    /// Gives the source the frames that it receives into.
    pub fn supply(&mut self, producer: &mut Producer) {
        if let Self::InPlace(xdp) = self {
            xdp.lend(producer.lend(u32::MAX));
        }
    }

    /// Waits at most `timeout` for frames and hands at most `max` of them to `each`, which looks at all of them with
    /// `reads`, else at those whose queue is not known.
    ///
    /// # Errors
    /// When the source has failed.
    pub fn burst(
        &mut self,
        max: usize,
        timeout: Duration,
        reads: bool,
        each: &mut impl FnMut(Arrival<'_>),
    ) -> io::Result<Burst> {
        match self {
            Self::Packet(source) => {
                source.read(max, timeout, &mut |frame| each(Arrival::Copied(&frame)))
            }
            Self::Copied(source) => {
                source.burst(max, timeout, &mut |frame| each(Arrival::Copied(&frame)))
            }
            Self::InPlace(xdp) => xdp.burst(max, timeout, reads, &mut |pieces, reception| {
                each(Arrival::InPlace(pieces, reception))
            }),
            Self::Absent(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Counters since the source was opened.
    pub fn statistics(&mut self) -> Statistics {
        match self {
            Self::Packet(source) => source.statistics(),
            Self::Copied(source) => source.statistics(),
            Self::InPlace(xdp) => xdp.statistics(),
            Self::Absent(_) => Statistics::default(),
        }
    }

    /// Whether a program in the kernel drops what no detector needs.
    pub fn is_prefiltered(&self) -> bool {
        matches!(self, Self::InPlace(xdp) if xdp.attachment().prefilter)
    }

    /// The table of flows whose packets a program in the kernel gives to the host.
    pub fn fast_path(&self) -> Option<&FlowTable> {
        match self {
            Self::Copied(source) => source.fast_path(),
            Self::InPlace(xdp) => xdp.fast_path(),
            Self::Packet(_) | Self::Absent(_) => None,
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
            Self::Packet(source) => {
                source.resume()?;
                return Ok(false);
            }
            Self::Copied(source) => match source.resume() {
                Ok(()) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    *self = Self::Copied(capture::open(name).map_err(io::Error::other)?);
                }
                Err(error) => return Err(error),
            },
            Self::Absent(standby) => match standby.take().map(Standby::start) {
                Some(Ok(source)) => {
                    *self = Self::Packet(Box::new(source));
                    let reason = "the interface was gone; a restart brings AF_XDP back";
                    say_packet(name, Some(reason));
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

    /// What has come by now is still handed out, then [`Input::burst`] says [`Burst::Ended`].
    pub fn cease(&mut self) {
        match self {
            Self::Packet(source) => source.cease(),
            Self::Copied(source) => source.cease(),
            Self::InPlace(xdp) => xdp.cease(),
            // Its bursts are errors, which end it as well.
            Self::Absent(_) => {}
        }
    }

    /// Hands out what was begun and says where another process goes on; `None` when the source cannot be
    /// shared.
    pub fn hand_over(&mut self, each: &mut dyn FnMut(Arrival<'_>)) -> Option<Position> {
        match self {
            Self::Packet(source) => source.hand_over(&mut |frame| each(Arrival::Copied(&frame))),
            Self::Copied(source) => source.hand_over(&mut |frame| each(Arrival::Copied(&frame))),
            Self::InPlace(xdp) => Some(xdp.hand_over()),
            Self::Absent(_) => Some(Position::Absent),
        }
    }

    /// What is open, for a successor.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Packet(source) => source.descriptors(),
            Self::Copied(source) => source.descriptors(),
            Self::InPlace(xdp) => xdp.descriptors(),
            // Only after it was open.
            Self::Absent(_) => Vec::new(),
        }
    }
}
