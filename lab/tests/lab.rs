//! The lab as its users meet it: built, crossed by packets, and gone without a trace.
//!
//! The test binary runs itself again inside the namespaces (`--exact inside`), so that the test
//! process stays outside and can look for what is left behind.

use std::process::{Command, Stdio};
use std::time::Duration;

use lab::{Lab, Node, address};

/// Run by the tests below inside the namespaces; does nothing when run on its own.
#[test]
fn inside() {
    if std::env::var_os("LAB_TEST_INSIDE").is_none() {
        return;
    }
    lab::isolate::enter().unwrap();
    let lab = Lab::build(2).unwrap();
    println!("built in {:?}", lab.built_in());
    for target in [address::DECOY_V4.to_string(), address::STATION_V6.to_string()] {
        let ping = Node::Client.command("ping").args(["-c1", "-W2", &target]).status().unwrap();
        assert!(ping.success(), "{target} does not answer");
    }
    // A SYN to a phantom is copied to the tap and answered by nobody.
    let mut tap = Node::Station
        .command("timeout")
        .args(["5", "tcpdump", "-i", "tap0", "-c", "1", "-nn", "tcp", "and", "net"])
        .arg(address::PHANTOMS_V4)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let connect = Node::Client
        .command("timeout")
        .args(["1", "bash", "-c", "exec 3<>/dev/tcp/192.122.190.7/443"])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!connect.success());
    assert!(tap.wait().unwrap().success(), "the tap saw no SYN");
    println!("ready for the kill");
    if std::env::var_os("LAB_TEST_STAY").is_some() {
        std::thread::sleep(Duration::from_secs(60));
    }
}

fn command() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "inside", "--nocapture"]).env("LAB_TEST_INSIDE", "1");
    command
}

#[test]
fn packets_cross_and_the_tap_sees_them() {
    let output = command().output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("ready for the kill"), "{said}");
}

#[test]
fn nothing_is_left_after_a_kill() {
    use std::io::{BufRead, BufReader};
    let marker = format!("lab-left-{}", std::process::id());
    let mut child = command().env("LAB_TEST_STAY", &marker).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.map_while(Result::ok).any(|line| line.contains("ready for the kill"));
    assert!(ready);
    assert!(processes_with(&marker) > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    for _ in 0..100 {
        if processes_with(&marker) == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("processes of the lab are left behind");
}

/// Processes whose environment holds `marker`; namespaces live only as long as these.
fn processes_with(marker: &str) -> usize {
    let Ok(all) = std::fs::read_dir("/proc") else { return 0 };
    all.flatten()
        .filter(|entry| {
            std::fs::read(entry.path().join("environ"))
                .is_ok_and(|env| env.windows(marker.len()).any(|w| w == marker.as_bytes()))
        })
        .count()
}
