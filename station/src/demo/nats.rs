//! The NATS server of a demo whose registrations go over NATS.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use lab::Node;

use super::READY;
use super::files::Files;

/// Where registrar and application find it.
pub(crate) const URL: &str = "nats://127.0.0.1:4222";

/// A server on the station's node.
#[derive(Debug)]
pub(crate) struct Server(Child);

impl Server {
    /// Starts the server and waits until it answers.
    pub(crate) fn start(files: &Files) -> Result<Self, String> {
        let child = Node::Station
            .command("nats-server")
            .args(["-a", "127.0.0.1", "-p", "4222", "-js", "-sd"])
            .arg(files.path("nats"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("nats-server: {e}; install it: apt-get install nats-server"))?;
        let server = Self(child);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 4222));
        let start = Instant::now();
        while Node::Station.run(|| TcpStream::connect(address)).is_err() {
            if start.elapsed() > READY {
                return Err(format!("nats-server does not answer at {address}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        println!("nats-server: registrations go over {URL}");
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
