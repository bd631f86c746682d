//! The listeners of the phantom port. The kernel spreads connections over them, and each of the threads
//! that serve connections has its own (`spec/application.md` 21.2).
//!
//! A connection that waits at a listener is lost with it, so a listener is never closed while the port
//! is open: a successor takes all of them, however many it would have made itself.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use handover::{Inherited, group};
use socket2::SockRef;

use crate::listener;

/// Listeners at most: a service manager keeps them all, beside the other descriptors.
pub const MOST: usize = 32;

/// Listeners that share an address; at least one.
#[derive(Debug)]
pub struct Group {
    listeners: Vec<TcpListener>,
}

impl Group {
    /// Listens on `address` alone. Nobody else may listen there yet.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        // Without SO_REUSEPORT: a second application on this address is an error and not a share.
        Ok(Self { listeners: vec![listener::listen(address)?] })
    }

    /// What was inherited of a group; `None` without any.
    ///
    /// # Errors
    /// When a socket has failed.
    pub fn inherited(listeners: Vec<TcpListener>) -> io::Result<Option<Self>> {
        for listener in &listeners {
            listener.set_nonblocking(true)?;
        }
        Ok((!listeners.is_empty()).then_some(Self { listeners }))
    }

    /// Adds listeners until there are `count`. Connections come to them from then on, so whoever calls
    /// this accepts at once.
    ///
    /// # Errors
    /// When no more can be added, because the listeners that are there belong to another user for instance.
    /// What is there is good.
    pub fn grow_to(&mut self, count: usize) -> io::Result<()> {
        let address = self.address()?;
        // An application without groups may have been here in between.
        group::spread(&self.listeners[0])?;
        if self.listeners.len() < count {
            for listener in &self.listeners {
                SockRef::from(listener).set_reuse_port(true)?;
            }
        }
        while self.listeners.len() < count {
            self.listeners.push(listener::join(address)?);
        }
        Ok(())
    }

    /// Listeners that there are.
    pub fn size(&self) -> usize {
        self.listeners.len()
    }

    /// Where they listen.
    ///
    /// # Errors
    /// When the socket has failed.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listeners[0].local_addr()
    }

    /// Which of `threads` accepts from which listener. With more listeners than threads a thread has
    /// several; with fewer, threads share one.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn shares(&self, threads: usize) -> io::Result<Vec<Share>> {
        let share = |turn: usize| {
            let listener = turn % self.size();
            let socket = self.listeners[listener].try_clone()?;
            Ok(Share { thread: turn % threads, listener, socket })
        };
        (0..threads.max(self.size())).map(share).collect()
    }

    /// Copies for a successor, by name.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn copies(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let copy = |(n, one): (usize, &TcpListener)| Ok((name(n), one.try_clone()?.into()));
        self.listeners.iter().enumerate().map(copy).collect()
    }

    /// Leaves the port to a successor that knows only of the first listener. Few connections come to the
    /// others after this: those whose handshake is under way.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn leave_to_first(&self) -> io::Result<()> {
        group::steer_to_first(&self.listeners[0])
    }
}

/// A listener for a thread.
#[derive(Debug)]
pub struct Share {
    /// Number of the thread.
    pub thread: usize,
    /// Number of the listener.
    pub listener: usize,
    /// The listener.
    pub socket: TcpListener,
}

/// Takes every listener out of `inherited`.
pub fn take(inherited: &mut Inherited) -> Vec<TcpListener> {
    (0..MOST).filter_map(|n| inherited.take(&name(n))).map(TcpListener::from).collect()
}

/// Name of listener `number`; the first has the one that it had when there was only one.
fn name(number: usize) -> String {
    match number {
        0 => "tcp".to_owned(),
        number => format!("tcp.{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    /// Connections that wait at each listener.
    fn waiting(group: &Group) -> Vec<usize> {
        let count = |one: &TcpListener| std::iter::from_fn(|| one.accept().ok()).count();
        group.listeners.iter().map(count).collect()
    }

    /// Connections that nobody has accepted yet.
    fn with_clients(group: &Group, connections: usize) -> Vec<TcpStream> {
        let address = group.address().unwrap();
        (0..connections).map(|_| TcpStream::connect(address).unwrap()).collect()
    }

    #[test]
    fn connections_spread_over_all_listeners() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let mut group = Group::open(address.parse().unwrap()).unwrap();
            // What waits already stays, and what was accepted before is no obstacle.
            let early = with_clients(&group, 2);
            let _accepted = group.listeners[0].accept().unwrap();
            group.grow_to(4).unwrap();
            let late = with_clients(&group, 100);
            let waiting = waiting(&group);
            assert_eq!(waiting.iter().sum::<usize>(), early.len() - 1 + late.len(), "{waiting:?}");
            assert!(waiting.iter().all(|&n| n > 0), "{waiting:?}");
        }
    }

    #[test]
    fn steered_connections_come_to_the_first_until_the_group_is_taken_over() {
        let mut group = Group::open("127.0.0.1:0".parse().unwrap()).unwrap();
        group.grow_to(4).unwrap();
        group.leave_to_first().unwrap();
        let _clients = with_clients(&group, 50);
        assert_eq!(waiting(&group), [50, 0, 0, 0]);
        group.listeners.truncate(1);
        group.grow_to(3).unwrap();
        let _clients = with_clients(&group, 60);
        let waiting = waiting(&group);
        assert!(waiting.iter().all(|&n| n > 0) && waiting.len() == 3, "{waiting:?}");
    }

    #[test]
    fn nobody_else_gets_a_share() {
        let mut group = Group::open("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = group.address().unwrap();
        for _ in 0..2 {
            let error = Group::open(address).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            group.grow_to(2).unwrap();
        }
    }

    #[test]
    fn every_listener_has_a_thread_and_every_thread_a_listener() {
        let mut group = Group::open("127.0.0.1:0".parse().unwrap()).unwrap();
        let shares = |group: &Group, threads| {
            let shares = group.shares(threads).unwrap();
            shares.iter().map(|share| (share.thread, share.listener)).collect::<Vec<_>>()
        };
        assert_eq!(shares(&group, 3), [(0, 0), (1, 0), (2, 0)]);
        group.grow_to(5).unwrap();
        assert_eq!(shares(&group, 5), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]);
        assert_eq!(shares(&group, 2), [(0, 0), (1, 1), (0, 2), (1, 3), (0, 4)]);
        let names: Vec<String> =
            group.copies().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["tcp", "tcp.1", "tcp.2", "tcp.3", "tcp.4"]);
    }
}
