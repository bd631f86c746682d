//! CPUs of the ingest threads.

use std::io;

use crate::arguments::Arguments;
use crate::daemon::StartError;

/// Binds the calling thread to a CPU.
pub(crate) fn pin(core: Option<usize>) -> io::Result<()> {
    let Some(core) = core else { return Ok(()) };
    let mut set = rustix::thread::CpuSet::new();
    if core >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// CPUs that the scheduler may give to this process, as the kernel writes them.
pub(crate) fn allowed() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.map_or_else(|| "unknown".to_owned(), |list| list.trim().to_owned())
}

/// Binds the calling thread to each CPU and lets it go again, to know now whether it will be possible. No thread of
/// its own, which the sandbox might still find.
pub(crate) fn check_cores(arguments: &Arguments, online: usize) -> Result<(), StartError> {
    for (index, name) in arguments.interfaces.iter().enumerate() {
        let Some(core) = arguments.core(index, online) else { continue };
        let before = rustix::thread::sched_getaffinity(None).map_err(io::Error::from)?;
        pin(Some(core)).map_err(|cause| {
            let (source_name, allowed) = (name.clone(), allowed());
            StartError::Cpu { source_name, core, allowed, cause }
        })?;
        rustix::thread::sched_setaffinity(None, &before).map_err(io::Error::from)?;
    }
    Ok(())
}

/// CPUs that are online, over which `-g` wraps around.
pub(crate) fn online() -> usize {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<usize>().ok()? + 1 - first.parse::<usize>().ok()?)
    };
    let counted: Option<usize> = text.trim().split(',').map(count).sum();
    counted
        .filter(|count| *count > 0)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn a_check_leaves_the_thread_where_it_may_run() {
        let before = rustix::thread::sched_getaffinity(None).unwrap();
        let line = ["zbalance", "-i", "afp:tap0,afp:tap1", "-c", "1", "-n", "2", "-g", "0:0"];
        let arguments = Arguments::parse_from(line);
        check_cores(&arguments, online()).unwrap();
        assert_eq!(rustix::thread::sched_getaffinity(None).unwrap(), before);
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused() {
        let online = online();
        assert!(online > 0);
        for core in [rustix::thread::CpuSet::MAX_CPU - 1, usize::MAX] {
            let cause = std::thread::spawn(move || pin(Some(core))).join().unwrap().unwrap_err();
            let source_name = "afp:tap0".to_owned();
            let error = StartError::Cpu { source_name, core, allowed: allowed(), cause };
            assert!(error.to_string().contains("-g"), "{error}");
            assert!(!allowed().is_empty() && allowed() != "unknown");
        }
    }
}
