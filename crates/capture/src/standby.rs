//! What can be known of an interface, and kept ready for it, without reading its frames.

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use crate::OpenError;
use crate::afpacket::{AfPacket, index_of, packet_socket, promiscuous};

/// A packet socket that keeps an interface promiscuous and reads none of its frames, but can at any time:
/// that takes no privilege.
#[derive(Debug)]
pub struct Standby {
    socket: OwnedFd,
    interface: CString,
}

impl Standby {
    /// Makes `interface` promiscuous; with its index.
    ///
    /// # Errors
    /// When it does not exist or the process may not capture.
    pub(crate) fn join(interface: &str) -> Result<(Self, libc::c_int), OpenError> {
        let no_interface = || OpenError::NoInterface { interface: interface.to_owned() };
        let name = CString::new(interface).map_err(|_| no_interface())?;
        let index = index_of(&name).ok_or_else(no_interface)?;
        let failed = |what| move |cause| OpenError::of_system(interface, what, cause);
        let socket = packet_socket().map_err(failed("packet socket"))?;
        promiscuous(&socket, index).map_err(failed("promiscuous mode"))?;
        Ok((Self { socket, interface: name }, index))
    }

    /// The socket that [`Standby::descriptor`] gave, in another process.
    ///
    /// # Errors
    /// When `interface` is no name.
    pub(crate) fn of(socket: OwnedFd, interface: &str) -> Result<Self, OpenError> {
        let no_interface = |_| OpenError::NoInterface { interface: interface.to_owned() };
        Ok(Self { socket, interface: CString::new(interface).map_err(no_interface)? })
    }

    /// The socket.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads frames from now on.
    ///
    /// # Errors
    /// When there is no interface of this name now; the socket comes back.
    pub fn start(self) -> Result<AfPacket, (Self, io::Error)> {
        let Self { socket, interface } = self;
        let Some(index) = index_of(&interface) else {
            return Err((Self { socket, interface }, io::ErrorKind::NotFound.into()));
        };
        AfPacket::start(socket, interface, index)
            .map_err(|(socket, interface, _, cause)| (Self { socket, interface }, cause))
    }

    /// Receive queues that the driver of the interface uses; 1 when it does not say.
    pub(crate) fn receive_queues(&self) -> u32 {
        const GET_CHANNELS: u32 = 0x3c;
        #[repr(C)]
        #[derive(Default)]
        struct Channels {
            command: u32,
            most: [u32; 4],
            receive: u32,
            send: u32,
            other: u32,
            combined: u32,
        }
        let mut channels = Channels { command: GET_CHANNELS, ..Channels::default() };
        match self.driver(&mut channels) {
            true => (channels.receive + channels.combined).max(1),
            false => 1,
        }
    }

    /// Name of the driver of the interface; empty when it does not say.
    pub(crate) fn driver_name(&self) -> String {
        const GET_DRIVER: u32 = 3;
        #[repr(C)]
        struct Driver {
            command: u32,
            name: [u8; 32],
            rest: [u8; 160],
        }
        let mut driver = Driver { command: GET_DRIVER, name: [0; 32], rest: [0; 160] };
        if !self.driver(&mut driver) {
            return String::new();
        }
        let name = driver.name.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    }

    /// Hardware address of the interface.
    pub(crate) fn address(&self) -> io::Result<[u8; 6]> {
        let mut request = self.request();
        // SAFETY: the request is a structure of the call's size, which outlives it.
        let result =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has filled this variant in.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr }.sa_data;
        Ok(std::array::from_fn(|n| address[n] as u8))
    }

    /// Whether the driver takes VLAN tags out of the frames it receives.
    pub(crate) fn strips_vlans(&self) -> bool {
        const GET_FLAGS: u32 = 0x25;
        const STRIPS: u32 = 1 << 8;
        let mut question = [GET_FLAGS, 0];
        self.driver(&mut question) && question[1] & STRIPS != 0
    }

    /// Asks the driver; `question` is the structure of the command that it begins with.
    fn driver<T>(&self, question: &mut T) -> bool {
        let mut request = self.request();
        request.ifr_ifru.ifru_data = ptr::from_mut(question).cast();
        // SAFETY: the request names a structure of the command's size, which outlives the call.
        let result =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        result == 0
    }

    /// A request about the interface.
    fn request(&self) -> libc::ifreq {
        // SAFETY: all-zero is a valid value of this plain structure.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        // The last byte stays zero.
        for (to, from) in request.ifr_name.iter_mut().take(15).zip(self.interface.as_bytes()) {
            *to = *from as libc::c_char;
        }
        request
    }
}
