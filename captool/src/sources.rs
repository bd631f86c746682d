//! Where packets come from: files, interfaces, or a queue set of a running balancer.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use shm::{Consumer, ConsumerOptions, ConsumerState, Reads};

use crate::arguments::Arguments;
use crate::file::{Capture, FileError, files};
use crate::frame::Link;

/// Longest wait for a packet, which bounds how long an end is waited for.
const WAIT: Duration = Duration::from_millis(50);
/// Packets of one call.
const BURST: usize = 64;

/// A source that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Interface(#[from] capture::OpenError),
    #[error("cluster {cluster}: {cause} (is zbalance running, with this CJ_IPC_DIR?)")]
    Cluster { cluster: u32, cause: shm::AttachError },
    #[error(
        "cluster {cluster} has no queue set {set}; it has {sets} (start zbalance with one more, e.g. -n 4,4)"
    )]
    NoSet { cluster: u32, set: u32, sets: u32 },
    #[error(
        "queue {queue} of set {set} is held by process {pid}: a set has one reader, choose a free one"
    )]
    Busy { queue: u32, set: u32, pid: u64 },
    #[error("{0}")]
    Read(#[from] io::Error),
}

/// Says whether to go on.
pub(crate) enum Next {
    Go,
    End,
}

/// Takes a captured frame, what it begins with, and its time in nanoseconds since the epoch.
pub(crate) type Each<'a> = dyn FnMut(&[u8], Link, u64) -> io::Result<Next> + 'a;

/// Hands every packet to `each` until that says no, the source ends, or `stop` does.
pub(crate) fn run(
    options: &Arguments,
    stop: &dyn Fn() -> bool,
    each: &mut Each<'_>,
) -> Result<(), SourceError> {
    if let Some(path) = &options.pcaps {
        return from_files(path, stop, each);
    }
    if let Some(cluster) = options.cluster {
        return from_cluster(cluster, options.set, stop, each);
    }
    let default = ["eno1".to_owned()];
    let names = if options.interfaces.is_empty() { &default[..] } else { &options.interfaces };
    from_interfaces(names, stop, each)
}

fn from_files(
    path: &Path,
    stop: &dyn Fn() -> bool,
    each: &mut Each<'_>,
) -> Result<(), SourceError> {
    let files = files(path)?;
    let size = |path: &std::path::PathBuf| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let bar = progress(files.iter().map(size).sum());
    for file in &files {
        let watched = bar.clone();
        let mut capture = Capture::open(file, |file| watched.wrap_read(file))?;
        while let Some(record) = capture.next()? {
            if stop() || matches!(each(record.data, record.link, record.time)?, Next::End) {
                return Ok(());
            }
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// A bar on standard error, when somebody looks at that.
fn progress(bytes: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::hidden());
    }
    let bar = ProgressBar::new(bytes);
    let form = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style);
    }
    bar
}

fn from_interfaces(
    names: &[String],
    stop: &dyn Fn() -> bool,
    each: &mut Each<'_>,
) -> Result<(), SourceError> {
    let mut sources = names
        .iter()
        .map(|name| capture::open(&format!("afp:{name}")))
        .collect::<Result<Vec<_>, capture::OpenError>>()?;
    let wait = WAIT / u32::try_from(sources.len()).unwrap_or(1).max(1);
    while !stop() {
        for source in &mut sources {
            let mut outcome = Ok(Next::Go);
            source.burst(BURST, wait, &mut |frame| {
                if matches!(outcome, Ok(Next::Go)) {
                    outcome = each(frame.data, Link::Ethernet, frame.timestamp);
                }
            })?;
            if matches!(outcome?, Next::End) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Reads a set of queues that nobody else reads, or a mirror of all. The balancer bounds what a reader may hold
/// and drops for that queue or mirror alone, so a slow reader costs no other a packet.
fn from_cluster(
    cluster: u32,
    set: Option<u32>,
    stop: &dyn Fn() -> bool,
    each: &mut Each<'_>,
) -> Result<(), SourceError> {
    let dir = telemetry::admin::ipc_dir();
    let failed = |cause| SourceError::Cluster { cluster, cause };
    let connect = |reads| {
        Consumer::connect(ConsumerOptions::sleeping(dir.clone(), cluster, reads)).map_err(failed)
    };
    let mut consumers = Vec::new();
    if let Some(set) = set {
        let text = shm::monitor(&dir, cluster).map_err(failed)?;
        for queue in queues_of(&text, cluster, set)? {
            consumers.push(connect(Reads::Queue(queue))?);
        }
        eprintln!("captool: attached to {} queue(s) of set {set}", consumers.len());
    } else {
        consumers.push(connect(Reads::MirrorOfAll)?);
        eprintln!("captool: looking on at cluster {cluster}");
    }
    let wait = WAIT / u32::try_from(consumers.len()).unwrap_or(1).max(1);
    while !stop() {
        for consumer in &mut consumers {
            let burst = consumer.receive(wait);
            for frame in burst.iter() {
                let time = frame.timestamp().unwrap_or_else(now);
                if matches!(each(frame.data, Link::Ethernet, time)?, Next::End) {
                    return Ok(());
                }
            }
        }
        if consumers.iter().all(|consumer| consumer.state() == ConsumerState::Detached) {
            eprintln!("captool: zbalance has gone");
            return Ok(());
        }
    }
    let dropped: u64 = consumers.iter().map(|consumer| consumer.statistics().dropped).sum();
    if dropped > 0 {
        eprintln!("captool: {dropped} packets came faster than they were written");
    }
    Ok(())
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Numbers of the free queues of `set`, of a balancer's own description.
fn queues_of(text: &str, cluster: u32, set: u32) -> Result<Vec<u16>, SourceError> {
    let described: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let queues = described["queues"].as_array().cloned().unwrap_or_default();
    let number = |queue: &serde_json::Value, name: &str| queue[name].as_u64().unwrap_or(u64::MAX);
    let mut found = Vec::new();
    let mut sets = 0;
    for queue in &queues {
        sets = sets.max(number(queue, "set").saturating_add(1));
        if number(queue, "set") != u64::from(set) {
            continue;
        }
        let id = number(queue, "queue") as u32;
        if let Some(pid) = queue["consumer"].as_u64() {
            return Err(SourceError::Busy { queue: id, set, pid });
        }
        found.push(u16::try_from(id).unwrap_or(u16::MAX));
    }
    if found.is_empty() {
        return Err(SourceError::NoSet { cluster, set, sets: sets as u32 });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_of_a_detector_is_left_alone() {
        let text = "{\"queues\": [{\"queue\": 0, \"set\": 0, \"consumer\": 77}, \
                    {\"queue\": 1, \"set\": 1, \"consumer\": null}, {\"queue\": 2, \"set\": 1}]}";
        assert_eq!(queues_of(text, 98, 1).unwrap(), [1, 2]);
        let busy = queues_of(text, 98, 0).unwrap_err().to_string();
        assert!(busy.contains("process 77"), "{busy}");
        let none = queues_of(text, 98, 2).unwrap_err().to_string();
        assert!(none.contains("no queue set 2; it has 2"), "{none}");
    }
}
