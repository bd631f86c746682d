//! Ctrl-C. The demo is process 1 of its namespace, and the kernel keeps from process 1 every signal that it
//! does not listen to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::Node;
use telemetry::process::Signals;

/// Exit code of a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// How often it is tried to remove the folder, and the time between.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// Ends the process, and with it everything inside, at the first SIGINT, SIGTERM or SIGHUP; `dir` is removed, and
/// what the program `start` brought up is stopped by it.
pub(super) fn listen(dir: &Path, start: Option<PathBuf>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = runtime.block_on(async { Signals::install() })?;
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        // Also when the terminal is closed.
        runtime.block_on(signals.next());
        println!("demo: ends");
        if let Some(program) = start {
            // What it leaves is told by itself.
            let _ =
                Node::Station.command(program).arg("stop").env("CONJURE_DEMO_DIR", &dir).status();
        }
        // Daemons that still run may write into it meanwhile, so that it is not empty in the end.
        for _ in 0..ATTEMPTS {
            match std::fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    std::thread::sleep(PAUSE);
                }
                _ => break,
            }
        }
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}
