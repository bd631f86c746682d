//! The application as a service manager runs it: a restart with kept descriptors refuses nobody, a process that was
//! started as root becomes the user that it is told to become, and one process follows another on the same port.
//! Runs in a network namespace of its own.

mod succession;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use handover::manager::Manager;
use rustix::process::{Pid, Signal, kill_process};
use signalling::station::{ApplicationStatus, StatusRequest, status_reply::Detail};
use telemetry::admin;

/// Nothing here takes longer on a busy machine; it is no measurement.
const LIMIT: Duration = Duration::from_secs(60);
/// A user and a group that nobody else has.
const USER: (u32, u32) = (64_321, 64_322);

/// Runs `inside` of the test `name` in a network namespace, where only the test binary knows it.
fn in_namespace(name: &str, inside: fn()) {
    const INSIDE: &str = "APPLICATION_TEST_INSIDE_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
        return inside();
    }
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let output = command
        .args(["--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{output:?}");
}

fn address() -> SocketAddr {
    "127.0.0.1:41245".parse().unwrap()
}

fn files(dir: &Path) {
    std::fs::write(dir.join("privkey"), [0x40; 32]).unwrap();
    let phantoms = "[Networks]\n[Networks.1]\nGeneration = 1\n\
        [[Networks.1.WeightedSubnets]]\nWeight = 1\nSubnets = [\"192.122.190.0/24\"]\n";
    std::fs::write(dir.join("phantoms.toml"), phantoms).unwrap();
    let text = format!(
        "log_level = \"error\"\nenable_v4 = true\nsocket_name = \"zmq-proxy\"\nredis_url = \"\"\n\
         tcp_listen = \"{}\"\naccept_threads = 3\n",
        address()
    );
    std::fs::write(dir.join("app.toml"), text).unwrap();
    std::fs::create_dir_all(dir.join("ipc")).unwrap();
}

fn environment<'a>(command: &'a mut Command, dir: &Path) -> &'a mut Command {
    command
        .env("CJ_STATION_CONFIG", dir.join("app.toml"))
        .env("PHANTOM_SUBNET_LOCATION", dir.join("phantoms.toml"))
        .env("CJ_PRIVKEY", dir.join("privkey"))
        .env("CJ_IPC_DIR", dir.join("ipc"))
        .env("OFFSET", "0")
        .env("CJ_CORECOUNT", "1")
        .env_remove("CJ_USER")
}

fn start(manager: &mut Manager, dir: &Path, change: impl FnOnce(&mut Command)) -> Child {
    let mut command = manager.command(Path::new(env!("CARGO_BIN_EXE_application"))).unwrap();
    change(environment(&mut command, dir));
    let child = command.spawn().unwrap();
    manager.hear("READY=1", LIMIT).unwrap();
    child
}

fn end(mut child: Child) {
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

/// What an operator sees of the application.
fn status(dir: &Path) -> ApplicationStatus {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let socket = admin::socket_path(&dir.join("ipc"), "application", 0);
    let reply = runtime.block_on(async {
        let mut client = admin::AdminClient::new(admin::channel(&socket).await.unwrap());
        client.status(StatusRequest {}).await.unwrap().into_inner()
    });
    let Some(Detail::Application(status)) = reply.detail else { panic!("another daemon") };
    status
}

/// Phantom connections that the application has accepted.
fn accepted(dir: &Path) -> u64 {
    let status = status(dir);
    status.connections.iter().find(|count| count.name == "accepted").unwrap().value
}

/// Waits until `holds`.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < LIMIT, "still not: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn restart() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    files(dir);
    let mut manager = Manager::bind(&dir.join("notify")).unwrap();
    let first = start(&mut manager, dir, |_| {});
    let mut names: Vec<String> = manager.names().into_iter().map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, ["tcp", "tcp.1", "tcp.2", "tun1", "udp", "zmq"]);
    end(first);
    // Nobody accepts now; the kernel does, and the device is still there.
    let mut early = TcpStream::connect(address()).unwrap();
    early.write_all(&[0x16; 32]).unwrap();
    use std::os::linux::net::SocketAddrExt;
    let name = std::os::unix::net::SocketAddr::from_abstract_name("zmq-proxy").unwrap();
    let _subscriber = UnixStream::connect_addr(&name).unwrap();
    assert!(UnixListener::bind_addr(&name).is_err(), "the name is taken");
    let device = Command::new("ip").args(["link", "show", "tun1"]).stdout(Stdio::null()).status();
    assert!(device.unwrap().success());

    let second = start(&mut manager, dir, |_| {});
    until("the waiting connection is accepted", || accepted(dir) == 1);
    let mut after: Vec<String> = manager.names().into_iter().map(str::to_owned).collect();
    after.sort();
    assert_eq!(after, names, "kept once each");
    end(second);
}

#[test]
fn a_restart_refuses_nobody() {
    in_namespace("a_restart_refuses_nobody", restart);
}

fn another_user() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    files(dir);
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(dir.join("ipc"), Some(USER.0), Some(USER.1)).unwrap();
    let user = format!("{}:{}", USER.0, USER.1);
    for by_variable in [false, true] {
        let notify = dir.join(format!("notify-{by_variable}"));
        let mut manager = Manager::bind(&notify).unwrap();
        std::fs::set_permissions(&notify, PermissionsExt::from_mode(0o777)).unwrap();
        let child = start(&mut manager, dir, |command| {
            match by_variable {
                true => command.env("CJ_USER", &user),
                false => command.args(["--user", &user]),
            };
        });
        sandbox::probe::runs_as(child.id(), USER.0, USER.1, &dir.join("ipc")).unwrap();
        end(child);
    }
    for (by_variable, code) in [(false, 64), (true, 78)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_application"));
        environment(&mut command, dir);
        match by_variable {
            true => command.env("CJ_USER", "nobody-here"),
            false => command.args(["--user", "nobody-here"]),
        };
        let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains("there is no user `nobody-here`; make one"), "{text}");
    }
}

#[test]
fn it_becomes_the_user_that_it_is_told_to_become() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, to become somebody else");
        return;
    }
    in_namespace("it_becomes_the_user_that_it_is_told_to_become", another_user);
}
