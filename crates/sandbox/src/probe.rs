//! What a confined process can still do, tried from within: for the tests of the daemons.

use std::io;
use std::path::Path;

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

/// Makes a system call that the tests expect to be refused before it does anything.
#[allow(unsafe_code)]
fn call(number: libc::c_long, arguments: [usize; 3]) -> io::Result<()> {
    let [a, b, c] = arguments;
    // SAFETY: no call of the list above reads or writes memory of this process: their arguments are
    // plain numbers, and the range of `mprotect` belongs to nobody.
    let result = unsafe { libc::syscall(number, a, b, c) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
