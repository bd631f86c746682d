//! The text of the periodic lines; their form is parsed by operators' log pipelines.

use std::fmt::Write;

use super::connections::{CREATED_CLOSED, Family};
use super::{Stats, Window};
use crate::liveness::{Dialer, LivenessTester};
use crate::store::Store;

/// Capacity of the queue between the bus and the distributor.
pub(crate) const BUS_QUEUE: usize = 10_000;

/// `part` of `whole` in percent; NaN for nothing of nothing, as the reference prints.
fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}

/// As [`percent`], but nothing of nothing is 0.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { percent(part, whole) }
}

/// The lines of every five seconds, in their order.
pub fn every_five_seconds<D: Dialer>(
    stats: &Stats,
    store: &Store,
    liveness: &LivenessTester<D>,
    workers_queue: usize,
) -> Vec<String> {
    let seconds = stats.period().as_secs_f64();
    let rate = |n: u64| n as f64 / seconds;
    let mut lines = Vec::with_capacity(16);

    let ingest = &stats.ingest;
    let (received, dropped) = (ingest.received.take(), ingest.dropped.take());
    let waiting = ingest.waiting.value().max(0) as u64;
    lines.push(format!(
        "zmq-stats: {received} {dropped} {:.3}% ({:.3}/s) {} {waiting}/{BUS_QUEUE} {:.3}%",
        share(dropped, received),
        rate(dropped),
        ingest.dropped.total(),
        percent(waiting, BUS_QUEUE as u64),
    ));

    let probes = LivenessPeriod::take(liveness);
    lines.push(probes.line(liveness, seconds));

    let proxy = &stats.proxy;
    let (up, down) = proxy.take_traffic();
    let (completed, zero_up, zero_down) =
        (proxy.completed.take(), proxy.zero_up.take(), proxy.zero_down.take());
    let average = |bytes: &Window, zero: u64| {
        bytes.take() as f64 / (completed.saturating_sub(zero)).max(1) as f64
    };
    lines.push(format!(
        "proxy-stats:{} {up} {:.6} {down} {:.6} {completed} {zero_up} {zero_down} {:.6} {:.6}",
        proxy.open.value(),
        rate(up),
        rate(down),
        average(&proxy.completed_up, zero_up),
        average(&proxy.completed_down, zero_down),
    ));

    let regs = &stats.registrations;
    let counted = [
        regs.new.take(),
        regs.new_v4.take(),
        regs.new_v6.take(),
        regs.local.take(),
        regs.api.take(),
        regs.shared.take(),
        regs.unknown.take() + regs.amp.take(),
        regs.errors.take(),
        regs.duplicates.take(),
        regs.dns.take(),
    ];
    let mut line = format!("reg-stats: {} {}", store.len(), regs.active.value());
    for n in counted {
        // Writing into a String cannot fail.
        let _ = write!(line, " {n} {:.3}/s", rate(n));
    }
    lines.push(line);

    let (offered, busy) = (ingest.offered.take(), ingest.busy.take());
    lines.push(format!(
        "reg-buf-stats: {offered} {:.3}/s {busy} {:.3}% {:.3}/s {} {} 0/{workers_queue} {:.3}%",
        rate(offered),
        share(busy, offered),
        rate(busy),
        ingest.offered.total(),
        ingest.busy.total(),
        percent(0, workers_queue as u64),
    ));
    for (name, keys) in [
        ("gen-stats", &regs.generations),
        ("tt-stats", &regs.transports),
        ("libver-stats", &regs.versions),
    ] {
        for (key, n) in keys.take() {
            lines.push(format!("{name}: {key} {n} {:.3}", rate(n)));
        }
    }

    let conns = &stats.connections;
    let [new, _, _, local, api, shared, unknown, errors, duplicates, dns] = counted;
    lines.push(format!(
        "Conns: {} cur {} new {} err Regs: {} cur {new} new ({local} local {api} API {shared} \
         shared {} unknown) {} miss {errors} err {duplicates} dup LiveT: {} valid {} live {} \
         cached Byte: {up} up {down} down gorts {}",
        conns.active.value(),
        conns.accepted.take(),
        conns.failed.take(),
        regs.active.value(),
        unknown + dns,
        conns.missed.take(),
        probes.quiet,
        probes.live,
        probes.cached_live + probes.cached_quiet,
        tokio::runtime::Handle::try_current().map_or(0, |h| h.metrics().num_alive_tasks()),
    ));
    lines
}

/// Liveness counters since the last line.
struct LivenessPeriod {
    quiet: u64,
    live: u64,
    cached_live: u64,
    cached_quiet: u64,
}

impl LivenessPeriod {
    fn take<D: Dialer>(tester: &LivenessTester<D>) -> Self {
        let counters = tester.counters();
        Self {
            quiet: counters.quiet.take(),
            live: counters.live.take(),
            cached_live: counters.cached_live.take(),
            cached_quiet: counters.cached_quiet.take(),
        }
    }

    fn line<D: Dialer>(&self, tester: &LivenessTester<D>, seconds: f64) -> String {
        let total = self.quiet + self.live + self.cached_live + self.cached_quiet;
        let mut line = format!("liveness-stats: {total}");
        for n in [self.quiet, self.live, self.cached_live, self.cached_quiet] {
            let _ = write!(line, " {n} {:.3}% {:.3}/s", share(n, total), n as f64 / seconds);
        }
        for fill in tester.cached() {
            let _ = write!(
                line,
                " {} {:.3}%",
                fill.len,
                percent(fill.len as u64, fill.capacity as u64)
            );
        }
        line
    }
}

/// The lines of every minute, for the families that have networks to show.
pub fn every_minute(stats: &Stats) -> Vec<String> {
    let mut lines = Vec::new();
    for (v6, name) in [(false, "IPv4"), (true, "IPv6")] {
        family(stats.connections.family(v6), name, stats, &mut lines);
    }
    lines
}

/// Seconds between two calls of [`every_minute`].
pub(crate) const MINUTE: u64 = 60;

/// Sessions of the DTLS transport per network: they are counted for all networks together.
const CONNECTING: &str = "0 0 0 0 0 0 0";

fn family(family: &Family, name: &str, stats: &Stats, lines: &mut Vec<String>) {
    let networks = std::mem::take(&mut *family.networks.lock());
    let ends = [&family.found, &family.reset, &family.timeout, &family.error, &family.closed]
        .map(Window::take);
    let (new, resolved) = (family.new.take(), family.resolved.take());
    if networks.is_empty() {
        return;
    }
    let mut line = format!(
        "conn-stats ({name}): {} {} {} {}",
        family.created.value(),
        family.reading.value(),
        family.checking.value(),
        family.discarding.value(),
    );
    for n in ends {
        let _ = write!(line, " {n} {:.3}", n as f64 / MINUTE as f64);
    }
    let _ = write!(line, " {}", networks.len());
    if name == "IPv4" {
        let _ = write!(line, " {}", stats.connecting.line());
    }
    lines.push(line);
    for (asn, network) in networks {
        let total: u64 = network.transitions.iter().sum();
        let mut line = format!("conn-stats-verbose ({name}): {asn} {}", network.country);
        for n in network.transitions {
            let _ = write!(line, " {n}");
        }
        let _ = write!(line, " {total}");
        for (at, n) in network.transitions.into_iter().enumerate() {
            if at != CREATED_CLOSED {
                let _ = write!(line, " {:.3}", n as f64 / total.max(1) as f64);
            }
        }
        let _ = write!(line, " {new} {} {resolved} {} {CONNECTING}", network.new, network.resolved);
        lines.push(line);
    }
}
