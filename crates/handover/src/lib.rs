//! Hands the sockets and devices of a daemon to its successor (`spec/operations.md` 15,
//! `spec/ingest.md` 10.5), so that no connection is refused while a daemon is replaced.
//!
//! Descriptors come in two ways. A service manager keeps copies of them (`FDSTORE=1`) and passes them
//! to the next process ([`store`], [`Inherited::of_manager`]). Or the next process starts beside the old one
//! and asks for them over a Unix socket: [`take_over`] at the new one, [`Host`] at the old one. The
//! conversation that follows is the daemon's own; when the new process is ready, the old one stops
//! accepting and lives on until what it holds has ended.
#![deny(unsafe_code)]

mod channel;
pub mod group;
mod host;
mod inherited;
pub mod manager;
pub mod steps;
mod store;

pub use channel::{Channel, MAX_MESSAGE};
pub use host::{Host, socket_path};
pub use inherited::Inherited;
pub use store::store;

use std::path::{Path, PathBuf};

/// First words of a conversation; the number is the version of the protocol.
const HELLO: &[u8] = b"conjure-handover 1";

/// Why nothing could be taken over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// There is nobody to take over from.
    #[error(
        "--take-over: no running {daemon} answers at {path}: {source}; start it without --take-over"
    )]
    NoPredecessor {
        /// Name of the daemon.
        daemon: String,
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The conversation broke off.
    #[error("--take-over: the running daemon broke off: {0}")]
    Broken(#[from] std::io::Error),
    /// The predecessor speaks another version.
    #[error("--take-over: the running daemon speaks another version; restart it instead")]
    Version,
}

/// Asks the running `daemon` behind `path` for its descriptors, and returns them with the
/// conversation that goes on.
///
/// # Errors
/// [`HandoverError`] when nobody is there or something else answers.
pub fn take_over(daemon: &str, path: &Path) -> Result<(Inherited, Channel), HandoverError> {
    let channel = Channel::connect(path).map_err(|source| HandoverError::NoPredecessor {
        daemon: daemon.to_owned(),
        path: path.to_owned(),
        source,
    })?;
    channel.send(HELLO, &[])?;
    let mut inherited = Inherited::default();
    loop {
        let (text, descriptors) = channel.receive()?;
        if text == b"end" {
            return Ok((inherited, channel));
        }
        let names = String::from_utf8(text).map_err(|_| HandoverError::Version)?;
        let names: Vec<&str> = names.lines().collect();
        if names.len() != descriptors.len() {
            return Err(HandoverError::Version);
        }
        for (name, descriptor) in names.into_iter().zip(descriptors) {
            inherited.insert(name, descriptor);
        }
    }
}
