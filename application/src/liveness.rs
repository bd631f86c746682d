//! Whether a real host answers at a phantom address (`spec/application.md` 8).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::stats::Window;

/// Connection attempts of one probe.
const ATTEMPTS: usize = 4;
/// Cache entries when the configuration sets no capacity.
const DEFAULT_CAPACITY: usize = 262_144;
/// Capacity for non-live results when only the live one is set.
const DEFAULT_CAPACITY_NONLIVE: usize = 100_000;

/// Settings of the tester.
#[derive(Debug, Clone, Copy)]
pub struct LivenessSettings {
    /// Time after which silence means that nobody is there (`liveness_window_ms`).
    pub window: Duration,
    /// Lifetime of results that found a host; `None` keeps none.
    pub live_expiry: Option<Duration>,
    /// Lifetime of results that found nobody; `None` keeps none.
    pub nonlive_expiry: Option<Duration>,
    /// Entries kept of results that found a host; 0 takes the default bound.
    pub live_capacity: usize,
    /// Entries kept of results that found nobody; 0 takes the default bound.
    pub nonlive_capacity: usize,
}

/// What a test found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Liveness {
    /// Nobody answers.
    Quiet,
    /// A host answers; the reason.
    Live(Arc<str>),
    /// The station cannot tell, because its own stack refused the attempt; the reason.
    Unknown(Arc<str>),
}

/// Result of a test and whether it came from a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What was found.
    pub liveness: Liveness,
    /// True when no probe was made for this question.
    pub cached: bool,
}

/// Makes one connection attempt.
pub trait Dialer: Send + Sync + 'static {
    /// Connects to `target`; the connection is closed at once.
    fn dial(&self, target: SocketAddr) -> impl Future<Output = io::Result<()>> + Send;
}

/// The system's TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpDialer;

impl Dialer for TcpDialer {
    async fn dial(&self, target: SocketAddr) -> io::Result<()> {
        TcpStream::connect(target).await.map(drop)
    }
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct LivenessCounters {
    /// Probes that found nobody.
    pub quiet: Window,
    /// Probes that found a host.
    pub live: Window,
    /// Probes that the station's own stack refused.
    pub unknown: Window,
    /// Questions answered from the cache of live results.
    pub cached_live: Window,
    /// Questions answered from the cache of quiet results.
    pub cached_quiet: Window,
}

/// Fill of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fill {
    /// Entries kept.
    pub len: usize,
    /// Most entries that are kept.
    pub capacity: usize,
}

type Target = (IpAddr, u16);

/// Results of one kind, with the time of each.
#[derive(Debug)]
struct Cache {
    expiry: Duration,
    entries: Mutex<LruCache<Target, (Instant, Arc<str>)>>,
}

impl Cache {
    fn new(expiry: Option<Duration>, capacity: usize) -> Option<Self> {
        let capacity = NonZeroUsize::new(capacity)?;
        Some(Self { expiry: expiry?, entries: Mutex::new(LruCache::new(capacity)) })
    }

    /// A fresh entry; looking refreshes its recency, not its age. A stale one is dropped.
    fn find(&self, target: Target) -> Option<Arc<str>> {
        let mut entries = self.entries.lock();
        let (at, reason) = entries.get(&target)?.clone();
        if at.elapsed() < self.expiry {
            return Some(reason);
        }
        entries.pop(&target);
        None
    }

    fn store(&self, target: Target, reason: Arc<str>) {
        self.entries.lock().put(target, (Instant::now(), reason));
    }
}

/// Puts a cache of these settings in the place of `cache`, with what that knows.
fn replace(cache: &ArcSwapOption<Cache>, expiry: Option<Duration>, capacity: usize) {
    let fresh = Cache::new(expiry, capacity);
    if let (Some(old), Some(fresh)) = (&*cache.load(), &fresh) {
        let mut entries = fresh.entries.lock();
        // The oldest first, so that the newest stay.
        for (target, known) in old.entries.lock().iter().rev() {
            entries.put(*target, known.clone());
        }
    }
    cache.store(fresh.map(Arc::new));
}

/// Tests phantoms, remembers results and lets concurrent questions share one probe.
pub struct LivenessTester<D = TcpDialer> {
    window_ms: AtomicU64,
    dialer: D,
    live: ArcSwapOption<Cache>,
    quiet: ArcSwapOption<Cache>,
    running: Mutex<HashMap<Target, watch::Receiver<Option<Liveness>>>>,
    counters: LivenessCounters,
}

impl<D> std::fmt::Debug for LivenessTester<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LivenessTester").field("window_ms", &self.window_ms).finish_non_exhaustive()
    }
}

impl<D: Dialer> LivenessTester<D> {
    /// A tester with empty caches.
    pub fn new(settings: &LivenessSettings, dialer: D) -> Self {
        let tester = Self {
            window_ms: AtomicU64::new(0),
            dialer,
            live: ArcSwapOption::empty(),
            quiet: ArcSwapOption::empty(),
            running: Mutex::default(),
            counters: LivenessCounters::default(),
        };
        tester.set(settings);
        tester
    }

