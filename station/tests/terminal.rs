//! The demo in a terminal, which `script` makes: a bar says how far it is, and Ctrl-C ends everything.
//! Without a terminal there is no bar.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Far above what a busy machine needs.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_bar_in_a_terminal_and_an_end_by_ctrl_c() {
    let demo = format!("{} demo --keep --only api,min,ipv4", env!("CARGO_BIN_EXE_station"));
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command", &demo, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script");
    let mut screen = terminal.stdout.take().unwrap();
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains("Ctrl-C ends everything") {
        let length = screen.read(&mut buffer).unwrap();
        assert!(length > 0, "it ended: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert!(text.contains("0 of 1 transfers"), "{text}");
    let dir = text.split("Files are in ").nth(1).unwrap().split(". Ctrl-C").next().unwrap();
    assert!(std::path::Path::new(dir).is_dir(), "{dir}");
    terminal.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    let mut rest = Vec::new();
    screen.read_to_end(&mut rest).unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = terminal.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < LIMIT, "Ctrl-C does not end it");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(130), "{text}{}", String::from_utf8_lossy(&rest));
    assert!(!std::path::Path::new(dir).exists(), "{dir} is left");
}

#[test]
fn no_bar_and_no_colour_without_a_terminal() {
    let output = Command::new(env!("CARGO_BIN_EXE_station"))
        .args(["demo", "--only", "api,min,ipv4"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && text.contains("demo: 1 passed"), "{text}");
    assert!(!text.contains("transfers") && !text.contains(['\r', '\u{1b}']), "{text}");
}
