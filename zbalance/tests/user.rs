//! A balancer that is started as root and becomes somebody else.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const USER: u32 = 4321;
const GROUP: u32 = 4322;

/// A child process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_becomes_the_user_that_it_is_told_to_become() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, to become somebody else");
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    // Played when a consumer comes, and none does.
    let header = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1].map(u32::to_le_bytes).concat();
    let recording = dir.join("empty.pcap");
    std::fs::write(&recording, header).unwrap();
    let user = format!("{USER}:{GROUP}");
    for by_variable in [false, true] {
        let ipc = dir.join(format!("ipc-{by_variable}"));
        std::fs::create_dir(&ipc).unwrap();
        std::os::unix::fs::chown(&ipc, Some(USER), Some(GROUP)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_zbalance"));
        command.arg("-i").arg(format!("pcap:{}", recording.display()));
        command.args(["-c", "98", "-n", "1"]).env("CJ_IPC_DIR", &ipc).env_remove("CJ_USER");
        match by_variable {
            true => command.env("CJ_USER", &user),
            false => command.args(["--user", &user]),
        };
        let balancer = Process(command.spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(8);
        while shm::monitor(&ipc, 98).is_err() {
            assert!(Instant::now() < deadline, "it does not serve its control socket");
            std::thread::sleep(Duration::from_millis(10));
        }
        sandbox::probe::runs_as(balancer.0.id(), USER, GROUP, &ipc).unwrap();
    }
    for (by_variable, code) in [(false, 64), (true, 78)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zbalance"));
        command.arg("-i").arg(format!("pcap:{}", recording.display())).args(["-n", "1"]);
        command.env("CJ_IPC_DIR", dir.join("ipc-false")).env_remove("CJ_USER");
        match by_variable {
            true => command.env("CJ_USER", "nobody-here"),
            false => command.args(["--user", "nobody-here"]),
        };
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains("there is no user `nobody-here`"), "{text}");
    }
}
