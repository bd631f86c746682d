//! The Redis server of a demo whose sessions go over Redis.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lab::Node;

use super::READY;
use super::files::Files;

/// Where application and detector find it.
pub(crate) const URL: &str = "redis://127.0.0.1:6379/";
const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 6379);
/// Pause before a server that ended is started again.
const PAUSE: Duration = Duration::from_millis(20);

/// A server on the station's node; one that dies is started again.
#[derive(Debug)]
pub(crate) struct Supervised {
    child: Arc<Mutex<Child>>,
    stop: Arc<AtomicBool>,
}

impl Supervised {
    /// Starts the server and waits until it answers.
    pub(crate) fn start(files: &Files) -> Result<Self, String> {
        let pidfile = files.path("redis.pid");
        let dir = files.path("");
        let server = move || -> Command {
            let mut command = Node::Station.command("redis-server");
            command
                .args(["--bind", "127.0.0.1", "--port", "6379", "--save", ""])
                .arg("--dir")
                .arg(&dir)
                .arg("--pidfile")
                .arg(&pidfile)
                .stdout(Stdio::null());
            command
        };
        let child = server()
            .spawn()
            .map_err(|e| format!("redis-server: {e}; install it: apt-get install redis-server"))?;
        let redis = Self { child: Arc::new(Mutex::new(child)), stop: Arc::default() };
        let start = Instant::now();
        while Node::Station.run(|| TcpStream::connect(ADDRESS)).is_err() {
            if start.elapsed() > READY {
                return Err(format!("redis-server does not answer at {ADDRESS}"));
            }
            std::thread::sleep(PAUSE);
        }
        println!("redis-server: sessions go over {URL}");
        let (child, stop) = (Arc::clone(&redis.child), Arc::clone(&redis.stop));
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(PAUSE);
                let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(Some(status)) = child.try_wait() {
                    println!("redis-server: ended ({status})");
                    match server().spawn() {
                        Ok(again) => *child = again,
                        Err(error) => println!("redis-server: {error}"),
                    }
                }
            }
        });
        Ok(redis)
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
}
