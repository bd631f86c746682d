//! What a reload changes in a running balancer: which frames are taken, and what is printed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use signalling::station::FileResult;
use telemetry::process::{file_result, merge};

use crate::arguments::Arguments;
use crate::filters::{FilterError, FilterMaker, Filters};

/// Options that hold until the next reload.
#[derive(Debug)]
pub struct Live {
    /// The options at the start.
    started: Arguments,
    maker: FilterMaker,
    /// Which frames are spread, and to which queues.
    pub filters: Arc<ArcSwap<Filters>>,
    verbose: AtomicBool,
    silent: AtomicBool,
    per_queue: AtomicBool,
}

impl Live {
    /// The options of the start; loads what filters take, so it comes before the process confines itself.
    ///
    /// # Errors
    /// When a filter is wrong.
    pub fn new(arguments: &Arguments) -> Result<Self, FilterError> {
        let maker = FilterMaker::load(arguments)?;
        let filters = maker.make(arguments)?;
        Ok(Self {
            started: arguments.clone(),
            maker,
            filters: Arc::new(ArcSwap::from_pointee(filters)),
            verbose: arguments.verbose.into(),
            silent: arguments.silent.into(),
            per_queue: arguments.per_queue.into(),
        })
    }

    /// Print statistics once a second (`-v` without `-z`).
    pub fn prints(&self) -> bool {
        self.verbose.load(Ordering::Relaxed) && !self.silent.load(Ordering::Relaxed)
    }

    /// Add counters per interface and queue to the statistics (`-p`).
    pub fn per_queue(&self) -> bool {
        self.per_queue.load(Ordering::Relaxed)
    }

    fn apply(&self, fresh: &Arguments, filters: Filters) {
        self.filters.store(Arc::new(filters));
        self.verbose.store(fresh.verbose, Ordering::Relaxed);
        self.silent.store(fresh.silent, Ordering::Relaxed);
        self.per_queue.store(fresh.per_queue, Ordering::Relaxed);
    }
}

/// Reads the file of options again, if there is one, and the filters. When one of them is wrong, all stay as
/// they were.
pub fn reload(live: &Live) -> Vec<FileResult> {
    let file = live.started.file.as_deref();
    let fresh = match file.map(|path| (path, Arguments::of_file(path))) {
        Some((path, Err(error))) => return vec![file_result(path, Some(&error))],
        Some((_, Ok(fresh))) => fresh,
        None => live.started.clone(),
    };
    match live.maker.make(&fresh) {
        Ok(filters) => {
            live.apply(&fresh, filters);
            let options = file.map(|path| merge(path, &changed(&live.started, &fresh)));
            let read =
                fresh.filters.iter().map(|filter| file_result(&filter.path, None::<&String>));
            options.into_iter().chain(read).collect()
        }
        Err(error) => {
            let path = error.path().or(file).unwrap_or(Path::new("-f"));
            vec![file_result(path, Some(&error.to_string()))]
        }
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
        ("--hash-seed", old.hash_seed != new.hash_seed),
        ("--prefilter", old.prefilter != new.prefilter),
        ("--fast-path", old.fast_path != new.fast_path),
        ("-g", old.cores != new.cores),
        ("-q", old.slots != new.slots),
        ("-b", old.buffers != new.buffers),
        ("-a", old.active != new.active),
        ("-P", path(&old.pid_file) != path(&new.pid_file)),
        ("-l", path(&old.log) != path(&new.log)),
        ("-d", old.daemon != new.daemon),
        ("-D", old.user != new.user),
        ("--speed, --pps or --loop", old.playback != new.playback),
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
        let live = Live::new(&Arguments::of_file(&path).unwrap()).unwrap();
        let frame = |id: u8| {
            let mut frame = vec![0; 12];
            frame.extend([0x81, 0, 0, id, 8, 0]);
            frame
        };
        let takes = |id| live.filters.load().takes(&frame(id), 60);
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

    #[test]
    fn filters_are_read_again_without_a_file_of_options() {
        use clap::Parser;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bpf");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("ip");
        let shown = path.display().to_string();
        let live = ["zbalance", "-i", "x", "-n", "1", "-f", &shown];
        let live = Live::new(&Arguments::try_parse_from(live).unwrap()).unwrap();
        let ip = [&[2; 12][..], &[8, 0], &[0; 40]].concat();
        let takes = || live.filters.load().takes(&ip, ip.len());
        assert!(takes());
        write("not ip");
        let results = reload(&live);
        assert!(results.len() == 1 && results[0].applied && results[0].file == shown && !takes());
        write("nott ip");
        let results = reload(&live);
        assert!(!results[0].applied && results[0].error.contains("`nott ip`"), "{results:?}");
        assert!(!takes(), "the old filter is whole");
    }
}
