//! What a confined process can still do, tried from within: for the tests of the daemons.

use std::error::Error;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Sandbox;

/// What was tried, and what came of it.
pub type Attempt = (&'static str, io::Result<()>);

/// Enters `sandbox` and tries what no daemon may do: start a program, fork, trace, capture, map code,
/// open files outside of its folders, look at another process. All of them fail in a sandbox that holds.
///
/// # Errors
/// When the sandbox cannot be entered.
pub fn forbidden(sandbox: Sandbox, outside: &Path) -> Result<Vec<Attempt>, crate::SandboxError> {
    sandbox.enter_as(crate::Switch::On)?;
    let open = |path: &Path| std::fs::File::open(path).map(drop);
    let write = |path: &Path| std::fs::File::create(path).map(drop);
    Ok(vec![
        ("starting a program", std::process::Command::new("/bin/true").status().map(drop)),
        ("fork", call(libc::SYS_clone, [0, 0, 0])),
        ("ptrace", call(libc::SYS_ptrace, [libc::PTRACE_TRACEME as usize, 0, 0])),
        ("reading another process", open(Path::new("/proc/1/maps"))),
        ("a file outside", open(outside)),
        ("writing outside", write(&outside.with_extension("new"))),
        ("a shell's history", open(Path::new("/root"))),
        ("a packet socket", call(libc::SYS_socket, [17, 3, 0])),
        ("a raw socket", call(libc::SYS_socket, [2, 3, 1])),
        ("mapping code", call(libc::SYS_mprotect, [0, 4096, 5])),
        ("another user", call(libc::SYS_setuid, [0, 0, 0])),
        ("signals to others", call(libc::SYS_kill, [1, 0, 0])),
    ])
}

/// Folder of a test that runs itself.
const INSIDE: &str = "SANDBOX_PROBE_INSIDE";

/// The `main` of a test without harness, for a sandbox is for good and wants a process with one thread:
/// runs itself and tries the profile of `daemon` from within. What is forbidden must fail, and what the daemon
/// lives on must work. `profile` is given the folder of its configuration, with the file `a.toml`;
/// `CJ_IPC_DIR` is beside it.
///
/// # Errors
/// Names what is not as it should be.
pub fn holds(daemon: &str, profile: impl FnOnce(&Path) -> Sandbox) -> Result<(), Box<dyn Error>> {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return inside(&PathBuf::from(dir), profile);
    }
    let dir = std::env::temp_dir().join(format!("sandbox-{daemon}-{}", std::process::id()));
    for folder in ["configuration", "ipc"] {
        std::fs::create_dir_all(dir.join(folder))?;
    }
    std::fs::write(dir.join("secret"), "of somebody else")?;
    std::fs::write(dir.join("configuration/a.toml"), "")?;
    let output = Command::new(std::env::current_exe()?)
        .env(INSIDE, &dir)
        .env("CJ_IPC_DIR", dir.join("ipc"))
        .output();
    std::fs::remove_dir_all(&dir)?;
    let output = output?;
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() || !out.contains("all refused") {
        return Err(format!("{}: {out}{err}", output.status).into());
    }
    println!("test the_sandbox_of_the_{daemon}_holds ... ok\n{out}");
    Ok(())
}

fn inside(dir: &Path, profile: impl FnOnce(&Path) -> Sandbox) -> Result<(), Box<dyn Error>> {
    let configuration = dir.join("configuration");
    for (what, result) in forbidden(profile(&configuration), &dir.join("secret"))? {
        match result {
            Err(error) if matches!(error.raw_os_error(), Some(1 | 13)) => {
                println!("refused: {what}: {error}");
            }
            other => return Err(format!("{what}: {other:?}").into()),
        }
    }
    println!("all refused");
    // What it lives on still works.
    let file = configuration.join("a.toml");
    std::fs::read_to_string(&file)?;
    if std::fs::rename(&file, configuration.join("b.toml")).is_ok() {
        return Err("it may change its configuration".into());
    }
    std::fs::write(dir.join("ipc/file"), "")?;
    std::os::unix::net::UnixListener::bind(dir.join("ipc/socket"))?;
    std::net::TcpListener::bind("127.0.0.1:0")?;
    std::thread::spawn(|| ()).join().map_err(|_| "no threads")?;
    Ok(())
}

/// Folder of the other test that runs itself.
const RUNS: &str = "SANDBOX_PROBE_RUNS";

/// Like [`holds`], for a profile that may run programs of BPF: to run one is not refused, and any other command ends
/// the process.
///
/// # Errors
/// Names what is not as it should be.
pub fn runs_programs_only(profile: impl FnOnce(&Path) -> Sandbox) -> Result<(), Box<dyn Error>> {
    let [make_map, run_program] = [0, 10];
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    if let Some(dir) = std::env::var_os(RUNS) {
        profile(Path::new(&dir)).enter_as(crate::Switch::On)?;
        match call(libc::SYS_bpf, [run_program, 0, 0]) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Err(error.into()),
            other => println!("may run programs: {other:?}"),
        }
        println!("lives on: {:?}", call(libc::SYS_bpf, [make_map, 0, 0]));
        return Ok(());
    }
    let dir = std::env::temp_dir().join(format!("sandbox-programs-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let output = Command::new(std::env::current_exe()?).env(RUNS, &dir).output();
    std::fs::remove_dir_all(&dir)?;
    let output = output?;
    let out = String::from_utf8_lossy(&output.stdout);
    let killed = std::os::unix::process::ExitStatusExt::signal(&output.status);
    if killed != Some(libc::SIGSYS) || !out.contains("may run programs") || out.contains("lives on")
    {
        return Err(
            format!("{}: {out}{}", output.status, String::from_utf8_lossy(&output.stderr)).into()
        );
    }
    println!("test it_runs_programs_of_bpf_and_does_nothing_else_with_them ... ok");
    Ok(())
}

/// Whether the process `pid` runs as user `uid` and group `gid` with no other group, and every socket in
/// `folder`, at least one, belongs to that user.
///
/// # Errors
/// Names what is not so.
pub fn runs_as(pid: u32, uid: u32, gid: u32, folder: &Path) -> Result<(), Box<dyn Error>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<Vec<u32>, Box<dyn Error>> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let numbers = line.ok_or_else(|| format!("no {name}"))?.split_whitespace();
        Ok(numbers.map(str::parse).collect::<Result<_, _>>()?)
    };
    for (name, wanted) in [("Uid:", vec![uid; 4]), ("Gid:", vec![gid; 4]), ("Groups:", vec![gid])] {
        let found = field(name)?;
        if found != wanted {
            return Err(format!("{name} {found:?} instead of {wanted:?}").into());
        }
    }
    let mut sockets = 0;
    for entry in std::fs::read_dir(folder)? {
        use std::os::unix::fs::FileTypeExt;
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.file_type().is_socket() {
            sockets += 1;
            if (metadata.uid(), metadata.gid()) != (uid, gid) {
                return Err(format!("{:?} belongs to {}", entry.path(), metadata.uid()).into());
            }
        }
    }
    if sockets == 0 { Err("it made no socket".into()) } else { Ok(()) }
}

/// Makes a system call that the tests expect to be refused before it does anything.
#[allow(unsafe_code)]
fn call(number: libc::c_long, arguments: [usize; 3]) -> io::Result<()> {
    let [a, b, c] = arguments;
    // SAFETY: no call of the list above reads or writes memory of this process: their arguments are
    // plain numbers, and the range of `mprotect` belongs to nobody.
    let result = unsafe { libc::syscall(number, a, b, c) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
