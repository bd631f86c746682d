//! What a reload changes in a running balancer: which frames are taken, and what is printed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use signalling::station::FileResult;
use telemetry::process::{file_result, merge};

use crate::arguments::Arguments;
use crate::spread::VlanFilter;

/// Options that hold until the next reload.
#[derive(Debug)]
pub struct Live {
    /// The options at the start.
    started: Arguments,
    /// Which frames are spread at all.
    pub vlans: Arc<ArcSwap<VlanFilter>>,
    verbose: AtomicBool,
    silent: AtomicBool,
    per_queue: AtomicBool,
}

impl Live {
    /// The options of the start.
    pub fn new(arguments: &Arguments) -> Self {
        Self {
            started: arguments.clone(),
            vlans: Arc::new(ArcSwap::from_pointee(VlanFilter::new(&arguments.vlans))),
            verbose: arguments.verbose.into(),
            silent: arguments.silent.into(),
            per_queue: arguments.per_queue.into(),
        }
    }

    /// Print statistics once a second (`-v` without `-z`).
    pub fn prints(&self) -> bool {
        self.verbose.load(Ordering::Relaxed) && !self.silent.load(Ordering::Relaxed)
    }

    /// Add counters per interface and queue to the statistics (`-p`).
    pub fn per_queue(&self) -> bool {
        self.per_queue.load(Ordering::Relaxed)
    }

    fn apply(&self, fresh: &Arguments) {
        self.vlans.store(Arc::new(VlanFilter::new(&fresh.vlans)));
        self.verbose.store(fresh.verbose, Ordering::Relaxed);
        self.silent.store(fresh.silent, Ordering::Relaxed);
        self.per_queue.store(fresh.per_queue, Ordering::Relaxed);
    }
}

/// Reads the file of options again; a balancer that was started with options has nothing to read.
pub fn reload(live: &Live) -> Vec<FileResult> {
    let Some(path) = &live.started.file else { return Vec::new() };
    match Arguments::of_file(path) {
        Ok(fresh) => {
            live.apply(&fresh);
            vec![merge(path, &changed(&live.started, &fresh))]
        }
        Err(error) => vec![file_result(path, Some(&error))],
    }
}

/// Options that differ and take a restart.
fn changed(old: &Arguments, new: &Arguments) -> Vec<&'static str> {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|p| std::path::absolute(p).ok());
    [
        ("-i", old.interfaces != new.interfaces),
        ("-c", old.cluster != new.cluster),
        ("-n", old.queues != new.queues),
        ("-m", old.mode != new.mode),
        ("-M", old.vlan_map != new.vlan_map),
        ("-Y", old.ether_type != new.ether_type),
        ("--decap", old.decap != new.decap),
        ("-g", old.cores != new.cores),
        ("-q", old.slots != new.slots),
        ("-b", old.buffers != new.buffers),
        ("-a", old.active != new.active),
        ("-P", path(&old.pid_file) != path(&new.pid_file)),
        ("-l", path(&old.log) != path(&new.log)),
        ("-d", old.daemon != new.daemon),
        ("-D", old.user != new.user),
    ]
    .into_iter()
    .filter_map(|(option, differs)| differs.then_some(option))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_takes_all_it_can_names_the_rest_and_keeps_the_old_on_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.conf");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("-i=x\n-n=4\n-x=100\n");
        let live = Live::new(&Arguments::of_file(&path).unwrap());
        let frame = |id: u8| {
            let mut frame = vec![0; 12];
            frame.extend([0x81, 0, 0, id, 8, 0]);
            frame
        };
        let takes = |id| live.vlans.load().takes(&frame(id));
        assert!(takes(100) && !takes(101) && !live.per_queue());

        write("-i=y\n-n=4\n-x=101\n-p\n-v\n");
        let result = reload(&live).remove(0);
        assert_eq!((result.applied, result.error.as_str()), (true, "needs a restart: -i"));
        assert!(takes(101) && !takes(100) && live.per_queue() && live.prints());

        write("-i=y\n-n=4\n-x=4095\n");
        let result = reload(&live).remove(0);
        assert!(!result.applied && result.error.contains("cluster.conf:3: invalid value '4095'"));
        assert!(takes(101) && live.per_queue(), "the old set is whole");
    }
}
