//! The parts of a running detector, and how they are put together.

use crate::arguments::Arguments;
use crate::candidates::{Bell, Candidates};
use crate::checker::{Checkers, Inlet};
use crate::clock::Clock;
use crate::crew::Post;
use crate::daemon::Failure;
use crate::fast_path::Tables;
use crate::feed::{Feed, Holder};
use crate::log;
use crate::opening::Opened;
use crate::outlets::PacketSink;
use crate::pending::Pending;
use crate::sessions::Sessions;
use crate::settings::Settings;
use crate::source::{FrameSource, SourceState};
use crate::status::Desk;
use crate::succession;
use arc_swap::ArcSwap;
use bus::{Publisher, PublisherOptions};
use handover::Channel;
use session::watch::{DetectorId, Watch};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use telemetry::output::Stream;
use telemetry::process::{Exit, Reloads};
use tokio::sync::Notify;

/// A killed predecessor may hold its sockets for this long.
const PREDECESSOR: Duration = Duration::from_secs(2);

/// The parts of a running detector.
pub(crate) struct Detector {
    pub(crate) desk: Arc<Desk>,
    pub(crate) checkers: Arc<Checkers>,
    pub(crate) pending: Arc<Pending>,
    pub(crate) sinks: Vec<Arc<dyn PacketSink>>,
    /// The source of the first worker, when it is not a queue.
    pub(crate) source: Option<Box<dyn FrameSource>>,
    /// The running detector, when this one is its successor.
    pub(crate) predecessor: Option<Channel>,
    /// Devices and sockets for a successor, by name.
    pub(crate) devices: Vec<(String, OwnedFd)>,
    pub(crate) tunnel_offset: usize,
    pub(crate) fast_path: Tables,
    pub(crate) clock: Clock,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Detector {
    /// Makes all parts; nothing runs yet.
    pub(crate) async fn build(
        arguments: Arguments,
        settings: Settings,
        config_named: bool,
        cpus: &[usize],
        opened: Opened,
        predecessor: Option<Channel>,
    ) -> Result<Self, Failure> {
        let replay = arguments.recording().is_some();
        let clock = if replay { Clock::Standing } else { Clock::default() };
        let sessions = Arc::new(Sessions::new());
        let pending = Arc::new(Pending::default());
        let bell = Arc::new(Bell::default());
        let queues = arguments.queue_offset..arguments.queue_offset + arguments.workers;
        let Opened { sinks, source, mut devices, publisher: socket } = opened;
        let publisher = match arguments.endpoint() {
            Some(endpoint) => Some(bind(endpoint, socket, predecessor.is_some()).await?),
            None => None,
        };
        let publisher = publisher.map(Arc::new);
        if let Some(publisher) = &publisher {
            // Out of descriptors: the successor binds it itself.
            let copy = publisher.listener().try_clone_to_owned();
            devices.extend(copy.map(|copy| ("zmq".to_owned(), copy)));
        }
        let post = |(index, queue): (usize, usize)| {
            Arc::new(Post {
                index,
                queue,
                cpu: cpus[index],
                counters: Arc::default(),
                restarts: 0.into(),
                state: SourceState::default().into(),
                beats: 0.into(),
                ended: false.into(),
                packed: parking_lot::Mutex::default(),
            })
        };
        let posts: Vec<Arc<Post>> = queues.enumerate().map(post).collect();
        let inlet = |post: &Arc<Post>| Inlet {
            candidates: Arc::new(Candidates::with_budget(
                Arc::clone(&bell),
                settings.fixed.candidates,
            )),
            counters: Arc::clone(&post.counters),
        };
        let inlets: Vec<Inlet> = posts.iter().map(inlet).collect();
        let holders = posts
            .iter()
            .zip(&sinks)
            .map(|(post, sink)| Holder {
                sink: Arc::clone(sink),
                counters: Arc::clone(&post.counters),
            })
            .collect();
        let feed = Arc::new(Feed::new(Arc::clone(&sessions), Arc::clone(&pending), clock, holders));
        let (watch, redis) = channels(&arguments, &settings, replay, &feed);
        let checker = Arc::new(ArcSwap::from_pointee(settings.checker));
        let bus = publisher.clone();
        let publish = Box::new(move |message: Vec<u8>| {
            if let Some(publisher) = &bus {
                publisher.publish(message.into());
            }
        });
        let checkers = Arc::new(Checkers::new(Arc::clone(&checker), inlets.clone(), bell, publish));
        let desk = Arc::new(Desk {
            arguments,
            config: settings.config,
            config_named,
            posts,
            inlets,
            sessions,
            filter: Arc::new(ArcSwap::from_pointee(settings.filter)),
            checker,
            watch,
            redis,
            publisher,
            leave: Arc::new(Notify::new()),
            handing: Arc::default(),
            reloads: Reloads::default(),
            fixed: settings.fixed,
        });
        let stop = Arc::new(AtomicBool::new(false));
        let tunnel_offset = settings.tunnel_offset;
        Ok(Self {
            desk,
            checkers,
            pending,
            sinks,
            source,
            predecessor,
            devices,
            tunnel_offset,
            fast_path: Tables::default(),
            clock,
            stop,
        })
    }
}

/// Opens the publishing socket; `inherited` is used when there is one. A successor keeps what it publishes
/// until the subscribers have come over.
async fn bind(
    endpoint: &str,
    inherited: Option<OwnedFd>,
    succeeds: bool,
) -> Result<Publisher, Failure> {
    log::plain(format_args!("binding zmq socket to {endpoint}"));
    // Nobody is bound there: workers and publisher share one process.
    log::reference(Stream::Out, "binding zmq worker socket to ipc://@detector-workers");
    let hold = if succeeds { succession::HELD } else { Duration::ZERO };
    let options = PublisherOptions { hold, ..PublisherOptions::default() };
    if let Some(socket) = inherited {
        return Publisher::adopt(socket, endpoint, options)
            .map_err(|error| Failure::new(Exit::Unavailable, error));
    }
    let end = Instant::now() + PREDECESSOR;
    loop {
        match Publisher::bind(endpoint, options.clone()).await {
            Ok(publisher) => return Ok(publisher),
            Err(bus::BindError::Socket { .. }) if Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(Failure::new(Exit::Unavailable, error)),
        }
    }
}

/// Starts the channels that bring sessions in.
fn channels(
    arguments: &Arguments,
    settings: &Settings,
    replay: bool,
    feed: &Arc<Feed>,
) -> (Watch, Option<session::redis_in::Subscription>) {
    if replay {
        return (Watch::off(), None);
    }
    let cluster = arguments.cluster.map_or_else(|| "alone".to_owned(), |id| id.to_string());
    let name = format!("detector-{cluster}-{}", arguments.queue_offset);
    let sink = || Arc::clone(feed) as Arc<dyn session::SessionSink>;
    let watch = match &settings.session_socket {
        Some(path) => {
            let id = DetectorId { name: name.clone(), boot_id: rand::random() };
            session::watch::watch(path.clone(), id, sink())
        }
        None => Watch::off(),
    };
    let redis = settings
        .redis_url
        .clone()
        .map(|url| session::redis_in::subscribe(url, name, watch.clone(), sink()));
    (watch, redis)
}
