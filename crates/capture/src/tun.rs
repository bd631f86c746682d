//! Tun devices: the way of a phantom packet into the host (`spec/detector.md` 13).
//!
//! A device is opened single-queue and without packet information, so what is written is a raw IP
//! packet. On request the kernel also takes a header before each, with which segments of a flow go in
//! as one ([`Batch`]); no offload has to be switched on for that direction. Which form a device has is
//! up to whoever attached it last, whatever it was created with. Acknowledgements, which cannot go in as one, may
//! go in together: [`LiveFrames`].

mod batch;

pub use batch::{Batch, Sent, VNET_LEN};

use crate::afpacket::index_of;
use crate::xdp::LiveFrames;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, Updater, ioctl};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io::{self, IoSlice, IoSliceMut};

const TUNSETIFF: Opcode = 0x4004_54ca;
const TUNGETIFF: Opcode = 0x8004_54d2;
const TUNSETVNETHDRSZ: Opcode = 0x4004_54d8;
const TUNSETVNETLE: Opcode = 0x4004_54dc;
const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;

const IFF_TUN: u16 = 0x0001;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const IFF_UP: u16 = 0x0001;
const IFF_RUNNING: u16 = 0x0040;

/// Longest interface name, without its terminator.
const NAME_LEN: usize = 15;

/// `struct ifreq`: name, then a union of which only the flags are used.
#[repr(C)]
#[derive(Clone, Copy)]
struct InterfaceRequest {
    name: [u8; NAME_LEN + 1],
    flags: u16,
    rest: [u8; 22],
}

