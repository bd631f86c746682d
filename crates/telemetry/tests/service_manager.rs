//! What the journal and the streams get, from a process that writes a log.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/log_lines")
}

struct Run {
    out: String,
    err: String,
}

/// Runs the example with both streams in files; `journal` tells it that they are the journal, and where
/// that listens.
fn run(dir: &Path, journal: Option<&Path>, format: &str) -> Run {
    let (out, err) = (dir.join("out"), dir.join("err"));
    let files = [File::create(&out).unwrap(), File::create(&err).unwrap()];
    let mut command = Command::new(example());
    command.env_remove("JOURNAL_STREAM").env("CJ_LOG_FORMAT", format);
    if let Some(socket) = journal {
        // Both streams cannot be one file here, so standard error is a copy of standard output.
        let meta = files[0].metadata().unwrap();
        command.env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()));
        command.env("CJ_JOURNAL_SOCKET", socket);
    }
    let [first, second] = files;
    let second = if journal.is_some() { first.try_clone().unwrap() } else { second };
    let status = command
        .stdin(Stdio::null())
        .stdout(OwnedFd::from(first))
        .stderr(OwnedFd::from(second))
        .status()
        .unwrap();
    assert!(status.success());
    let read = |path| std::fs::read_to_string(path).unwrap();
    Run { out: read(out), err: read(err) }
}

#[test]
fn the_journal_gets_fields() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("journal");
    let journal = UnixDatagram::bind(&socket).unwrap();
    let run = run(dir.path(), Some(&socket), "");
    assert_eq!(run.out, "", "all of it went to the journal");
    let next = || {
        let mut entry = [0; 4096];
        let n = journal.recv(&mut entry).unwrap();
        String::from_utf8(entry[..n].to_vec()).unwrap()
    };
    let common = "SYSLOG_IDENTIFIER=example\nCONJURE_DAEMON=example\n";
    assert_eq!(next(), format!("MESSAGE=[REG] a trace\nPRIORITY=7\n{common}"));
    let text = "[REG] two\nlines";
    let length = String::from_utf8((text.len() as u64).to_le_bytes().to_vec()).unwrap();
    assert_eq!(next(), format!("MESSAGE\n{length}{text}\nPRIORITY=4\n{common}"));
    assert_eq!(next(), format!("MESSAGE=a failure\nPRIORITY=3\n{common}"));
    let fields = "CONJURE_CORE=3\nCONJURE_CLUSTER=98\n";
    assert_eq!(next(), format!("MESSAGE=core line\nPRIORITY=6\n{common}{fields}"));
}

#[test]
fn without_its_socket_the_journal_gets_levels_in_front() {
    let dir = tempfile::tempdir().unwrap();
    let run = run(dir.path(), Some(&dir.path().join("nobody")), "");
    assert_eq!(run.out, "<7>[REG] a trace\n<4>[REG] two\n<4>lines\n<3>a failure\n<6>core line\n");
}

#[test]
fn a_file_gets_lines_with_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let run = run(dir.path(), None, "text");
    let first = run.out.lines().next().unwrap();
    // [REG] 2025/06/18 15:46:32.123456 a trace
    assert!(first.starts_with("[REG] 20") && first.ends_with(" a trace"), "{first}");
    assert_eq!(first.len(), "[REG] 2025/06/18 15:46:32.123456 a trace".len());
    assert!(run.err.ends_with(" a failure\n"), "{}", run.err);
}

#[test]
fn the_reference_writes_plain_lines_under_any_manager() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("journal");
    let journal = UnixDatagram::bind(&socket).unwrap();
    journal.set_nonblocking(true).unwrap();
    let run = run(dir.path(), Some(&socket), "reference");
    assert!(run.out.starts_with("[REG] 20") && run.out.ends_with("core line\n"), "{}", run.out);
    assert!(journal.recv(&mut [0; 16]).is_err(), "nothing for the journal");
}

#[test]
fn a_format_that_does_not_exist_is_named() {
    use telemetry::output::Format;
    let error = Format::parse("log_format", "json").unwrap_err().to_string();
    assert_eq!(error, "log_format: found `json`, expected text or reference");
}
