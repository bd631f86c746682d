//! Which CPU, queue and tun device each worker has (`spec/operations.md` 6).

/// CPUs above this number cannot be named, as in the reference.
pub const MAX_CPUS: usize = 256;

/// Numbers that place the workers of one detector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// First CPU.
    pub core_base: usize,
    /// Workers, which is also queues per set and tun devices of the detector.
    pub core_count: usize,
    /// CPU to leave out.
    pub skip_core: Option<usize>,
    /// First queue.
    pub queue_offset: usize,
    /// First tun device prepared by the host setup.
    pub tun_offset: usize,
}

impl Placement {
    /// CPU of each worker.
    pub fn cores(&self) -> Vec<usize> {
        (self.core_base..)
            .filter(|cpu| Some(*cpu) != self.skip_core)
            .take(self.core_count)
            .collect()
    }

    /// Queue of each worker.
    pub fn queues(&self) -> Vec<usize> {
        (self.queue_offset..).take(self.core_count).collect()
    }

    /// Tun device of each worker: its number is that of the queue.
    pub fn detector_tuns(&self) -> Vec<String> {
        self.queues().into_iter().map(|queue| format!("tun{queue}")).collect()
    }

    /// Tun devices the host setup prepares: those of the workers and one for the application.
    pub fn prepared_tuns(&self) -> Vec<String> {
        (self.tun_offset..=self.tun_offset + self.core_count).map(|n| format!("tun{n}")).collect()
    }

    /// Tun device of the application.
    pub fn dnat_tun(&self) -> String {
        format!("tun{}", self.tun_offset + self.core_count)
    }

    /// True when the detector uses the tun devices that were prepared.
    pub const fn offsets_agree(&self) -> bool {
        self.queue_offset == self.tun_offset
    }

    /// The highest CPU that is needed but not among the `available` first ones, if any.
    pub fn missing_core(&self, available: usize) -> Option<usize> {
        self.cores().last().copied().filter(|&cpu| cpu >= available.min(MAX_CPUS))
    }
}

/// CPUs of a list such as `0,2-3`; `None` when it is none.
pub fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last < first || last >= MAX_CPUS {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(cpu_list("3"), Some(vec![3]));
        assert_eq!(cpu_list("0, 2-4"), Some(vec![0, 2, 3, 4]));
        for wrong in ["", "a", "4-2", "0-", "0-99999", "1;2"] {
            assert_eq!(cpu_list(wrong), None, "{wrong}");
        }
    }
}
