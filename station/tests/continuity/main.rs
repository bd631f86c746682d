//! A whole station that is reloaded and upgraded under load, and what its processes may still do.
//!
//! Each test runs `station demo --exec` with itself as the program: the part named `inside` runs on the
//! client's node of a station whose daemons are real processes under `station run`.

mod fast_path;
mod load;
mod privileges;
mod reload;
mod upgrade;

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// One station at a time: every test needs the processors for itself.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `inside` of the test `name` in a station of its own with these settings, and prints the lines that it
/// measured.
fn in_a_station(name: &str, settings: &[&str], inside: fn(PathBuf)) {
    if let Some(dir) = std::env::var_os("CONJURE_DEMO_DIR") {
        return inside(dir.into());
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // Clients have deadlines of their own: a machine that is busy with something else may miss them.
    for attempt in 1..=3 {
        let output = Command::new(env!("CARGO_BIN_EXE_station"))
            .arg("demo")
            .args(settings.iter().flat_map(|setting| ["--set", setting]))
            .arg("--exec")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .output()
            .unwrap();
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        for line in out.lines().filter(|line| line.starts_with("measured ")) {
            println!("{line}");
        }
        if output.status.success() && out.contains("1 passed") {
            return;
        }
        assert!(attempt < 3, "{out}\n{err}");
        println!("try {attempt} of 3 failed:\n{err}");
    }
}

#[test]
fn no_daemon_keeps_a_privilege() {
    in_a_station("no_daemon_keeps_a_privilege", &[], privileges::inside);
}

#[test]
fn two_hundred_reloads_lose_nothing() {
    in_a_station("two_hundred_reloads_lose_nothing", &[], reload::inside);
}

#[test]
fn an_upgrade_refuses_and_breaks_nothing() {
    in_a_station("an_upgrade_refuses_and_breaks_nothing", &[], upgrade::inside);
}

#[test]
fn sessions_pass_in_the_kernel() {
    let settings = ["CJ_IFACE=xdp:tap0", "CJ_FAST_PATH=true", "N_QUEUE_SETS=1"];
    in_a_station("sessions_pass_in_the_kernel", &settings, fast_path::inside);
}
