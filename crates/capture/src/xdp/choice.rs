//! Whether an interface that may be read in any way is read through AF_XDP (`spec/ingest.md` 8.2).

use std::ffi::CStr;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::OpenError;
use crate::standby::Standby;

/// Why an interface is better read through `AF_PACKET`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgainstXdp {
    /// It is one end of a veth pair.
    Veth,
    /// It has an address, at which the host is reached.
    Address {
        /// The interface.
        interface: String,
        /// One of its addresses.
        address: String,
    },
}

impl std::fmt::Display for AgainstXdp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Veth => f.write_str("packets of a veth come at less cost that way"),
            Self::Address { interface, address } => write!(
                f,
                "it has the address {address}, and AF_XDP takes packets away from the host; \
                 xdp:{interface} does so all the same"
            ),
        }
    }
}

/// What speaks against AF_XDP for `interface`; `None` when it is to be tried. Nothing is changed.
///
/// # Errors
/// When the interface does not exist or the process may not capture.
pub fn against_xdp(interface: &str) -> Result<Option<AgainstXdp>, OpenError> {
    let (standby, _) = Standby::join(interface)?;
    if standby.driver_name() == "veth" {
        return Ok(Some(AgainstXdp::Veth));
    }
    let of_address = |address| AgainstXdp::Address { interface: interface.to_owned(), address };
    Ok(address_of(interface).map(of_address))
}

/// An address of the interface that the host may be reached at.
fn address_of(interface: &str) -> Option<String> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the pointer is valid; the list is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return None;
    }
    let mut found = None;
    let mut next = list;
    // SAFETY: each entry of the list is valid until it is freed.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: a terminated string of the entry.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) };
        if found.is_none() && name.to_bytes() == interface.as_bytes() {
            found = usable(entry.ifa_addr);
        }
    }
    // SAFETY: made by getifaddrs, and nothing refers to it any more.
    unsafe { libc::freeifaddrs(list) };
    found
}

/// The address, unless it is one that every interface has.
fn usable(address: *const libc::sockaddr) -> Option<String> {
    // SAFETY: null, or an address of the list, whose family says what it is.
    let family = unsafe { address.as_ref() }?.sa_family;
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: of this family, so of this type.
            let address = unsafe { *address.cast::<libc::sockaddr_in>() };
            Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).to_string())
        }
        libc::AF_INET6 => {
            // SAFETY: of this family, so of this type.
            let address = unsafe { *address.cast::<libc::sockaddr_in6>() };
            let address = Ipv6Addr::from(address.sin6_addr.s6_addr);
            (!address.is_unicast_link_local()).then(|| address.to_string())
        }
        _ => None,
    }
}
