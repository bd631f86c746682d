//! How one detector follows another: tun devices, the publishing socket and the queues change hands, so that
//! no packet is lost between the two. Sessions come from the application; flows that were being followed
//! begin anew.

use crate::daemon::Failure;
use crate::source::{self, FrameSource};
use crate::status::Desk;
use bus::Publisher;
use handover::{Channel, steps};
use shm::Packed;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use telemetry::process::{self, Exit};

/// How long a successor keeps registrations for subscribers that come over.
pub(crate) const HELD: Duration = Duration::from_secs(10);
/// Time in which subscribers take what is queued.
const DISMISS: Duration = Duration::from_secs(1);
/// Time in which workers come to the end of a burst.
const WORKERS: Duration = Duration::from_secs(5);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(1);

/// Where a successor asks for this process's devices.
pub(crate) fn socket(queue_offset: usize) -> PathBuf {
    let offset = u32::try_from(queue_offset).unwrap_or(u32::MAX);
    handover::socket_path(&telemetry::admin::ipc_dir(), "detector", offset)
}

/// New process: takes the queues, by number, and publishes what the old process still finds.
///
/// # Errors
/// When the old process breaks off.
pub(crate) fn follow(
    desk: &Desk,
    channel: Channel,
) -> Result<HashMap<usize, Box<dyn FrameSource>>, Failure> {
    let failed =
        |error: io::Error| Failure::new(Exit::Unavailable, format_args!("--take-over: {error}"));
    let mut sources = HashMap::new();
    for (message, descriptors) in steps::ready(&channel).map_err(failed)? {
        let Some((number, packed)) = unpack(message, descriptors) else { continue };
        let (cluster, spin) =
            (desk.arguments.cluster.unwrap_or_default(), !desk.arguments.allow_unpinned);
        sources.insert(number, source::unpacked(cluster, number, spin, packed));
    }
    let publisher: Option<Arc<Publisher>> = desk.publisher.clone();
    let hear = move || {
        steps::hear_out(&channel, |message| {
            if let Some(publisher) = &publisher {
                publisher.publish(message.into());
            }
        });
    };
    let thread = std::thread::Builder::new().name("predecessor".to_owned()).spawn(hear);
    thread.map(drop).map_err(failed)?;
    Ok(sources)
}

fn unpack(message: Vec<u8>, descriptors: Vec<OwnedFd>) -> Option<(usize, Packed)> {
    let (number, state) = message.split_first_chunk::<4>()?;
    let number = usize::try_from(u32::from_be_bytes(*number)).ok()?;
    let descriptors = descriptors.try_into().ok()?;
    Some((number, Packed { descriptors, state: state.to_vec() }))
}

/// Old process: serves a successor. Blocks; within a runtime's context. The outer error means that nothing has
/// changed, the inner one that the workers have stopped for nobody.
///
/// # Errors
/// When the successor breaks off.
pub(crate) fn serve(
    desk: &Desk,
    stop: &AtomicBool,
    channel: Channel,
    pid: u32,
) -> io::Result<io::Result<()>> {
    let heeded = steps::heed(&channel, || {
        if let Some(publisher) = &desk.publisher {
            publisher.stop_accepting();
        }
    });
    heeded.inspect_err(|error| {
        eprintln!("detector: process {pid} wanted to take over and broke off: {error}");
        if let Some(publisher) = &desk.publisher {
            publisher.accept_again();
        }
    })?;
    Ok(give(desk, stop, channel, pid))
}

fn give(desk: &Desk, stop: &AtomicBool, channel: Channel, pid: u32) -> io::Result<()> {
    desk.handing.store(true, Ordering::Relaxed);
    stop.store(true, Ordering::Relaxed);
    let deadline = Instant::now() + WORKERS;
    let stopped = || desk.posts.iter().all(|post| post.ended.load(Ordering::Acquire));
    while !stopped() && Instant::now() < deadline {
        std::thread::sleep(LOOK);
    }
    for post in &desk.posts {
        let Some(Packed { descriptors, state }) = post.packed.lock().take() else { continue };
        let number = u32::try_from(post.queue).unwrap_or(u32::MAX).to_be_bytes();
        let descriptors = descriptors.each_ref().map(AsFd::as_fd);
        channel.send(&[&number[..], &state].concat(), &descriptors)?;
    }
    steps::stopped(&channel)?;
    process::notify(&format!("MAINPID={pid}"));
    if let Some(publisher) = &desk.publisher {
        // What is still being checked is published by the successor.
        publisher.redirect(move |message| drop(channel.send(&message, &[])));
        tokio::runtime::Handle::current().block_on(publisher.dismiss(DISMISS));
    }
    Ok(())
}
