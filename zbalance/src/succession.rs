//! How one balancer follows another: packet sockets and the control socket change hands. Frames wait in the
//! kernel's ring until the consumers have come over, so none is lost between the two.

use crate::log;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use capture::{Handed, Position};
use handover::{Channel, Host, Inherited, steps};
use shm::Claim;
use telemetry::admin;
use telemetry::process;

/// Time in which ingest threads come to the end of a block.
const THREADS: Duration = Duration::from_secs(5);

/// Where a successor asks for this process's sockets.
pub(crate) fn socket(cluster: u32) -> PathBuf {
    handover::socket_path(&admin::ipc_dir(), "zbalance", cluster)
}

/// The predecessor, as the new process meets it.
#[derive(Debug)]
pub(crate) struct Predecessor {
    channel: Channel,
    /// Lock and control socket.
    claim: Option<Claim>,
    /// What its sources have open, by name.
    sources: HashMap<String, Vec<OwnedFd>>,
}

impl Predecessor {
    /// Asks the running balancer of `cluster`; from now on consumers that come wait for this process.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn meet(
        cluster: u32,
        interfaces: &[String],
    ) -> Result<Self, handover::HandoverError> {
        let (mut inherited, channel) = handover::take_over("zbalance", &socket(cluster))?;
        steps::begin(&channel)?;
        let claim = claim(&mut inherited);
        let mut sources = HashMap::new();
        for name in interfaces {
            let descriptors: Vec<OwnedFd> =
                (0..).map_while(|n| inherited.take(&source_name(name, n))).collect();
            if !descriptors.is_empty() {
                sources.insert(name.clone(), descriptors);
            }
        }
        Ok(Self { channel, claim, sources })
    }

    pub(crate) fn take_claim(&mut self) -> Option<Claim> {
        self.claim.take()
    }

    /// Whether the source `name` comes from the old process.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.sources.contains_key(name)
    }

    /// Takes over: the sources, by name, and the number of consumers to wait for.
    ///
    /// # Errors
    /// When the old process breaks off.
    pub(crate) fn finish(mut self) -> io::Result<(HashMap<String, Handed>, usize)> {
        let mut handed = HashMap::new();
        let mut consumers = 0;
        for (message, _) in steps::ready(&self.channel)? {
            match Said::decode(&message) {
                Some(Said::Consumers(count)) => consumers = usize::try_from(count).unwrap_or(0),
                Some(Said::Position(name, position)) => {
                    if let Some(descriptors) = self.sources.remove(&name) {
                        handed.insert(name, Handed { descriptors, position });
                    }
                }
                // Its sources are opened anew.
                None => {}
            }
        }
        Ok((handed, consumers))
    }
}

/// Name of a descriptor of a source on its way.
fn source_name(name: &str, number: usize) -> String {
    format!("source {name} {number}")
}

/// What the old process says at its end.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// Number of its consumers.
    Consumers(u32),
    /// Where a source goes on.
    Position(String, Position),
}

impl Said {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Consumers(count) => [&[0][..], &count.to_be_bytes()].concat(),
            Self::Position(name, position) => {
                let name = name.as_bytes();
                // A name of an interface with its prefix, far shorter.
                let len = u8::try_from(name.len()).unwrap_or(u8::MAX);
                [&[len], &name[..usize::from(len)], &position.encode()].concat()
            }
        }
    }

    fn decode(message: &[u8]) -> Option<Self> {
        let (len, rest) = message.split_first()?;
        if *len == 0 {
            return Some(Self::Consumers(u32::from_be_bytes(rest.try_into().ok()?)));
        }
        let (name, position) = rest.split_at_checked(usize::from(*len))?;
        let name = String::from_utf8(name.to_vec()).ok()?;
        Some(Self::Position(name, Position::decode(position)?))
    }
}

fn claim(inherited: &mut Inherited) -> Option<Claim> {
    Some(Claim { lock: inherited.take("lock")?, listener: inherited.take("control")? })
}

/// What the thread that serves a successor asks of the main thread, which has the server.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Leave the control socket to the successor, or take it back.
    Leave(bool),
    /// End, and hand the sources over.
    End(Ending),
}

