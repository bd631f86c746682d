//! A restart under a service manager that keeps descriptors: connections that come while no registrar runs
//! are answered by the next one, and the manager hears what it needs. SIGUSR1 and SIGUSR2 do nothing, a
//! bad reload is told, `--health` tells whether it runs, and its memory is nobody's business.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Pid, Signal, kill_process};
use vectors::{hex, load};

const LIMIT: Duration = Duration::from_secs(20);

/// The service manager, as far as a daemon meets it.
struct Manager {
    socket: UnixDatagram,
    stored: HashMap<String, OwnedFd>,
}

impl Manager {
    /// Hears messages until one has the line `wanted`; descriptors to store are kept. The whole message.
    fn hear(&mut self, wanted: &str) -> String {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < LIMIT, "it never said {wanted}");
            let mut buffer = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [std::io::IoSliceMut::new(&mut buffer)];
            let received =
                rustix::net::recvmsg(&self.socket, &mut parts, &mut ancillary, RecvFlags::empty());
            let Ok(received) = received else { continue };
            let length = received.bytes;
            let descriptors: Vec<OwnedFd> = ancillary
                .drain()
                .flat_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
                    _ => Vec::new(),
                })
                .collect();
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if let (Some(name), Some(descriptor)) = (
                text.lines().find_map(|line| line.strip_prefix("FDNAME=")),
                descriptors.into_iter().next(),
            ) {
                self.stored.insert(name.to_owned(), descriptor);
            }
            if text.lines().any(|line| line.starts_with(wanted)) {
                return text;
            }
        }
    }
}

fn files(dir: &Path, port: u16) {
    let file = load("registrar-http.json");
    let context = &file["context"];
    let path = |name: &str| dir.join(name);
    let phantoms = context["phantom_subnets_toml"].as_str().unwrap();
    std::fs::write(path("phantoms.toml"), phantoms).unwrap();
    std::fs::write(path("ClientConf"), hex(&context["client_conf"])).unwrap();
    let text = format!(
        "log_level = \"error\"\napi_port = {port}\napi_bind_addr = \"127.0.0.1\"\nzmq_port = 0\n\
         zmq_bind_addr = \"127.0.0.1\"\nzmq_auth_type = \"NULL\"\nclientconf_path = \"{}\"\n",
        path("ClientConf").display()
    );
    std::fs::write(path("reg.toml"), text).unwrap();
    std::fs::create_dir_all(path("ipc")).unwrap();
}

/// A registrar; what the manager has stored comes with it, the HTTP socket as descriptor 3.
fn start(dir: &Path, stored: Option<OwnedFd>) -> Child {
    // The shell gives the descriptor its number, and knows the process id that is to be named.
    let script = "if [ -n \"$STORED\" ]; then exec 3<&0; export LISTEN_PID=$$ LISTEN_FDS=1 \
                  LISTEN_FDNAMES=http; fi; exec \"$0\" -config \"$1\" -api-only";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_registrar")]).arg(dir.join("reg.toml"));
    command.env("STORED", if stored.is_some() { "1" } else { "" });
    command.stdin(stored.map_or(Stdio::null(), Stdio::from));
    environment(&mut command, dir);
    command.env("NOTIFY_SOCKET", dir.join("notify")).env("WATCHDOG_USEC", "400000");
    command.spawn().unwrap()
}

fn environment(command: &mut Command, dir: &Path) {
    command
        .env("CJ_IPC_DIR", dir.join("ipc"))
        .env("PHANTOM_SUBNET_LOCATION", dir.join("phantoms.toml"));
}

fn health(dir: &Path) -> Option<i32> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_registrar"));
    environment(command.arg("-health").stdout(Stdio::null()).stderr(Stdio::null()), dir);
    command.status().unwrap().code()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// A program that runs as this user and has no capability.
fn without_capabilities(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--bounding-set=-all", "--inh-caps=-all"]);
    }
    command.args(["--no-new-privs", program]);
    command
}

/// Whether a process of the same user can look into a process: the kernel asks the same for its
/// environment as for its memory.
fn can_be_read(pid: u32) -> bool {
    let mut command = without_capabilities("cat");
    command.arg(format!("/proc/{pid}/environ")).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().unwrap().success()
}

#[test]
fn a_restart_refuses_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    files(dir, port);
    let socket = UnixDatagram::bind(dir.join("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut manager = Manager { socket, stored: HashMap::new() };
    assert_eq!(health(dir), Some(1), "nothing runs");

    let mut first = start(dir, None);
    manager.hear("READY=1");
    assert_eq!(health(dir), Some(0));
    manager.hear("WATCHDOG=1");
    signal(&first, Signal::USR1);
    signal(&first, Signal::USR2);
    let good = std::fs::read_to_string(dir.join("reg.toml")).unwrap();
    std::fs::write(dir.join("reg.toml"), good.replace("zmq_port = 0", "zmq_port = x")).unwrap();
    signal(&first, Signal::HUP);
    assert!(manager.hear("RELOADING=1").contains("MONOTONIC_USEC="));
    let refused = manager.hear("READY=1");
    assert!(
        refused.contains("STATUS=reload refused") && refused.contains("reg.toml:4"),
        "{refused}"
    );
    std::fs::write(dir.join("reg.toml"), good).unwrap();
    // Many in one moment: each is heard or part of another, and none ends it.
    for _ in 0..20 {
        signal(&first, Signal::HUP);
    }
    manager.hear("STATUS=taking registrations");
    let mut bystander = without_capabilities("sleep").arg("60").spawn().unwrap();
    // It becomes what it is a moment after it was started.
    std::thread::sleep(Duration::from_millis(300));
    assert!(can_be_read(bystander.id()), "the look itself works");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert!(!can_be_read(first.id()), "a process of the same user reads its environment");

    signal(&first, Signal::TERM);
    manager.hear("STOPPING=1");
    assert!(first.wait().unwrap().success());
    let kept = manager.stored.remove("http").expect("the manager keeps the HTTP socket");
    // Nobody accepts now; the kernel does.
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.write_all(b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut second = start(dir, Some(kept));
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    signal(&second, Signal::TERM);
    assert!(second.wait().unwrap().success());
}
