//! `station doctor` on a station that works: nothing is found.
//!
//! The test runs `station demo --exec` with itself as the program, as `survival.rs` does.

use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::{Node, address};

#[test]
fn a_station_that_works_is_well() {
    if let Some(dir) = std::env::var_os("CONJURE_DEMO_DIR") {
        return inside(&PathBuf::from(dir));
    }
    let output = Command::new(env!("CARGO_BIN_EXE_station"))
        .args(["demo", "--exec"])
        .arg(std::env::current_exe().unwrap())
        .args(["--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("doctor: all is well"), "{text}");
}

/// A tree that is this host, with as many processors as a station has.
fn root(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("sys/devices/system/cpu/online", "0-3\n");
    for folder in ["/proc", "/run"] {
        symlink(folder, root.join(&folder[1..])).unwrap();
    }
    // The demo's files keep their places.
    let place = root.join(dir.strip_prefix("/").unwrap());
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    symlink(dir, place).unwrap();
    root
}

fn inside(dir: &Path) {
    let root = root(dir);
    let conf = dir.join("healthy.conf");
    let mut text = std::fs::read_to_string(dir.join("conjure.conf")).unwrap();
    text.push_str("CJ_SKIP_CORE=-1\nCJ_INGEST_CORES=3\n");
    std::fs::write(&conf, text).unwrap();
    // The lab has a /run of its own, where a clock that is right can be claimed.
    std::fs::create_dir_all("/run/systemd/timesync").unwrap();
    std::fs::write("/run/systemd/timesync/synchronized", "").unwrap();
    let doctor = |arguments: &[&str]| -> Output {
        Node::Station
            .command(env!("CARGO_BIN_EXE_station"))
            .args(["doctor", "--root"])
            .arg(&root)
            .arg("--conf")
            .arg(&conf)
            .args(arguments)
            .output()
            .unwrap()
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The tap must have something to show.
        let noise = || {
            while !stop.load(Ordering::Relaxed) {
                let _ = TcpStream::connect((address::DECOY_V4, 443));
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        scope.spawn(noise);
        let all = doctor(&["--loop"]);
        let some = doctor(&["--for", "detector,application"]);
        stop.store(true, Ordering::Relaxed);
        let text = String::from_utf8_lossy(&all.stdout);
        assert_eq!(all.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&all.stderr));
        // Silent but for the count.
        assert!(text.starts_with("0 errors, 0 warnings; ") && text.lines().count() == 1, "{text}");
        let every = doctor(&["--every", "--only", "C08,K02,K06,S02,S07,S09,R01"]);
        let text = String::from_utf8_lossy(&every.stdout);
        assert_eq!(text.lines().filter(|line| line.starts_with("good ")).count(), 7, "{text}");
        assert_eq!(some.status.code(), Some(0), "{some:?}");
    });
    println!("doctor: all is well");
}
