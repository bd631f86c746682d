//! A whole station whose daemons log everything into one file, and traffic through it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use client::{Channel, Client, ClientConf, Families, Options, Transport};
use lab::{Node, address};
use signalling::{C2sWrapper, ClientToStation, Message};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);
const COVERT: u16 = 9999;
/// A client that the registrar hears of through a proxy.
pub(crate) const PROXIED: &str = "203.0.113.77";
/// The secret of that client's registration; words would be found in any text.
pub(crate) const SECRET: [u8; 32] = *b"\x9d\x5e\xc3\xe7 q7vkzjwxpyhb3gxfudmc9trlq\xf1\xf2";

/// One station at a time: the tests need the processors for themselves.
static TURN: Mutex<()> = Mutex::new(());

/// Starts the daemons as an operator would who wants to see everything.
const START: &str = r#"#!/bin/sh
set -e
cd "$CONJURE_DEMO_DIR"
case "$1" in
start)
    sed -i 's/^log_level = .*/log_level = "trace"/' app_config.toml reg_config.toml
    echo "LOG_CLIENT_IP=$SEEING_ADDRESSES" >> conjure.conf
    "$SEEING_STATION" run --conf conjure.conf > everything.log 2>&1 &
    echo $! > station.pid
    for second in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        if [ -S ipc/zbalance.metrics.sock ] && [ -S ipc/detector.metrics.sock ] &&
            [ -S ipc/application.metrics.sock ] && [ -S ipc/registrar.metrics.sock ]; then exit 0; fi
        sleep 1
    done
    cat everything.log >&2
    exit 1 ;;
stop) kill "$(cat station.pid)" ;;
esac
"#;

/// Runs the test `name` beside a station.
pub(crate) fn run(name: &str, addresses: bool) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let start = dir.path().join("start");
    std::fs::write(&start, START).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&start, mode).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_station"))
        .args(["demo", "--start"])
        .arg(&start)
        .arg("--exec")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("SEEING_STATION", env!("CARGO_BIN_EXE_station"))
        .env("SEEING_ADDRESSES", addresses.to_string())
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("1 passed"), "{out}");
}

/// The station, as the test beside it sees it.
pub(crate) struct Stage {
    pub(crate) dir: PathBuf,
}

/// A process that ends with the test.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stage {
    /// The station beside this process, if there is one.
    pub(crate) fn inside() -> Option<Self> {
        std::env::var_os("CONJURE_DEMO_DIR").map(|dir| Self { dir: dir.into() })
    }

    pub(crate) fn ipc(&self) -> PathBuf {
        self.dir.join("ipc")
    }

    /// This project's command.
    pub(crate) fn station(&self, subcommand: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
        command.arg(subcommand).arg("--ipc-dir").arg(self.ipc());
        command
    }

    /// Opens three tunnels that stay, and registers another client through a proxy.
    pub(crate) fn bring_traffic(&self) {
        records::client(PROXIED.parse::<std::net::IpAddr>().unwrap());
        records::shared_secret(&SECRET);
        let listener = Node::Decoy.run(|| TcpListener::bind(("0.0.0.0", COVERT))).unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut reader = stream.try_clone().unwrap();
                    std::io::copy(&mut reader, &mut stream)
                });
            }
        });
        for stream in &mut self.tunnels(3) {
            stream.write_all(b"through the tunnel").unwrap();
            stream.read_exact(&mut [0; 18]).unwrap();
            // Open until the process ends.
            std::mem::forget(stream.try_clone().unwrap());
        }
        register_through_a_proxy();
        let start = Instant::now();
        let heard = "conjure_application_funnel_registered_total";
        while !self.metrics("application", "*/*").contains(heard) {
            assert!(start.elapsed() < LIMIT, "the application hears nothing");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn tunnels(&self, count: usize) -> Vec<TcpStream> {
        let conf = ClientConf::load(&self.dir.join("ClientConf.4")).unwrap();
        let url = format!("http://{}:8080/register-bidirectional", address::STATION_V4);
        let covert = SocketAddr::new(address::DECOY_V4.into(), COVERT).to_string();
        let mut options = Options::new(Channel::BidirectionalApi(url), Transport::Min, covert);
        options.families = Families { v4: true, v6: false };
        let client = Client { conf, options };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let open = async {
            let session = client.register().await.unwrap();
            tokio::time::sleep(session.delay).await;
            let stream = session.connect().await.unwrap().stream.into_plain().unwrap();
            let stream = stream.into_std().unwrap();
            stream.set_nonblocking(false).unwrap();
            stream
        };
        runtime.block_on(async {
            let mut streams = Vec::new();
            for _ in 0..count - 1 {
                let again = client.register().await.unwrap();
                tokio::time::sleep(again.delay).await;
                let stream = again.connect().await.unwrap().stream.into_plain().unwrap();
                let stream = stream.into_std().unwrap();
                stream.set_nonblocking(false).unwrap();
                streams.push(stream);
            }
            streams.push(open.await);
            streams
        })
    }

    /// Metrics of a daemon for a client that accepts this.
    pub(crate) fn metrics(&self, daemon: &str, accept: &str) -> String {
        let path = self.ipc().join(format!("{daemon}.metrics.sock"));
        let head = format!(
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        );
        get(&path, &head)
    }

    /// Process of a daemon.
    pub(crate) fn pid_of(&self, daemon: &str) -> Option<u32> {
        let output = self.station("status").arg("--json").output().unwrap();
        let all: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        u32::try_from(all[daemon]["identity"]["pid"].as_u64()?).ok()
    }
}

/// The body of an answer on a Unix socket.
pub(crate) fn get(path: &Path, head: &str) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

fn register_through_a_proxy() {
    let covert = SocketAddr::new(address::DECOY_V4.into(), COVERT).to_string();
    let body = C2sWrapper {
        shared_secret: Some(SECRET.to_vec()),
        registration_payload: Some(ClientToStation {
            decoy_list_generation: Some(1),
            client_lib_version: Some(4),
            transport: Some(1),
            covert_address: Some(covert),
            v4_support: Some(true),
            ..Default::default()
        }),
        ..Default::default()
    }
    .encode_to_vec();
    let mut stream = TcpStream::connect((address::STATION_V4, 8080)).unwrap();
    let head = format!(
        "POST /register HTTP/1.1\r\nHost: station\r\nX-Forwarded-For: {PROXIED}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
}
