//! `CJ_LOG_FORMAT=reference` prints every line of the reference (`spec/detector.md` 15.1); without it
//! those that mean nothing here are left out.

use std::process::{Command, Output};

/// Replays an empty recording.
fn run(format: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let header = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1].map(u32::to_le_bytes).concat();
    std::fs::write(dir.path().join("empty.pcap"), header).unwrap();
    std::fs::write(dir.path().join("key"), [0x58; 32]).unwrap();
    Command::new(env!("CARGO_BIN_EXE_detector"))
        .args(["-i", "pcap:empty.pcap", "-K", "key"])
        .current_dir(dir.path())
        .env_remove("CJ_STATION_CONFIG")
        .env_remove("JOURNAL_STREAM")
        .env("CJ_LOG_FORMAT", format)
        .output()
        .unwrap()
}

/// A line with its changing parts replaced: times, numbers of processes and CPUs, keys.
fn constant(line: &str) -> String {
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    if line.starts_with("20") {
        // 2025-06-18 15:46:32.123456789 +0000
        assert_eq!((words[0].len(), words[1].len(), &*words[2]), (10, 18, "+0000"), "{line}");
        words.splice(0..3, ["TIME".to_owned()]);
    }
    match &line.split(' ').collect::<Vec<_>>()[..] {
        ["Key", _, key] if key.len() == 64 => words[2] = "KEY".to_owned(),
        [">>>", "Child", "proc", _, "created"] => words[3] = "CPU".to_owned(),
        ["Core", _, "PID", _, "lcore", _] => {
            words[3] = "p,".to_owned();
            words[5] = "CPU".to_owned();
        }
        _ => {}
    }
    words.join(" ")
}

#[test]
fn every_line_of_the_reference() {
    let output = run("reference");
    let out = String::from_utf8(output.stdout).unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{out}{err}");
    let lines: Vec<String> = out.lines().map(constant).collect();
    let expected = [
        "1 private keys",
        "Using public keys: ",
        "Key 0: KEY",
        "",
        "Starting process 0...",
        ">>> Child proc CPU created",
        "Core 0: PID p, lcore CPU",
        ">>>> starting core 0",
        "NON-zero-copy TapDance child proc started on core 0!",
        "TIME (Core 0) DEBUG: reset",
        "TIME (Core 0) DEBUG: gre_offset: 0",
        "TIME (Core 0) DEBUG: Initialized rust core 0",
    ];
    assert_eq!(lines[..expected.len()], expected.map(str::to_owned), "{out}");
    assert!(lines.contains(&"...child proc 0 exited, status=0".to_owned()), "{out}");
    for line in [
        "PF_RING NON-zero-copy Tapdance child process shut down",
        "PF_RING Tapdance shutting down...",
        "PF_RING Tapdance done shutting down!",
    ] {
        assert!(err.lines().any(|found| found == line), "{line}: {err}");
    }
}

#[test]
fn the_default_leaves_out_what_means_nothing_here() {
    let output = run("");
    let all = [output.stdout, output.stderr].concat();
    let all = String::from_utf8(all).unwrap();
    assert!(output.status.success() && all.contains("Initialized rust core 0"), "{all}");
    assert!(!all.contains("PF_RING") && !all.contains("TapDance"), "{all}");
}

#[test]
fn a_format_that_does_not_exist_is_refused() {
    let output = run("json");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{err}");
    assert!(err.contains("CJ_LOG_FORMAT: found `json`, expected text or reference"), "{err}");
}
