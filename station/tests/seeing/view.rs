//! The live view in a real terminal, which tmux is.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::stage::{LIMIT, Stage};

/// A terminal of its own server, which ends with the test.
struct Terminal {
    name: String,
}

impl Terminal {
    fn tmux(&self, words: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.name, "-f", "/dev/null"]).args(words);
        let output = command.env("TERM", "xterm-256color").output().expect("tmux");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-t", "view"])
    }

    fn shows(&self, text: &str) -> String {
        let start = Instant::now();
        loop {
            let screen = self.screen();
            if screen.contains(text) {
                return screen;
            }
            assert!(start.elapsed() < LIMIT, "{text:?} is not on the screen:\n{screen}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", "-t", "view", key]);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

pub(crate) fn survives_the_end_of_a_daemon(stage: &Stage) {
    let terminal = Terminal { name: format!("conjure-view-{}", std::process::id()) };
    let program = env!("CARGO_BIN_EXE_station");
    let line = format!("{program} status --interval 200 --ipc-dir {}", stage.ipc().display());
    terminal.tmux(&["new-session", "-d", "-s", "view", "-x", "150", "-y", "45", &line]);
    let screen = terminal.shows("3 tunnels");
    for daemon in ["zbalance", "detector", "application", "registrar"] {
        assert!(screen.contains(&format!("{daemon} ")), "{screen}");
    }
    terminal.press("2");
    let screen = terminal.shows("Detector workers");
    assert!(screen.contains("(cpu ") && screen.contains("Queues"), "{screen}");
    terminal.press("3");
    let screen = terminal.shows("BidirectionalAPI Min");
    if let Some(path) = std::env::var_os("SEEING_CAPTURE") {
        std::fs::write(path, &screen).unwrap();
    }
    terminal.press("1");
    let pid = stage.pid_of("registrar").expect("the registrar answers");
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    terminal.shows("does not answer");
    // Its supervisor starts it again.
    let start = Instant::now();
    while terminal.screen().contains("does not answer") {
        assert!(start.elapsed() < LIMIT, "{}", terminal.screen());
        std::thread::sleep(Duration::from_millis(100));
    }
    terminal.press("q");
    let start = Instant::now();
    while terminal.tmux(&["list-sessions"]).contains("view") {
        assert!(start.elapsed() < LIMIT, "q does not leave");
        std::thread::sleep(Duration::from_millis(50));
    }
}
