//! Packets that come from PF_RING instead of a queue of ours: from a queue of a ZC cluster, as the reference's
//! detector takes them, or from an interface that the kernel's module captures from (`spec/ingest.md` 4 to 6).

#[cfg(feature = "pfring")]
mod interface;
#[cfg(feature = "pfring")]
mod queue;

use crate::arguments::Arguments;
use crate::crew::OpenSource;
use crate::daemon::Failure;
use sandbox::{Capability, Sandbox};
use telemetry::process::Exit;

/// What a worker reads through PF_RING's library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A queue of a ZC cluster.
    Queue {
        /// The cluster.
        cluster: u32,
        /// The queue of the only worker; otherwise each has that of its own number.
        queue: Option<u32>,
        /// Queues of our own balancer are as good, whichever are there first.
        either: bool,
    },
    /// An interface without ZC.
    Interface(String),
}

impl Input {
    /// What the source `text` names: `zc:CLUSTER`, `zc:CLUSTER@QUEUE` or `pfring:INTERFACE`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(interface) = text.strip_prefix("pfring:") {
            return (!interface.is_empty()).then(|| Self::Interface(interface.to_owned()));
        }
        let name = text.strip_prefix("zc:")?;
        let (cluster, queue) = match name.split_once('@') {
            Some((cluster, queue)) => (cluster, Some(queue.parse().ok()?)),
            None => (name, None),
        };
        Some(Self::Queue { cluster: cluster.parse().ok()?, queue, either: false })
    }

    /// Whether several workers can share it.
    pub const fn is_shared(&self) -> bool {
        !matches!(self, Self::Queue { queue: Some(_), .. })
    }
}

/// Decides whether the workers read through PF_RING: when the command line says so it has to work; when only the
/// configuration does (`CJ_INGEST_BACKEND=pfring`), queues of our own balancer do as well, and the reason is said.
pub(crate) fn choose(arguments: &mut Arguments) -> Result<(), Failure> {
    let configured = std::env::var_os("CJ_INGEST_BACKEND").is_some_and(|value| value == "pfring");
    match (&arguments.pf_ring, arguments.cluster) {
        (Some(_), _) => {
            let unusable = |reason| Failure::new(Exit::Unavailable, reason);
            check(arguments.pf_ring.as_ref(), arguments.cluster).map_err(unusable)
        }
        (None, Some(cluster)) if configured && arguments.source.is_none() => {
            let input = Input::Queue { cluster, queue: None, either: true };
            match check(Some(&input), None) {
                Ok(()) => arguments.pf_ring = Some(input),
                Err(reason) => {
                    let text = format!("cluster {cluster}: not PF_RING: {reason}");
                    arguments.notices.push(text);
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Whether the library is there for this input, and an interface can be opened, as a member of `cluster`.
#[cfg(feature = "pfring")]
fn check(input: Option<&Input>, cluster: Option<u32>) -> Result<(), String> {
    match input {
        Some(Input::Queue { .. }) => {
            pfring::Library::load().map(drop).map_err(|error| error.to_string())
        }
        Some(Input::Interface(name)) => pfring::Ring::open(name, cluster.unwrap_or_default())
            .map(drop)
            .map_err(|error| error.to_string()),
        None => Ok(()),
    }
}

#[cfg(not(feature = "pfring"))]
fn check(_: Option<&Input>, _: Option<u32>) -> Result<(), String> {
    Err("this detector was built without PF_RING (cargo build --features pfring)".to_owned())
}

/// How the worker of `queue` opens its input.
#[cfg(feature = "pfring")]
pub(crate) fn opener(arguments: &Arguments, input: &Input, queue: usize) -> Box<OpenSource> {
    let number = u32::try_from(queue).unwrap_or(u32::MAX);
    match input {
        Input::Queue { cluster, queue: named, either } => {
            let (cluster, queue, either) = (*cluster, named.unwrap_or(number), *either);
            let spin = !arguments.allow_unpinned;
            Box::new(move || queue::open(cluster, queue, either.then_some(spin)))
        }
        Input::Interface(name) => {
            // The reference's cluster id is that of the command line.
            let (name, cluster) = (name.clone(), arguments.cluster.unwrap_or_default());
            Box::new(move || interface::open(&name, cluster))
        }
    }
}

#[cfg(not(feature = "pfring"))]
pub(crate) fn opener(_: &Arguments, input: &Input, _: usize) -> Box<OpenSource> {
    let input = input.clone();
    Box::new(move || {
        check(Some(&input), None).map_err(std::io::Error::other)?;
        Err(std::io::ErrorKind::Unsupported.into())
    })
}

/// What the library takes, as far as the process has it, and the right to the station's folders, which are not root's.
pub(crate) fn allow(profile: Sandbox) -> Sandbox {
    let kept =
        [Capability::IpcLock, Capability::NetAdmin, Capability::NetRaw, Capability::DacOverride];
    kept.into_iter().fold(profile.closed_library("PF_RING's library"), Sandbox::keep)
}

/// Pauses of a reader whose library has nothing to wait on.
#[cfg(feature = "pfring")]
struct Naps {
    end: std::time::Instant,
    next: std::time::Duration,
}

#[cfg(feature = "pfring")]
impl Naps {
    /// First and longest one.
    const LENGTHS: (std::time::Duration, std::time::Duration) =
        (std::time::Duration::from_micros(50), std::time::Duration::from_micros(500));

    /// Pauses for at most `timeout` together.
    fn within(timeout: std::time::Duration) -> Self {
        Self { end: std::time::Instant::now() + timeout, next: Self::LENGTHS.0 }
    }

    /// Takes one; false when the time is over.
    fn take(&mut self) -> bool {
        if std::time::Instant::now() >= self.end {
            return false;
        }
        std::thread::sleep(self.next);
        self.next = (self.next * 2).min(Self::LENGTHS.1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let queue = |queue| Some(Input::Queue { cluster: 98, queue, either: false });
        assert_eq!(Input::parse("zc:98"), queue(None));
        assert_eq!(Input::parse("zc:98@3"), queue(Some(3)));
        assert_eq!(Input::parse("pfring:eth1"), Some(Input::Interface("eth1".to_owned())));
        for text in ["zc:eth1", "zc:eth1@3", "zc:98@", "zc:98@x", "zc:", "98@3", "pfring:", "eth1"]
        {
            assert_eq!(Input::parse(text), None, "{text}");
        }
    }
}
