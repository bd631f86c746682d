//! What this process uses of the machine.
//!
//! The files of `/proc` are opened once, so that they can be read after the process has given up
//! opening files.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use parking_lot::Mutex;
use rustix::fs::{Dir, Mode, OFlags};
use signalling::station::ProcessStatus;

struct Files {
    status: Option<File>,
    descriptors: Option<Mutex<Dir>>,
}

static FILES: OnceLock<Files> = OnceLock::new();

/// Opens what [`usage`] reads; the first call of either does it.
pub(crate) fn prepare() {
    FILES.get_or_init(|| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptors = rustix::fs::open("/proc/self/fd", flags, Mode::empty());
        Files {
            status: File::open("/proc/self/status").ok(),
            descriptors: descriptors.and_then(Dir::new).ok().map(Mutex::new),
        }
    });
}

/// Present use; what cannot be read is 0.
pub(crate) fn usage() -> ProcessStatus {
    use rustix::process::{Resource, getrlimit};
    use rustix::time::{ClockId, clock_gettime};
    prepare();
    let Some(files) = FILES.get() else { return ProcessStatus::default() };
    let mut text = [0; 4096];
    let length = files.status.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
    let text = String::from_utf8_lossy(&text[..length.unwrap_or(0)]);
    let number = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    ProcessStatus {
        resident_memory_bytes: number("VmRSS:") * 1024,
        open_fds: files.descriptors.as_ref().map_or(0, open_descriptors),
        max_fds: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
        threads: number("Threads:"),
    }
}

fn open_descriptors(dir: &Mutex<Dir>) -> u64 {
    let mut dir = dir.lock();
    dir.rewind();
    let names = std::iter::from_fn(|| dir.read());
    let numbers = names.flatten().filter(|entry| entry.file_name().to_bytes()[0] != b'.');
    numbers.count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_itself() {
        let before = usage();
        assert!(before.resident_memory_bytes > 1 << 20, "{before:?}");
        assert!(before.threads >= 1 && before.cpu_seconds > 0.0, "{before:?}");
        let files: Vec<File> = (0..20).map(|_| File::open("/dev/null").unwrap()).collect();
        // Other tests of this process open and close files too.
        assert!(usage().open_fds + 10 >= before.open_fds + files.len() as u64);
        assert!(before.max_fds >= before.open_fds);
    }
}