/// Why a tun device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The name does not fit an interface.
    #[error("{0:?} is no interface name: 1 to 15 bytes are expected")]
    Name(String),
    /// The control device cannot be opened.
    #[error(
        "/dev/net/tun: {0}; in a container give it the device entry /dev/net/tun (`devices:`, a \
             volume is not enough), elsewhere load the module (modprobe tun) and let this user open \
             the device (mode 0666)"
    )]
    Control(io::Error),
    /// Another process has the device.
    #[error(
        "{0} is held by another process; stop the other detector, or move one of the two to \
             another queue offset"
    )]
    Busy(String),
    /// The device does not exist and may not be created.
    #[error(
        "{0} does not exist and this user may not create it; run the host setup \
             (on-reboot.sh), or give the process CAP_NET_ADMIN"
    )]
    Missing(String),
    /// The device is down and may not be brought up.
    #[error(
        "{0} is down and this user may not bring it up; run the host setup (on-reboot.sh), or: \
             ip link set {0} up"
    )]
    Down(String),
    /// The device exists with other properties.
    #[error("{0} was created with several queues; recreate it with `ip tuntap add mode tun`")]
    MultiQueue(String),
    /// Anything else.
    #[error("{name}: {source}")]
    Device {
        /// Its name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// An open tun device. Packets can be written from several threads.
#[derive(Debug)]
pub struct Tun {
    device: OwnedFd,
    name: String,
    /// A header stands before each packet.
    headers: bool,
    /// A way for acknowledgements together.
    live: Option<LiveFrames>,
}

impl Tun {
    /// Attaches to the device `name`, creating it when that is allowed, and brings it up when it
    /// is down.
    ///
    /// # Errors
    /// [`TunError`] names the cause and the remedy.
    pub fn open(name: &str) -> Result<Self, TunError> {
        Self::attach(name, IFF_TUN)
    }

    /// The same for a device that takes a [`Batch`], unless the kernel has none of that kind.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_for_batches(name: &str) -> Result<Self, TunError> {
        // What the kernel does not know is as invalid to it as a device with several queues.
        match Self::attach(name, IFF_TUN | IFF_VNET_HDR) {
            Err(TunError::MultiQueue(_)) => Self::open(name),
            opened => opened,
        }
    }

    fn attach(name: &str, kind: u16) -> Result<Self, TunError> {
        let (tun, request) = (Self::make(name, kind)?, request(name)?);
        let ready = tun.agree_on_headers().and_then(|()| tun.bring_up(request));
        ready.map_err(|error| match error {
            Errno::PERM => TunError::Down(name.to_owned()),
            other => TunError::Device { name: name.to_owned(), source: other.into() },
        })?;
        Ok(tun)
    }

    fn make(name: &str, kind: u16) -> Result<Self, TunError> {
        let request = request(name)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = rustix::fs::open("/dev/net/tun", flags, Mode::empty())
            .map_err(|error| TunError::Control(error.into()))?;
        let attach = InterfaceRequest { flags: IFF_NO_PI | kind, ..request };
        set::<TUNSETIFF>(device.as_fd(), attach).map_err(|error| match error {
            Errno::BUSY => TunError::Busy(name.to_owned()),
            Errno::PERM => TunError::Missing(name.to_owned()),
            Errno::INVAL => TunError::MultiQueue(name.to_owned()),
            other => TunError::Device { name: name.to_owned(), source: other.into() },
        })?;
        let headers = kind & IFF_VNET_HDR != 0;
        Ok(Self { device, name: name.to_owned(), headers, live: None })
    }

    /// Makes a device that is not up, for an XDP program to be on, which the driver has support for where there are
    /// hardware addresses. It goes with its descriptor. A `%d` in `template` becomes the first number that is free.
    ///
    /// # Errors
    /// [`TunError`] names the cause and the remedy.
    pub(crate) fn anchor(template: &str) -> Result<Self, TunError> {
        let mut tun = Self::make(template, IFF_TAP)?;
        let mut current = request(template)?;
        update::<TUNGETIFF>(tun.device.as_fd(), &mut current).map_err(|error| {
            TunError::Device { name: template.to_owned(), source: error.into() }
        })?;
        let name = current.name.split(|byte| *byte == 0).next().unwrap_or_default();
        tun.name = String::from_utf8_lossy(name).into_owned();
        Ok(tun)
    }

    /// Takes a device that is attached already, as another process passed it on.
    ///
    /// # Errors
    /// When `device` is no tun device that is attached.
    pub fn from_attached(name: &str, device: OwnedFd) -> Result<Self, TunError> {
        let failed =
            |error: Errno| TunError::Device { name: name.to_owned(), source: error.into() };
        let mut current = request(name)?;
        update::<TUNGETIFF>(device.as_fd(), &mut current).map_err(failed)?;
        let headers = current.flags & IFF_VNET_HDR != 0;
        let tun = Self { device, name: name.to_owned(), headers, live: None };
        tun.agree_on_headers().map_err(failed)?;
        Ok(tun)
    }

    /// Fixes length and byte order of the headers, which a device keeps from an earlier user.
    fn agree_on_headers(&self) -> Result<(), Errno> {
        if self.headers {
            number::<TUNSETVNETHDRSZ>(self.device.as_fd(), VNET_LEN as i32)?;
            number::<TUNSETVNETLE>(self.device.as_fd(), 1)?;
        }
        Ok(())
    }

    fn bring_up(&self, request: InterfaceRequest) -> Result<(), Errno> {
        let socket = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let mut current = request;
        update::<SIOCGIFFLAGS>(socket.as_fd(), &mut current)?;
        if current.flags & IFF_UP != 0 {
            return Ok(());
        }
        current.flags |= IFF_UP | IFF_RUNNING;
        set::<SIOCSIFFLAGS>(socket.as_fd(), current)
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Index of the interface.
    ///
    /// # Errors
    /// When there is none of its name.
    pub fn index(&self) -> Result<u32, TunError> {
        let index =
            std::ffi::CString::new(self.name.as_str()).ok().and_then(|name| index_of(&name));
        index.map(i32::unsigned_abs).ok_or_else(|| TunError::Device {
            name: self.name.clone(),
            source: Errno::NODEV.into(),
        })
    }

    /// Sends acknowledgements of a batch by `live`, where they are many enough.
    #[must_use]
    pub fn with_live_frames(self, live: LiveFrames) -> Self {
        Self { live: Some(live), ..self }
    }

    /// Whether it takes a [`Batch`].
    pub const fn takes_batches(&self) -> bool {
        self.headers
    }

    /// A batch for this device.
    pub fn batch(&self) -> Batch {
        match self.live {
            Some(_) => Batch::with_acknowledgements_apart(),
            None => Batch::new(),
        }
    }

    /// Writes one IP packet; the kernel takes it in as received on the interface.
    ///
    /// # Errors
    /// When the kernel refuses the packet.
    #[inline]
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        if self.headers {
            let parts = [IoSlice::new(&[0; VNET_LEN]), IoSlice::new(packet)];
            rustix::io::writev(&self.device, &parts)?;
        } else {
            rustix::io::write(&self.device, packet)?;
        }
        Ok(())
    }

    /// Writes what a batch consists of.
    pub fn flush(&self, batch: &mut Batch) -> Sent {
        let mut sent = Sent::default();
        if let Some(live) = self.live.as_ref().filter(|live| live.is_usable())
            && batch.acknowledgements() >= LiveFrames::FEWEST
        {
            sent = batch.pass(|packets| live.pass(packets));
            // A failure that passes is no news: what was not taken is written.
            sent.alone = sent.alone.filter(|_| !live.is_usable());
        }
        sent.add(batch.flush(|parts| {
            match parts {
                [whole] => rustix::io::write(&self.device, whole)?,
                parts => rustix::io::writev(&self.device, parts)?,
            };
            Ok(())
        }));
        sent
    }

    /// Reads one IP packet that the kernel sends out of the interface; never waits.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.headers {
            return Ok(rustix::io::read(&self.device, buffer)?);
        }
        let mut header = [0; VNET_LEN];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
        Ok(rustix::io::readv(&self.device, &mut parts)?.saturating_sub(VNET_LEN))
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn request(name: &str) -> Result<InterfaceRequest, TunError> {
    if name.is_empty() || name.len() > NAME_LEN || name.bytes().any(|byte| byte == 0) {
        return Err(TunError::Name(name.to_owned()));
    }
    let mut request = InterfaceRequest { name: [0; NAME_LEN + 1], flags: 0, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    Ok(request)
}

fn set<const OPCODE: Opcode>(fd: BorrowedFd<'_>, request: InterfaceRequest) -> Result<(), Errno> {
    // SAFETY: TUNSETIFF and SIOCSIFFLAGS read a `struct ifreq`, for which `InterfaceRequest` has
    // size and layout; neither keeps the pointer.
    unsafe { ioctl(fd, Setter::<OPCODE, InterfaceRequest>::new(request)) }
}

fn number<const OPCODE: Opcode>(fd: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    // SAFETY: TUNSETVNETHDRSZ and TUNSETVNETLE read an `int`; neither keeps the pointer.
    unsafe { ioctl(fd, Setter::<OPCODE, i32>::new(number)) }
}

fn update<const OPCODE: Opcode>(
    fd: BorrowedFd<'_>,
    request: &mut InterfaceRequest,
) -> Result<(), Errno> {
    // SAFETY: SIOCGIFFLAGS and TUNGETIFF read and write a `struct ifreq`, for which
    // `InterfaceRequest` has size and layout; neither keeps the pointer.
    unsafe { ioctl(fd, Updater::<OPCODE, InterfaceRequest>::new(request)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_first() {
        for name in ["", "a-name-of-sixteen", "with\0nul"] {
            assert!(matches!(Tun::open(name), Err(TunError::Name(_))), "{name:?}");
        }
        assert_eq!(size_of::<InterfaceRequest>(), 40);
    }

    #[test]
    fn errors_name_the_remedy() {
        assert!(TunError::Missing("tun3".into()).to_string().contains("on-reboot.sh"));
        assert!(TunError::Busy("tun3".into()).to_string().starts_with("tun3 is held"));
    }
}
