//! The nodes of the lab.

use std::process::Command;

/// A node: one network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Node {
    /// The user behind censorship.
    Client,
    /// Access router.
    Isp,
    /// The wire with the tap: a switch without addresses.
    Tap,
    /// Router of the rest of the internet; phantom prefixes end here in silence.
    Inet,
    /// Decoy web server and covert.
    Decoy,
    /// The station's host.
    Station,
}

impl Node {
    /// Every node.
    pub const ALL: [Self; 6] =
        [Self::Client, Self::Isp, Self::Tap, Self::Inet, Self::Decoy, Self::Station];

    /// Name of the node and of its namespace.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Isp => "isp",
            Self::Tap => "tap",
            Self::Inet => "inet",
            Self::Decoy => "decoy",
            Self::Station => "station",
        }
    }

    /// A command that runs `program` on this node.
    pub fn command(self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name())).arg("--").arg(program);
        command
    }

    /// Moves the calling thread, and the sockets that it opens from now on, to this node.
    ///
    /// # Errors
    /// When there is no such node, or the system refuses.
    pub fn enter(self) -> std::io::Result<()> {
        use std::os::fd::AsFd;
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.name()))?;
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))?;
        Ok(())
    }

    /// Runs `work` in a thread that has entered this node, and returns what it returns; a socket
    /// that it opened stays on the node.
    ///
    /// # Errors
    /// When the node cannot be entered, or `work` fails.
    pub fn run<T: Send>(
        self,
        work: impl FnOnce() -> std::io::Result<T> + Send,
    ) -> std::io::Result<T> {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| self.enter().and_then(|()| work()));
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
