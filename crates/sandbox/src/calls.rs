//! Which system calls the process may make (seccomp).
//!
//! A list of what is allowed; everything else fails with EPERM, so that a gap in the list shows as
//! an error with a name and not as a death. What no daemon could ever want ends the process.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use crate::Switch;

/// Allowed with any arguments, on every architecture.
const ALLOWED: &[i64] = &[
    // Descriptors and files; which files is Landlock's business.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_openat,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_umask,
    libc::SYS_getcwd,
    libc::SYS_chdir,
    libc::SYS_setsid,
    // Memory; mapping code is a rule of its own.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_memfd_create,
    // Threads.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_getpriority,
    libc::SYS_setpriority,
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
    // Signals: to itself.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Time and numbers.
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_getrandom,
    libc::SYS_getcpu,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // Waiting.
    libc::SYS_eventfd2,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_pidfd_open,
    // Moving bytes.
    libc::SYS_pipe2,
    libc::SYS_splice,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
];

/// The older forms that this architecture still has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_dup2,
    libc::SYS_readlink,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_mkdir,
    libc::SYS_chmod,
    libc::SYS_time,
    libc::SYS_getrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[i64] = &[];

/// What no daemon of the station could ever want.
const DEADLY: &[i64] = &[
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_quotactl,
    libc::SYS_open_by_handle_at,
];

/// The command of `bpf(2)` that runs a program (`BPF_PROG_TEST_RUN`).
const RUN_PROGRAM: u64 = 10;

/// Controls of terminals, sockets and interfaces that the runtime uses.
const CONTROLS: &[u64] = &[
    0x5401, // TCGETS: is this a terminal?
    0x541b, // FIONREAD
    0x5421, // FIONBIO
    0x5451, // FIOCLEX
    0x8910, // SIOCGIFNAME
    0x8912, // SIOCGIFCONF
    0x8913, // SIOCGIFFLAGS
    0x8933, // SIOCGIFINDEX
];

/// What `prctl` is used for once the sandbox is closed: names of threads and of memory, and what the
/// kernel told the program at its start.
const PROCESS_CONTROLS: &[u64] = &[
    15,          // PR_SET_NAME
    16,          // PR_GET_NAME
    0x5356_4d41, // PR_SET_VMA
    0x4155_5856, // PR_GET_AUXV
];

/// Installs the filters for every thread of the process.
pub(crate) fn restrict(
    packet_sockets: bool,
    runs_programs: bool,
    switch: Switch,
    notes: &mut Vec<String>,
) -> io::Result<()> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        notes.push(format!(
            "system calls are not restricted: no seccomp profile for {}",
            std::env::consts::ARCH
        ));
        return Ok(());
    };
    for filter in filters(packet_sockets, runs_programs, switch, arch).map_err(io::Error::other)? {
        seccompiler::apply_filter_all_threads(&filter).map_err(io::Error::other)?;
    }
    Ok(())
}

fn filters(
    packet_sockets: bool,
    runs_programs: bool,
    switch: Switch,
    arch: TargetArch,
) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let program = |rules: BTreeMap<i64, Vec<SeccompRule>>, otherwise, matched| {
        BpfProgram::try_from(SeccompFilter::new(rules, otherwise, matched, arch)?)
    };
    let every = |calls: &[i64]| calls.iter().map(|call| (*call, Vec::new())).collect();
    let refused = match switch {
        Switch::On | Switch::Off => SeccompAction::Errno(libc::EPERM as u32),
        Switch::Log => SeccompAction::Log,
    };
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    let mut filters = Vec::new();
    if switch != Switch::Log {
        let mut deadly: BTreeMap<_, _> = every(DEADLY);
        if runs_programs {
            let other = SeccompCondition::new(0, Len::Dword, Op::Ne, RUN_PROGRAM)?;
            deadly.insert(libc::SYS_bpf, vec![SeccompRule::new(vec![other])?]);
        }
        filters.push(program(deadly, SeccompAction::Allow, SeccompAction::KillProcess)?);
    }
    // The flags of clone3 are out of a filter's sight; the C library then takes clone.
    filters.push(program(every(&[libc::SYS_clone3]), SeccompAction::Allow, absent)?);
    filters.push(program(allowed(packet_sockets, runs_programs)?, refused, SeccompAction::Allow)?);
    Ok(filters)
}

fn allowed(
    packet_sockets: bool,
    runs_programs: bool,
) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_HERE).map(|call| (*call, Vec::new())).collect();
    let argument = |index, op, value| SeccompCondition::new(index, Len::Dword, op, value);
    let one_of = |index, values: &[u64]| {
        let rule = |value: &u64| SeccompRule::new(vec![argument(index, Op::Eq, *value)?]);
        values.iter().map(rule).collect::<Result<Vec<_>, _>>()
    };
    // Code comes from the program and its libraries, which are mapped already.
    let no_code = argument(2, Op::MaskedEq(libc::PROT_EXEC as u64), 0)?;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![SeccompRule::new(vec![no_code.clone()])?]);
    }
    // Threads, no processes.
    let thread = libc::CLONE_THREAD as u64;
    let threads = SeccompRule::new(vec![argument(0, Op::MaskedEq(thread), thread)?])?;
    rules.insert(libc::SYS_clone, vec![threads]);
    rules.insert(libc::SYS_ioctl, one_of(1, CONTROLS)?);
    rules.insert(libc::SYS_prctl, one_of(0, PROCESS_CONTROLS)?);
    // Limits are read, and only its own.
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![argument(0, Op::Eq, 0)?])?]);
    rules.insert(libc::SYS_tgkill, one_of(0, &[u64::from(std::process::id())])?);
    rules.insert(libc::SYS_socketpair, one_of(0, &[libc::AF_UNIX as u64])?);
    let mut sockets = one_of(0, &[libc::AF_UNIX as u64, libc::AF_NETLINK as u64])?;
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            sockets.push(SeccompRule::new(vec![
                argument(0, Op::Eq, family as u64)?,
                argument(1, Op::MaskedEq(0xf), kind as u64)?,
            ])?);
        }
    }
    if packet_sockets {
        sockets.extend(one_of(0, &[libc::AF_PACKET as u64])?);
    }
    rules.insert(libc::SYS_socket, sockets);
    if runs_programs {
        rules.insert(libc::SYS_bpf, one_of(0, &[RUN_PROGRAM])?);
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_deadly_is_allowed_and_the_programs_fit_the_kernel() {
        for call in DEADLY {
            assert!(!ALLOWED.contains(call) && !ALLOWED_HERE.contains(call), "{call}");
        }
        let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
        for filter in filters(true, true, Switch::On, arch).unwrap() {
            assert!(filter.len() < 4096, "{}", filter.len());
        }
    }
}
