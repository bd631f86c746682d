//! A restart under a service manager that keeps descriptors: connections that come while no registrar runs
//! are answered by the next one, and the manager hears what it needs. SIGUSR1 and SIGUSR2 do nothing, a
//! bad reload is told, `--health` tells whether it runs, and its memory is nobody's business.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use handover::manager::Manager;
use rustix::process::{Pid, Signal, kill_process};
use vectors::{hex, load};

const LIMIT: Duration = Duration::from_secs(20);

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

/// A registrar with what the manager has stored.
fn start(manager: &Manager, dir: &Path) -> Child {
    let mut command = manager.command(Path::new(env!("CARGO_BIN_EXE_registrar"))).unwrap();
    command.arg("-config").arg(dir.join("reg.toml")).arg("-api-only");
    if let Some((out, err)) = records::streams("registrar", records::Clients::Hidden) {
        command.stdout(out).stderr(err);
    }
    environment(&mut command, dir);
    command.env("WATCHDOG_USEC", "400000").spawn().unwrap()
}

fn environment(command: &mut Command, dir: &Path) {
    command
        .env("CJ_IPC_DIR", dir.join("ipc"))
        .env("PHANTOM_SUBNET_LOCATION", dir.join("phantoms.toml"))
        .env_remove("CJ_USER");
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
    let mut manager = Manager::bind(&dir.join("notify")).unwrap();
    assert_eq!(health(dir), Some(1), "nothing runs");

    let mut first = start(&manager, dir);
    manager.hear("READY=1", LIMIT).unwrap();
    assert_eq!(health(dir), Some(0));
    manager.hear("WATCHDOG=1", LIMIT).unwrap();
    signal(&first, Signal::USR1);
    signal(&first, Signal::USR2);
    let good = std::fs::read_to_string(dir.join("reg.toml")).unwrap();
    std::fs::write(dir.join("reg.toml"), good.replace("zmq_port = 0", "zmq_port = x")).unwrap();
    signal(&first, Signal::HUP);
    assert!(manager.hear("RELOADING=1", LIMIT).unwrap().contains("MONOTONIC_USEC="));
    let refused = manager.hear("READY=1", LIMIT).unwrap();
    assert!(
        refused.contains("STATUS=reload refused") && refused.contains("reg.toml:4"),
        "{refused}"
    );
    std::fs::write(dir.join("reg.toml"), good).unwrap();
    // Many in one moment: each is heard or part of another, and none ends it.
    for _ in 0..20 {
        signal(&first, Signal::HUP);
    }
    manager.hear("STATUS=taking registrations", LIMIT).unwrap();
    let mut bystander = without_capabilities("sleep").arg("60").spawn().unwrap();
    // It becomes what it is a moment after it was started.
    std::thread::sleep(Duration::from_millis(300));
    assert!(can_be_read(bystander.id()), "the look itself works");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert!(!can_be_read(first.id()), "a process of the same user reads its environment");

    signal(&first, Signal::TERM);
    manager.hear("STOPPING=1", LIMIT).unwrap();
    assert!(first.wait().unwrap().success());
    assert!(manager.names().contains(&"http"), "the manager keeps the HTTP socket");
    // Nobody accepts now; the kernel does.
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.write_all(b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut second = start(&manager, dir);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    signal(&second, Signal::TERM);
    assert!(second.wait().unwrap().success());
}

#[test]
fn it_becomes_the_user_that_it_is_told_to_become() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, to become somebody else");
        return;
    }
    const USER: (u32, u32) = (64_321, 64_322);
    let user = format!("{}:{}", USER.0, USER.1);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    files(dir, port);
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(dir.join("ipc"), Some(USER.0), Some(USER.1)).unwrap();
    for by_variable in [false, true] {
        let notify = dir.join(format!("notify-{by_variable}"));
        let mut manager = Manager::bind(&notify).unwrap();
        std::fs::set_permissions(&notify, PermissionsExt::from_mode(0o777)).unwrap();
        let mut command = manager.command(Path::new(env!("CARGO_BIN_EXE_registrar"))).unwrap();
        command.arg("-config").arg(dir.join("reg.toml")).arg("-api-only");
        environment(&mut command, dir);
        match by_variable {
            true => command.env("CJ_USER", &user),
            false => command.args(["--user", &user]),
        };
        let mut child = command.spawn().unwrap();
        manager.hear("READY=1", LIMIT).unwrap();
        sandbox::probe::runs_as(child.id(), USER.0, USER.1, &dir.join("ipc")).unwrap();
        signal(&child, Signal::TERM);
        assert!(child.wait().unwrap().success());
    }
    for (by_variable, code) in [(false, 64), (true, 78)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_registrar"));
        command.arg("-config").arg(dir.join("reg.toml")).arg("-api-only");
        environment(&mut command, dir);
        match by_variable {
            true => command.env("CJ_USER", "nobody-here"),
            false => command.args(["--user", "nobody-here"]),
        };
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains("there is no user `nobody-here`; make one"), "{text}");
    }
}
