//! How one balancer follows another: packet sockets and the control socket change hands. Frames wait in the
//! kernel's ring until the consumers have come over, so none is lost between the two.

use crate::log;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use capture::Handed;
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
    /// Sockets of its sources, by name.
    sources: HashMap<String, OwnedFd>,
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
        let source = |name: &String| Some((name.clone(), inherited.take(&source_name(name))?));
        let sources = interfaces.iter().filter_map(source).collect();
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
            let Some((number, name)) = message.split_first_chunk::<4>() else { continue };
            let number = u32::from_be_bytes(*number);
            let name = String::from_utf8_lossy(name).into_owned();
            match self.sources.remove(&name) {
                Some(descriptor) => {
                    handed.insert(name, Handed { descriptor, position: number });
                }
                None if name.is_empty() => consumers = usize::try_from(number).unwrap_or(0),
                None => {}
            }
        }
        Ok((handed, consumers))
    }
}

fn source_name(name: &str) -> String {
    format!("source {name}")
}

fn claim(inherited: &mut Inherited) -> Option<Claim> {
    Some(Claim { lock: inherited.take("lock")?, listener: inherited.take("control")? })
}

/// What the thread that serves a successor asks of the main thread, which has the server.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Leave the control socket to the successor, or take it back.
    Leave(bool),
    /// End, and hand the sources over to the sender.
    End(Sender<(String, u32)>, Sender<usize>),
}

/// Waits for a successor on a thread of its own; its wishes come out.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn wait(
    cluster: u32,
    claim: Claim,
    sources: Vec<(String, OwnedFd)>,
) -> io::Result<Receiver<Wish>> {
    let mut offered = vec![("lock".to_owned(), claim.lock), ("control".to_owned(), claim.listener)];
    offered.extend(sources.into_iter().map(|(name, socket)| (source_name(&name), socket)));
    let host = Host::bind(&socket(cluster), offered)?;
    let (tell, told) = channel();
    let serve = move || {
        while let Ok((channel, pid)) = host.wait() {
            match give(&channel, &tell, pid) {
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

fn give(channel: &Channel, tell: &Sender<Wish>, pid: u32) -> io::Result<()> {
    let gone = || io::Error::other("this process ends");
    steps::heed(channel, || drop(tell.send(Wish::Leave(true))))?;
    let (sources, handed) = std::sync::mpsc::channel();
    let (count, consumers) = std::sync::mpsc::channel();
    tell.send(Wish::End(sources, count)).map_err(|_| gone())?;
    let consumers = consumers.recv_timeout(THREADS).map_err(|_| gone())?;
    let number = u32::try_from(consumers).unwrap_or(u32::MAX);
    channel.send(&number.to_be_bytes(), &[])?;
    while let Ok((name, position)) = handed.recv_timeout(THREADS) {
        channel.send(&[&position.to_be_bytes()[..], name.as_bytes()].concat(), &[])?;
    }
    steps::stopped(channel)?;
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
