//! The detector as a service manager runs it: a restart with kept descriptors, and another user.

use super::*;
use handover::manager::Manager;
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt;

/// A user and a group that nobody else has.
const USER: (u32, u32) = (64_321, 64_322);

fn files(dir: &Path) {
    std::fs::write(dir.join("privkey"), [0x11; 32]).unwrap();
    let text = "detector_filter_list = [\"127.0.0.1\"]\nredis_url = \"\"\n";
    std::fs::write(dir.join("app_config.toml"), text).unwrap();
}

fn start(manager: &mut Manager, dir: &Path, change: impl FnOnce(&mut Command)) -> Detector {
    let command = manager.command(Path::new(env!("CARGO_BIN_EXE_detector"))).unwrap();
    let detector = Detector::start_by(command, dir, |command| {
        change(command.env_remove("CJ_USER"));
    });
    manager.hear("READY=1", PATIENCE).unwrap();
    detector
}

fn end(mut detector: Detector) {
    detector.signal(Signal::TERM);
    assert!(detector.0.wait().unwrap().success());
}

fn has_device() -> bool {
    let show = Command::new("ip").args(["link", "show", "tun0"]).stdout(Stdio::null()).status();
    show.unwrap().success()
}

#[test]
fn a_restart_keeps_device_and_subscribers_name() {
    in_namespace("service::a_restart_keeps_device_and_subscribers_name", || {
        tokio::runtime::Runtime::new().unwrap().block_on(restart());
    });
}

async fn restart() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    files(dir);
    let frames = balancer(dir);
    let hub = Hub::new([7; 16], DEFAULT_QUEUE, Arc::new(One));
    hub.serve(&dir.join(session::socket_name(0))).unwrap();
    let mut manager = Manager::bind(&dir.join("notify")).unwrap();
    let tap = tap();
    let syn = tcp4((CLIENT, 4000), (PHANTOM, 443), SYN, &[]);
    tokio::task::block_in_place(|| {
        let first = start(&mut manager, dir, |_| {});
        let mut names: Vec<String> = manager.names().into_iter().map(str::to_owned).collect();
        names.sort();
        assert_eq!(names, ["tun0", "zmq"]);
        forwarded(&frames, &tap, &syn);
        end(first);
        // Nobody reads it, but DNAT and routes of the device stay.
        assert!(has_device(), "the manager keeps the device");
        let second = start(&mut manager, dir, |_| {});
        forwarded(&frames, &tap, &syn);
        let mut after: Vec<String> = manager.names().into_iter().map(str::to_owned).collect();
        after.sort();
        assert_eq!(after, names, "kept once each");
        end(second);
        drop(manager);
        assert!(!has_device(), "nobody else kept it");
    });
}

#[test]
fn it_becomes_the_user_that_it_is_told_to_become() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, to become somebody else");
        return;
    }
    // The detector that records nothing needs no device, and so no namespace.
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    files(dir);
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    let user = format!("{}:{}", USER.0, USER.1);
    for by_variable in [false, true] {
        let ipc = dir.join(format!("ipc-{by_variable}"));
        std::fs::create_dir(&ipc).unwrap();
        let _frames = balancer(&ipc);
        std::os::unix::fs::chown(&ipc, Some(USER.0), Some(USER.1)).unwrap();
        for entry in std::fs::read_dir(&ipc).unwrap() {
            let path = entry.unwrap().path();
            std::os::unix::fs::chown(path, Some(USER.0), Some(USER.1)).unwrap();
        }
        let notify = dir.join(format!("notify-{by_variable}"));
        let mut manager = Manager::bind(&notify).unwrap();
        std::fs::set_permissions(&notify, PermissionsExt::from_mode(0o777)).unwrap();
        let detector = start(&mut manager, dir, |command| {
            command.env("CJ_IPC_DIR", &ipc).args(["--discard", "-a", "ipc://@detector-user"]);
            match by_variable {
                true => command.env("CJ_USER", &user),
                false => command.args(["--user", &user]),
            };
        });
        sandbox::probe::runs_as(detector.0.id(), USER.0, USER.1, &ipc).unwrap();
        end(detector);
    }
    for (by_variable, code) in [(false, 64), (true, 78)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_detector"));
        command.args(["-c", "98", "-n", "1", "--allow-unpinned", "--discard"]);
        command.args(["-a", "ipc://@detector-user", "-K"]).arg(dir.join("privkey"));
        command.env("CJ_IPC_DIR", dir.join("ipc-false")).env_remove("CJ_USER");
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