    /// Changes the settings. A cache whose settings stay keeps what it knows, and so does one that only
    /// changes its size or its time.
    pub fn set(&self, settings: &LivenessSettings) {
        let ms = settings.window.as_millis().try_into().unwrap_or(u64::MAX);
        self.window_ms.store(ms, Ordering::Relaxed);
        let live_capacity = match settings.live_capacity {
            0 => DEFAULT_CAPACITY,
            n => n,
        };
        let nonlive_capacity = match (settings.live_capacity, settings.nonlive_capacity) {
            (_, n) if n > 0 => n,
            (0, _) => DEFAULT_CAPACITY,
            _ => DEFAULT_CAPACITY_NONLIVE,
        };
        replace(&self.live, settings.live_expiry, live_capacity);
        replace(&self.quiet, settings.nonlive_expiry, nonlive_capacity);
    }

    /// Counters since the start.
    pub const fn counters(&self) -> &LivenessCounters {
        &self.counters
    }

    /// Time that a probe takes when nobody answers.
    pub fn window(&self) -> Duration {
        Duration::from_millis(self.window_ms.load(Ordering::Relaxed))
    }

    /// Fill of the caches of live and of quiet results; a cache that is off has no capacity.
    pub fn cached(&self) -> [Fill; 2] {
        [&self.live, &self.quiet].map(|cache| {
            cache.load().as_ref().map_or(Fill::default(), |c| {
                let entries = c.entries.lock();
                Fill { len: entries.len(), capacity: entries.cap().get() }
            })
        })
    }

    /// Answers from a cache alone.
    fn remembered(&self, target: Target) -> Option<Liveness> {
        if let Some(reason) = self.live.load().as_ref().and_then(|c| c.find(target)) {
            self.counters.cached_live.count();
            return Some(Liveness::Live(reason));
        }
        if self.quiet.load().as_ref().and_then(|c| c.find(target)).is_some() {
            self.counters.cached_quiet.count();
            return Some(Liveness::Quiet);
        }
        None
    }

    /// Tests `ip:port`. `on_probe` is called when a probe has to run, with its longest duration.
    pub async fn test(&self, ip: IpAddr, port: u16, on_probe: impl FnOnce(Duration)) -> Answer {
        let target = (ip, port);
        if let Some(liveness) = self.remembered(target) {
            return Answer { liveness, cached: true };
        }
        on_probe(self.window());
        let running = self.running.lock().get(&target).cloned();
        if let Some(mut other) = running
            && let Ok(found) = other.wait_for(Option::is_some).await
            && let Some(liveness) = found.clone()
        {
            return Answer { liveness, cached: true };
        }
        let (result, shared) = watch::channel(None);
        self.running.lock().insert(target, shared);
        let _ended = RemoveOnDrop { running: &self.running, target };
        let liveness = self.probe(SocketAddr::new(ip, port)).await;
        match &liveness {
            Liveness::Quiet => {
                self.counters.quiet.count();
                if let Some(cache) = &*self.quiet.load() {
                    cache.store(target, "quiet".into());
                }
            }
            Liveness::Live(reason) => {
                self.counters.live.count();
                if let Some(cache) = &*self.live.load() {
                    cache.store(target, Arc::clone(reason));
                }
            }
            // Not a fact about the phantom: nothing to remember.
            Liveness::Unknown(_) => {
                self.counters.unknown.count();
            }
        }
        result.send_replace(Some(liveness.clone()));
        Answer { liveness, cached: false }
    }

    /// Four attempts in one window. The first answer decides; silence to the end means quiet.
    async fn probe(&self, target: SocketAddr) -> Liveness {
        let deadline = Instant::now() + self.window();
        let mut unknown = None;
        let attempts = async {
            let mut attempts = futures_util::stream::FuturesUnordered::new();
            for _ in 0..ATTEMPTS {
                attempts.push(self.dialer.dial(target));
            }
            while let Some(result) = futures_util::StreamExt::next(&mut attempts).await {
                match result {
                    Ok(()) => return Liveness::Live("phantom picked up the connection".into()),
                    Err(e) if e.kind() == io::ErrorKind::TimedOut => {}
                    Err(e) if is_local(&e) => unknown = Some(Arc::from(e.to_string())),
                    Err(e) => return Liveness::Live(e.to_string().into()),
                }
            }
            match unknown {
                Some(reason) => Liveness::Unknown(reason),
                None => Liveness::Quiet,
            }
        };
        timeout_at(deadline, attempts).await.unwrap_or(Liveness::Quiet)
    }
}

/// Errors of the station's own stack, which say nothing about the phantom.
fn is_local(error: &io::Error) -> bool {
    use rustix::io::Errno as E;
    let local = [
        E::NETUNREACH,
        E::NETDOWN,
        E::ADDRNOTAVAIL,
        E::ACCESS,
        E::PERM,
        E::INVAL,
        E::MFILE,
        E::NFILE,
        E::NOBUFS,
        E::NOMEM,
        E::AFNOSUPPORT,
    ];
    error.raw_os_error().is_some_and(|code| local.iter().any(|e| e.raw_os_error() == code))
}

