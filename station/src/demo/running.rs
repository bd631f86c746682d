//! The station of the demo: its own daemons, or some that a program brought up.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use lab::Node;

use super::files::Files;
use super::{READY, own};

/// A running station.
pub(super) enum Running {
    /// Four daemons under `station run`.
    Own(Child),
    /// What the program started; it knows how to stop it.
    Foreign {
        /// The program of `--start`.
        program: PathBuf,
        /// Folder of the demo's files.
        dir: PathBuf,
    },
}

impl Running {
    /// Starts the daemons and waits until they are ready.
    pub(super) fn start(files: &Files, verbose: bool) -> Result<Self, String> {
        let notify = files.path("notify");
        let ready = UnixDatagram::bind(&notify).map_err(|e| e.to_string())?;
        ready.set_read_timeout(Some(READY)).map_err(|e| e.to_string())?;
        let mut child = own(Node::Station)
            .args(["run", "--conf"])
            .arg(files.path("conjure.conf"))
            .env("NOTIFY_SOCKET", &notify)
            .stdout(Stdio::piped())
            .stderr(if verbose { Stdio::inherit() } else { log_file(files)? })
            .spawn()
            .map_err(|e| format!("station run: {e}"))?;
        let mut kept =
            std::fs::File::create(files.path("daemons.out")).map_err(|e| e.to_string())?;
        if let Some(out) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    // A full disk must not stop the demo.
                    let _ = writeln!(kept, "{line}");
                    if verbose || line.starts_with("station: ") {
                        println!("{line}");
                    }
                }
            });
        }
        if ready.recv(&mut [0; 64]).is_err() {
            let log = std::fs::read_to_string(files.path("daemons.log")).unwrap_or_default();
            return Err(format!("the station is not ready after {READY:?}\n{log}"));
        }
        Ok(Self::Own(child))
    }

    /// Lets `program` bring the daemons up; the demo's files are in `dir`.
    pub(super) fn by(program: &Path, dir: &Path) -> Result<Self, String> {
        let station = Self::Foreign { program: program.to_owned(), dir: dir.to_owned() };
        if station.call("start")? {
            return Ok(station);
        }
        // What came up half must not stay.
        let _ = station.call("stop");
        Err(format!("{} start: failed", program.display()))
    }

    /// Ends the daemons; false when the program that has to do it failed.
    pub(super) fn stop(self) -> Result<bool, String> {
        let mut child = match self {
            Self::Foreign { .. } => return self.call("stop"),
            Self::Own(child) => child,
        };
        let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // A station that is gone already is stopped.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = child.wait();
        Ok(true)
    }

    /// Runs the program of `--start` on the station's node.
    fn call(&self, action: &str) -> Result<bool, String> {
        let Self::Foreign { program, dir } = self else { return Ok(true) };
        let mut command = Node::Station.command(program);
        let status = command.arg(action).env("CONJURE_DEMO_DIR", dir).status();
        status.map(|s| s.success()).map_err(|e| format!("{}: {e}", program.display()))
    }
}

fn log_file(files: &Files) -> Result<Stdio, String> {
    let file = std::fs::File::create(files.path("daemons.log")).map_err(|e| e.to_string())?;
    Ok(file.into())
}
