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

/// Binds a thread that does nothing else to each CPU, to know now whether it will be possible.
pub(crate) fn check_cores(arguments: &Arguments, online: usize) -> Result<(), StartError> {
    for (index, name) in arguments.interfaces.iter().enumerate() {
        let Some(core) = arguments.core(index, online) else { continue };
        let tried = std::thread::spawn(move || pin(Some(core))).join();
        if let Err(cause) = tried.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())) {
            let (source_name, allowed) = (name.clone(), allowed());
            return Err(StartError::Cpu { source_name, core, allowed, cause });
        }
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