struct RemoveOnDrop<'a> {
    running: &'a Mutex<HashMap<Target, watch::Receiver<Option<Liveness>>>>,
    target: Target,
}

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        self.running.lock().remove(&self.target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::task::JoinSet;

    const SETTINGS: LivenessSettings = LivenessSettings {
        window: Duration::from_millis(700),
        live_expiry: Some(Duration::from_secs(7200)),
        nonlive_expiry: Some(Duration::from_secs(300)),
        live_capacity: 0,
        nonlive_capacity: 0,
    };

    /// Answers after a delay, or never; counts attempts.
    struct Scripted {
        attempts: AtomicUsize,
        after: Option<(Duration, Option<rustix::io::Errno>)>,
    }

    impl Scripted {
        fn new(after: Option<(u64, Option<rustix::io::Errno>)>) -> Self {
            let after = after.map(|(ms, e)| (Duration::from_millis(ms), e));
            Self { attempts: AtomicUsize::new(0), after }
        }
    }

    impl Dialer for Scripted {
        async fn dial(&self, _: SocketAddr) -> io::Result<()> {
            self.attempts.fetch_add(1, Ordering::Relaxed);
            match self.after {
                None => std::future::pending().await,
                Some((delay, error)) => {
                    tokio::time::sleep(delay).await;
                    error.map_or(Ok(()), |e| Err(e.into()))
                }
            }
        }
    }

    const PHANTOM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[tokio::test(start_paused = true)]
    async fn silence_takes_the_whole_window_and_four_attempts() {
        let tester = LivenessTester::new(&SETTINGS, Scripted::new(None));
        let begin = Instant::now();
        let mut probed = None;
        let answer = tester.test(PHANTOM, 443, |w| probed = Some(w)).await;
        assert_eq!(answer, Answer { liveness: Liveness::Quiet, cached: false });
        assert_eq!(probed, Some(Duration::from_millis(700)));
        assert_eq!(begin.elapsed(), Duration::from_millis(700));
        assert_eq!(tester.dialer.attempts.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn any_answer_of_the_host_proves_it_live_at_once() {
        for error in
            [None, Some(rustix::io::Errno::CONNREFUSED), Some(rustix::io::Errno::HOSTUNREACH)]
        {
            let tester = LivenessTester::new(&SETTINGS, Scripted::new(Some((20, error))));
            let begin = Instant::now();
            let answer = tester.test(PHANTOM, 443, |_| {}).await;
            assert!(matches!(answer.liveness, Liveness::Live(_)));
            assert_eq!(begin.elapsed(), Duration::from_millis(20));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_of_the_own_stack_says_nothing_and_is_not_remembered() {
        let scripted = Scripted::new(Some((0, Some(rustix::io::Errno::NETUNREACH))));
        let tester = LivenessTester::new(&SETTINGS, scripted);
        for _ in 0..2 {
            let answer = tester.test(PHANTOM, 443, |_| {}).await;
            assert!(matches!(answer.liveness, Liveness::Unknown(_)));
            assert!(!answer.cached);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn results_are_remembered_refreshed_and_kept_apart_by_port() {
        let tester = LivenessTester::new(&SETTINGS, Scripted::new(None));
        let probes = || tester.dialer.attempts.load(Ordering::Relaxed) / ATTEMPTS;
        tester.test(PHANTOM, 443, |_| {}).await;
        assert!(tester.test(PHANTOM, 443, |_| {}).await.cached);
        assert_eq!(probes(), 1);
        tester.test(PHANTOM, 80, |_| {}).await;
        assert_eq!(probes(), 2);
        for round in 3..6 {
            tokio::time::advance(Duration::from_secs(301)).await;
            assert!(!tester.test(PHANTOM, 443, |_| {}).await.cached);
            assert!(tester.test(PHANTOM, 443, |_| {}).await.cached);
            assert_eq!(probes(), round);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_questions_share_one_probe() {
        let tester = Arc::new(LivenessTester::new(&SETTINGS, Scripted::new(None)));
        let mut questions = JoinSet::new();
        for _ in 0..6 {
            let tester = Arc::clone(&tester);
            questions.spawn(async move { tester.test(PHANTOM, 443, |_| {}).await });
        }
        while let Some(answer) = questions.join_next().await {
            assert_eq!(answer.unwrap().liveness, Liveness::Quiet);
        }
        assert_eq!(tester.dialer.attempts.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn the_cache_is_bounded_and_forgets_the_least_recent() {
        let cache = Cache::new(Some(Duration::from_secs(10)), 3).unwrap();
        for port in 1..=3 {
            cache.store((PHANTOM, port), "quiet".into());
        }
        assert!(cache.find((PHANTOM, 1)).is_some());
        cache.store((PHANTOM, 4), "quiet".into());
        assert!(cache.find((PHANTOM, 2)).is_none());
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(cache.find((PHANTOM, 1)).is_some(), "looking refreshed recency");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(cache.find((PHANTOM, 1)).is_none(), "looking did not refresh age");
    }
}
