//! `station probe` against a whole station: every channel of the registrar is heard everywhere, and a
//! part that is deaf is named.
//!
//! The test runs `station demo --exec` with itself as the program, as `survival.rs` does.

use std::path::PathBuf;
use std::process::{Command, Output};

use lab::{Node, address};

#[test]
fn every_channel_is_heard_and_a_missing_registrar_is_named() {
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
    assert!(text.contains("probe: all channels heard"), "{text}");
}

fn inside(dir: &std::path::Path) {
    let probe = |arguments: &[&str]| -> Output {
        Node::Station
            .command(env!("CARGO_BIN_EXE_station"))
            .args(["probe", "--conf"])
            .arg(dir.join("conjure.conf"))
            .arg("--roots")
            .arg(dir.join("cert.pem"))
            .args(arguments)
            .output()
            .unwrap()
    };
    let station = address::STATION_V4.to_string();
    let heard = probe(&["--registrar", &station]);
    let text = String::from_utf8_lossy(&heard.stdout);
    assert!(heard.status.success(), "{text}\n{}", String::from_utf8_lossy(&heard.stderr));
    for channel in ["api", "bdapi", "dns", "bddns", "amp", "bdamp", "grpc"] {
        let line = text.lines().find(|line| line.split(' ').next() == Some(channel));
        let line = line.unwrap_or_else(|| panic!("no line for {channel}: {text}"));
        assert!(line.contains(" ok: registered after "), "{line}");
        assert!(line.contains("heard by the application") && line.contains("told to detectors"));
    }

    // Nobody listens at the second address of the loopback interface.
    let deaf = probe(&["--registrar", "127.0.0.2", "--channel", "grpc,nonsense", "--wait", "1"]);
    assert!(!deaf.status.success());
    let text = String::from_utf8_lossy(&deaf.stdout);
    assert!(text.contains("grpc   FAILED: not registered: "), "{text}");
    assert!(text.contains("nonsense FAILED: not registered: no channel nonsense"), "{text}");
    println!("probe: all channels heard");
}
