//! Why a queue cannot be served or attached.

use std::path::PathBuf;

use crate::abi::HeaderError;

/// Why the balancer's side cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Sizes that the layout does not allow.
    #[error("impossible queue layout: {0}")]
    Layout(#[from] HeaderError),
    /// More queues than a holder mask has bits.
    #[error("{0} queues over all sets; at most {max} are possible", max = crate::abi::MAX_QUEUES)]
    TooManyQueues(usize),
    /// Another balancer holds the cluster.
    #[error(
        "cluster {cluster} is in use by process {pid} ({path}); stop it or choose another cluster with -c"
    )]
    InUse {
        /// Cluster number.
        cluster: u32,
        /// Process id that the holder wrote into the lock file; 0 when unreadable.
        pid: u32,
        /// The lock file.
        path: PathBuf,
    },
    /// A file or socket of the control folder cannot be made.
    #[error("{path}: {source}; check that the folder named by CJ_IPC_DIR exists and is writable")]
    Socket {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Shared memory cannot be had.
    #[error("{len} bytes of shared memory for {what}: {source}")]
    Memory {
        /// What for.
        what: &'static str,
        /// How much.
        len: usize,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Why a consumer is not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No balancer listens.
    #[error("no zbalance at {path}: {source}")]
    NoServer {
        /// The control socket.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The balancer does not speak a common version.
    #[error("zbalance refuses version {abi} of the queue protocol: {text}")]
    Version {
        /// Our version.
        abi: u16,
        /// The balancer's words.
        text: String,
    },
    /// The queue does not exist.
    #[error("zbalance has no such queue: {0}")]
    NoSuchQueue(String),
    /// Somebody else consumes the queue.
    #[error("queue is consumed by process {pid}: {text}")]
    Busy {
        /// The holder; 0 when it lives in another PID namespace.
        pid: u32,
        /// The balancer's words.
        text: String,
    },
    /// The balancer knows no mirrors.
    #[error("this zbalance cannot show packets to a second reader: upgrade it")]
    NoMirrors,
    /// The balancer is stopping.
    #[error("zbalance is stopping: {0}")]
    Draining(String),
    /// The balancer does not accept this user.
    #[error("zbalance does not accept this user: {0}")]
    NotPermitted(String),
    /// The answer cannot be understood.
    #[error("zbalance answered with {0}")]
    Protocol(&'static str),
    /// The queue region is not what it should be.
    #[error("queue region: {0}")]
    Region(#[from] HeaderError),
    /// A system call failed.
    #[error("attaching: {0}")]
    System(#[from] std::io::Error),
}

impl From<rustix::io::Errno> for AttachError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::System(errno.into())
    }
}
