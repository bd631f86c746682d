//! The sockets of a registrar: opened before it gives up its privileges, or taken from a predecessor.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use handover::Inherited;

use crate::api;
use crate::dns::Listeners;
use crate::setup::{Setup, StartError};

/// Names under which sockets are handed over and stored.
mod names {
    pub(super) const ZMQ: &str = "zmq";
    pub(super) const API: &str = "http";
    pub(super) const GRPC: &str = "grpc";
    pub(super) const ADMIN: &str = "admin-http";
    pub(super) const DNS: [&str; 2] = ["dns-udp", "dns-tcp"];
}

/// Every listening socket.
#[derive(Debug)]
pub struct Sockets {
    /// Where stations subscribe; `None` leaves it to the runtime, for a port that takes no privilege.
    pub(crate) zmq: Option<OwnedFd>,
    pub(crate) api: Option<TcpListener>,
    pub(crate) grpc: Option<TcpListener>,
    pub(crate) admin: Option<TcpListener>,
    pub(crate) dns: Option<Listeners>,
    /// A predecessor lives, and has the subscribers.
    pub(crate) succeeds: bool,
}

impl Sockets {
    /// Opens what `setup` asks for; what `inherited` has of it is used.
    ///
    /// # Errors
    /// [`StartError`] when a socket cannot be opened.
    pub fn open(setup: &Setup, inherited: &mut Inherited) -> Result<Self, StartError> {
        let (registrar, services) = (&setup.registrar, setup.services);
        let mut taken = |name: &str, address: Option<IpAddr>, port: u16| {
            let listener = TcpListener::from(inherited.take(name)?);
            fits(&listener, address, port).then_some(listener)
        };
        let api = (services.api || services.amp).then(|| {
            let (address, port) = (registrar.api_bind_addr, registrar.api_port);
            match taken(names::API, address, port) {
                Some(listener) => Ok(listener),
                None => {
                    api::listen(address, port).map_err(|source| StartError::Listen { port, source })
                }
            }
        });
        let mut listen = |name, key, address: SocketAddr| match taken(
            name,
            Some(address.ip()),
            address.port(),
        ) {
            Some(listener) => Ok(listener),
            None => api::listen(Some(address.ip()), address.port())
                .map_err(|source| StartError::Address { key, address, source }),
        };
        let grpc = registrar.grpc_listen_addr.filter(|_| services.api);
        let grpc = grpc.map(|address| listen(names::GRPC, "grpc_listen_addr", address));
        let admin = registrar.admin_listen_addr;
        let admin = admin.map(|address| listen(names::ADMIN, "admin_listen_addr", address));
        let dns = setup.responder.as_ref().map(|_| {
            let text = &registrar.dns_listen_addr;
            let pair = names::DNS.map(|name| inherited.take(name));
            let adopted = match pair {
                [Some(udp), Some(tcp)] => Listeners::adopt(text, udp, tcp),
                _ => None,
            };
            adopted.map_or_else(|| Listeners::open(text), Ok)
        });
        Ok(Self {
            zmq: zmq(registrar, inherited)?,
            api: api.transpose()?,
            grpc: grpc.transpose()?,
            admin: admin.transpose()?,
            dns: dns.transpose()?,
            succeeds: false,
        })
    }

    /// Copies of the sockets that this value holds, by name, for a successor.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub(crate) fn copies(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let [udp, tcp] = names::DNS;
        let all = [
            (names::API, self.api.as_ref().map(AsFd::as_fd)),
            (names::GRPC, self.grpc.as_ref().map(AsFd::as_fd)),
            (names::ADMIN, self.admin.as_ref().map(AsFd::as_fd)),
            (udp, self.dns.as_ref().map(|dns| dns.udp.as_fd())),
            (tcp, self.dns.as_ref().map(|dns| dns.tcp.as_fd())),
        ];
        let copy = |(name, descriptor): (&str, Option<std::os::fd::BorrowedFd<'_>>)| {
            Some(descriptor?.try_clone_to_owned().map(|copy| (name.to_owned(), copy)))
        };
        all.into_iter().filter_map(copy).collect()
    }
}

/// The name of the socket that stations subscribe to.
pub(crate) const ZMQ: &str = names::ZMQ;

/// The socket that stations subscribe to, when a predecessor had it or its port takes a privilege.
fn zmq(
    registrar: &conf::Registrar,
    inherited: &mut Inherited,
) -> Result<Option<OwnedFd>, StartError> {
    let port = registrar.zmq_port;
    let address = match registrar.zmq_bind_addr.as_str() {
        "*" => Some(Ipv4Addr::UNSPECIFIED.into()),
        text => text.parse().ok(),
    };
    if let Some(descriptor) = inherited.take(names::ZMQ) {
        let listener = TcpListener::from(descriptor);
        if address.is_some() && fits(&listener, address, port) {
            return Ok(Some(listener.into()));
        }
    }
    // The name of an interface is looked up in the runtime.
    let Some(address) = address.filter(|_| (1..1024).contains(&port)) else { return Ok(None) };
    let address = SocketAddr::new(address, port);
    let listener = api::listen(Some(address.ip()), port).map_err(|source| StartError::Address {
        key: "zmq_port",
        address,
        source,
    })?;
    Ok(Some(listener.into()))
}

/// Whether a socket listens where it should.
fn fits(listener: &TcpListener, address: Option<IpAddr>, port: u16) -> bool {
    let Ok(bound) = listener.local_addr() else { return false };
    let same_port = port == 0 || bound.port() == port;
    same_port && address.map_or(bound.ip().is_unspecified(), |address| bound.ip() == address)
}
