//! Daemons under `station run`: its supervisor starts the successor, as it started the old process.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::ValueEnum;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, unix::OwnedWriteHalf};
use tokio::sync::mpsc;

use super::READY;
use crate::daemons::Daemon;

/// Name of the supervisor's socket.
const SOCKET: &str = "station.upgrade.sock";
/// Longest request.
const MAX_LINE: u64 = 256;

/// What the supervisor is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) daemon: Daemon,
    /// Seconds that the old process may live on.
    pub(crate) drain: u64,
}

impl FromStr for Request {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (name, drain) = text.trim().split_once(' ').ok_or(())?;
        let daemon = Daemon::from_str(name, false).map_err(drop)?;
        Ok(Self { daemon, drain: drain.parse().map_err(drop)? })
    }
}

/// Asks the supervisor behind the socket in `dir`, if there is one: the new process, or what went wrong.
pub(super) fn ask(dir: &Path, daemon: Daemon, drain: u64) -> Option<Result<u32, String>> {
    let mut stream = UnixStream::connect(dir.join(SOCKET)).ok()?;
    let exchange = |stream: &mut UnixStream| -> io::Result<String> {
        stream.set_read_timeout(Some(READY * 2))?;
        writeln!(stream, "{} {drain}", daemon.name())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line.trim().to_owned())
    };
    Some(match exchange(&mut stream) {
        Ok(line) => line.parse().map_err(|_| line),
        Err(error) => Err(format!("the supervisor does not answer: {error}")),
    })
}

/// The supervisor's end.
pub(crate) struct Desk {
    listener: UnixListener,
    path: PathBuf,
}

impl Desk {
    /// Opens the socket in `dir`, mode 0600.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Serves it for as long as the requests are taken; the answer to each goes to its writer.
    pub(crate) fn serve(self) -> mpsc::Receiver<(Request, OwnedWriteHalf)> {
        let (tell, told) = mpsc::channel(4);
        tokio::spawn(async move { while tell.send(self.next().await).await.is_ok() {} });
        told
    }

    async fn next(&self) -> (Request, OwnedWriteHalf) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            };
            let (read, mut write) = stream.into_split();
            let mut line = String::new();
            let mut reader =
                tokio::io::BufReader::new(tokio::io::AsyncReadExt::take(read, MAX_LINE));
            let limit = std::time::Duration::from_secs(1);
            let heard = tokio::time::timeout(limit, reader.read_line(&mut line)).await;
            match (heard, line.parse()) {
                (Ok(Ok(_)), Ok(request)) => return (request, write),
                // Whoever asks for something else gets an answer, if it still listens.
                _ => drop(write.write_all(b"expected: DAEMON SECONDS\n").await),
            }
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_a_daemon_and_a_time() {
        let request = Request { daemon: Daemon::Application, drain: 60 };
        assert_eq!("application 60\n".parse(), Ok(request));
        for odd in ["", "application", "nobody 60", "application soon"] {
            assert_eq!(odd.parse::<Request>(), Err(()), "{odd}");
        }
    }
}