/// What the main thread says to the successor at its end. The process must not end before that was passed
/// on.
#[derive(Debug)]
pub(crate) struct Ending {
    consumers: Sender<usize>,
    positions: Sender<(String, Position)>,
    /// Ends with the conversation.
    passed_on: Receiver<()>,
}

impl Ending {
    /// Says how many consumers there are.
    pub(crate) fn count(&self, consumers: usize) {
        // The successor may have left meanwhile.
        let _ = self.consumers.send(consumers);
    }

    /// Says where the successor goes on with a source.
    pub(crate) fn hand_over(&self, name: String, position: Position) {
        // The successor is gone: then nobody goes on.
        let _ = self.positions.send((name, position));
    }

    /// Waits until all of it has reached the successor, or it is gone.
    pub(crate) fn finish(self) {
        drop(self.positions);
        // Nothing comes but the end.
        let _ = self.passed_on.recv();
    }
}

/// Waits for a successor on a thread of its own; its wishes come out.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn wait(
    cluster: u32,
    claim: Claim,
    sources: Vec<(String, Vec<OwnedFd>)>,
) -> io::Result<Receiver<Wish>> {
    let mut offered = vec![("lock".to_owned(), claim.lock), ("control".to_owned(), claim.listener)];
    for (name, descriptors) in sources {
        let named = |(n, fd)| (source_name(&name, n), fd);
        offered.extend(descriptors.into_iter().enumerate().map(named));
    }
    let host = Host::bind(&socket(cluster), offered)?;
    let (tell, told) = channel();
    let serve = move || {
        while let Ok((conversation, pid)) = host.wait() {
            match give(&conversation, &tell, pid) {
                Ok(()) => return,
                Err(error) => {
                    log::notice(format_args!(
                        "process {pid} wanted to take over and broke off: {error}"
                    ));
                    // The main thread is gone when this process ends anyway.
                    let _ = tell.send(Wish::Leave(false));
                }
            }
        }
    };
    std::thread::Builder::new().name("handover".to_owned()).spawn(serve)?;
    Ok(told)
}

fn give(conversation: &Channel, tell: &Sender<Wish>, pid: u32) -> io::Result<()> {
    let gone = || io::Error::other("this process ends");
    steps::heed(conversation, || drop(tell.send(Wish::Leave(true))))?;
    let (positions, handed) = channel();
    let (count, consumers) = channel();
    let (_passing, passed_on) = channel();
    let ending = Ending { consumers: count, positions, passed_on };
    tell.send(Wish::End(ending)).map_err(|_| gone())?;
    let consumers = consumers.recv_timeout(THREADS).map_err(|_| gone())?;
    let number = u32::try_from(consumers).unwrap_or(u32::MAX);
    conversation.send(&Said::Consumers(number).encode(), &[])?;
    while let Ok((name, position)) = handed.recv_timeout(THREADS) {
        conversation.send(&Said::Position(name, position).encode(), &[])?;
    }
    steps::stopped(conversation)?;
    process::notify(&format!("MAINPID={pid}"));
    Ok(())
}

/// When the ingest threads of a successor may begin: once as many consumers have come as the old process
/// had.
#[derive(Debug)]
pub(crate) struct Gathering {
    consumers: usize,
    until: Instant,
}

impl Gathering {
    pub(crate) fn new(consumers: usize) -> Self {
        Self { consumers, until: Instant::now() + Duration::from_secs(2) }
    }

    pub(crate) fn is_over(&self, attached: usize) -> bool {
        attached >= self.consumers || Instant::now() >= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_round_trips() {
        let names = ["xdp:tap0@3", "tap0"];
        let position = Position::decode(&[1, 0, 0, 0, 9]).unwrap();
        let positions = names.map(|name| Said::Position(name.to_owned(), position));
        for said in positions.into_iter().chain([Said::Consumers(40)]) {
            let bytes = said.encode();
            for len in 0..bytes.len() {
                assert_eq!(Said::decode(&bytes[..len]), None);
            }
            assert_eq!(Said::decode(&bytes), Some(said));
        }
    }
}
