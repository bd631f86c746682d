//! A service manager as far as a daemon meets it, for the tests of daemons: it hears what is said on
//! `NOTIFY_SOCKET`, keeps the descriptors that a process stores, and passes them to the next one.

use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

/// First descriptor that is passed.
const FIRST: i32 = 3;
/// Copies are made from this number on, so that none is where another is to be.
const ASIDE: i32 = 100;
/// How often is looked at the clock while nothing is said.
const LOOK: Duration = Duration::from_millis(200);

/// The manager of one service.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    stored: Vec<(String, OwnedFd)>,
}

impl Manager {
    /// A manager that is told things at `path`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::bind(path)?;
        socket.set_read_timeout(Some(LOOK))?;
        Ok(Self { socket, path: path.to_owned(), stored: Vec::new() })
    }

    /// Names of the descriptors that it keeps, in the order in which they came.
    pub fn names(&self) -> Vec<&str> {
        self.stored.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Hears messages until one has a line that begins with `wanted`, for at most `limit`; the whole
    /// message.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when nobody says it.
    pub fn hear(&mut self, wanted: &str, limit: Duration) -> io::Result<String> {
        let start = Instant::now();
        while start.elapsed() < limit {
            let text = match self.receive() {
                Ok(text) => text,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock) => continue,
                Err(error) => return Err(error),
            };
            if text.lines().any(|line| line.starts_with(wanted)) {
                return Ok(text);
            }
        }
        let text = format!("{wanted} was not said within {limit:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    }

    /// One message; what it stores or takes back is noted.
    fn receive(&mut self) -> io::Result<String> {
        let mut buffer = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [io::IoSliceMut::new(&mut buffer)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let length = rustix::net::recvmsg(&self.socket, &mut parts, &mut ancillary, flags)?.bytes;
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                descriptors.extend(passed);
            }
        }
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if let Some(name) = text.lines().find_map(|line| line.strip_prefix("FDNAME=")) {
            if text.lines().any(|line| line == "FDSTOREREMOVE=1") {
                self.stored.retain(|(stored, _)| stored != name);
            }
            self.stored.extend(descriptors.into_iter().map(|one| (name.to_owned(), one)));
        }
        Ok(text)
    }

    /// A command that runs `program` as this service: it is told where to say things, and gets what is
    /// kept. The copies live as long as the command.
    ///
    /// # Errors
    /// When there are no descriptors left.
    #[allow(unsafe_code)]
    pub fn command(&self, program: &Path) -> io::Result<Command> {
        let mut command = Command::new("sh");
        // The shell knows the process id that has to be named.
        let script = "export LISTEN_PID=$$; exec \"$0\" \"$@\"";
        command.args(["-c", script]).arg(program).env("NOTIFY_SOCKET", &self.path);
        command.env("LISTEN_FDS", self.stored.len().to_string());
        command.env("LISTEN_FDNAMES", self.names().join(":"));
        let mut copies = Vec::new();
        for (_, stored) in &self.stored {
            copies.push(rustix::io::fcntl_dupfd_cloexec(stored.as_fd(), ASIDE)?);
        }
        let place = move || {
            for (number, copy) in (FIRST..).zip(&copies) {
                // SAFETY: never dropped, so never closed; whatever had the number in the child is replaced.
                let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
                rustix::io::dup2(copy, &mut place)?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec it makes one system call per descriptor and allocates nothing.
        unsafe { command.pre_exec(place) };
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn descriptors_are_kept_and_passed_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut manager = Manager::bind(&dir.path().join("notify")).unwrap();
        let speaker = UnixDatagram::unbound().unwrap();
        speaker.connect(dir.path().join("notify")).unwrap();
        let mut ends = Vec::new();
        for name in ["one", "two", "three"] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let message = format!("FDSTORE=1\nFDNAME={name}");
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
            let passed = [theirs.as_fd()];
            assert!(ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&passed)));
            let parts = [io::IoSlice::new(message.as_bytes())];
            let flags = rustix::net::SendFlags::empty();
            rustix::net::sendmsg(&speaker, &parts, &mut ancillary, flags).unwrap();
            ends.push(ours);
        }
        speaker.send(b"FDSTOREREMOVE=1\nFDNAME=two").unwrap();
        speaker.send(b"READY=1\nSTATUS=well").unwrap();
        let ready = manager.hear("READY=1", Duration::from_secs(10)).unwrap();
        assert!(ready.contains("STATUS=well"));
        assert_eq!(manager.names(), ["one", "three"]);
        let mut command = manager.command(Path::new("sh")).unwrap();
        command.args(["-c", "echo one >&3; echo \"$LISTEN_FDNAMES $$ $LISTEN_PID\" >&4"]);
        assert!(command.status().unwrap().success());
        drop((command, manager));
        let said = ends.into_iter().map(|mut end| {
            let mut text = String::new();
            end.read_to_string(&mut text).unwrap();
            text
        });
        let said: Vec<String> = said.collect();
        assert_eq!((&*said[0], &*said[1]), ("one\n", ""));
        let words: Vec<&str> = said[2].split_whitespace().collect();
        assert_eq!(words[0], "one:three");
        assert_eq!(words[1], words[2], "the process that is named is the one that runs");
    }
}
