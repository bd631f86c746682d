//! The page in a headless Chromium.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::stage::{LIMIT, Process, Stage};

/// Starts the page, looks at it, and returns its HTML as a browser has it.
pub(crate) fn shows_the_page(stage: &Stage) -> String {
    let child = stage
        .station("page")
        .args(["--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut page = Process(child);
    let mut line = String::new();
    BufReader::new(page.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("the page is at ").expect(&line).to_owned();
    let profile = tempfile::tempdir().unwrap();
    let browse = |more: &[&str]| {
        let output = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(more)
            .arg(&url)
            .stderr(Stdio::null())
            .output()
            .expect("chromium");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let start = Instant::now();
    let dom = loop {
        let dom = browse(&["--dump-dom"]);
        if dom.contains("Open tunnels <strong>3</strong>") {
            break dom;
        }
        assert!(start.elapsed() < LIMIT, "{dom}");
        std::thread::sleep(Duration::from_millis(500));
    };
    for text in [
        "<caption>Daemons</caption>",
        "<caption>Detector workers</caption>",
        "<th scope=\"row\">other</th>",
    ] {
        assert!(dom.contains(text), "{text} in {dom}");
    }
    assert!(!dom.contains("BidirectionalAPI Min"), "one client is below the floor");
    if let Some(path) = std::env::var_os("SEEING_SCREENSHOT") {
        std::thread::sleep(Duration::from_secs(60));
        let path = format!("--screenshot={}", path.display());
        browse(&["--window-size=1200,1500", "--hide-scrollbars", &path]);
    }
    dom
}
