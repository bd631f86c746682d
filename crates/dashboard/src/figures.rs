//! Tables and rates, the same for terminal and page.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use signalling::station::{
    ApplicationStatus, DetectorStatus, FunnelStatus, OriginStatus, RegistrarStatus, StatusReply,
    ZbalanceStatus, status_reply::Detail,
};

use crate::feed::Seat;

/// What can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Every daemon in a line.
    Daemons,
    /// Workers of the detector, queues and inputs.
    Cores,
    /// How far registrations come.
    Funnel,
    /// Registration channels of the registrar, ingest and probes of the application.
    Channels,
    /// What the daemons have to say.
    Notes,
}

impl View {
    /// All of them, in the order of their keys.
    pub const ALL: [Self; 5] =
        [Self::Daemons, Self::Cores, Self::Funnel, Self::Channels, Self::Notes];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Daemons => "Daemons",
            Self::Cores => "Cores",
            Self::Funnel => "Funnel",
            Self::Channels => "Channels",
            Self::Notes => "Notes",
        }
    }

    /// Its tables; rows that stand for fewer than `floor` clients are one row, `other`.
    pub fn tables(self, seats: &[Seat], floor: u64) -> Vec<Table> {
        match self {
            Self::Daemons => vec![daemons(seats)],
            Self::Cores => vec![workers(seats), queues(seats), inputs(seats)],
            Self::Funnel => {
                let mut tables = vec![funnel(seats, floor)];
                tables.push(origins(seats, floor, "Countries", |a| &a.countries));
                tables.push(origins(seats, floor, "Networks (AS)", |a| &a.networks));
                tables.push(origins(seats, floor, "Phantom subnets", |a| &a.phantom_subnets));
                tables
            }
            Self::Channels => vec![requests(seats), events(seats)],
            Self::Notes => vec![notes(seats)],
        }
    }
}

/// A table: the first column is text, the others are figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What it shows.
    pub title: &'static str,
    /// Names of its columns.
    pub columns: &'static [&'static str],
    /// Its rows.
    pub rows: Vec<Row>,
}

/// A row of a [`Table`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// One text per column.
    pub cells: Vec<String>,
    /// Somebody should look at it.
    pub alarm: bool,
}

const fn row(cells: Vec<String>, alarm: bool) -> Row {
    Row { cells, alarm }
}

fn detail<T>(seat: Option<&Seat>, of: impl Fn(&StatusReply) -> Option<T>) -> Option<T> {
    seat.and_then(|seat| seat.now.as_ref()).and_then(|seen| of(&seen.reply))
}

fn seat<'a>(seats: &'a [Seat], daemon: &str) -> Option<&'a Seat> {
    seats.iter().find(|seat| seat.daemon == daemon)
}

fn zbalance(reply: &StatusReply) -> Option<&ZbalanceStatus> {
    if let Some(Detail::Zbalance(status)) = &reply.detail { Some(status) } else { None }
}

fn detector(reply: &StatusReply) -> Option<&DetectorStatus> {
    if let Some(Detail::Detector(status)) = &reply.detail { Some(status) } else { None }
}

fn application(reply: &StatusReply) -> Option<&ApplicationStatus> {
    if let Some(Detail::Application(status)) = &reply.detail { Some(status) } else { None }
}

fn registrar(reply: &StatusReply) -> Option<&RegistrarStatus> {
    if let Some(Detail::Registrar(status)) = &reply.detail { Some(status) } else { None }
}

/// The figures that are kept for the history, all of the station.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// Packets that detectors saw, per second.
    pub packets: f64,
    /// Packets and records lost on any level, per second.
    pub drops: f64,
    /// Tags found, per second.
    pub tags: f64,
    /// Sessions that the detector forwards.
    pub sessions: f64,
    /// Valid registrations.
    pub registrations: f64,
    /// Open tunnels.
    pub tunnels: f64,
    /// Bytes relayed to coverts, per second.
    pub up: f64,
    /// Bytes relayed to clients, per second.
    pub down: f64,
}

/// The present totals.
pub fn totals(seats: &[Seat]) -> Totals {
    let rate = |daemon: &str, value: fn(&StatusReply) -> u64| {
        seat(seats, daemon).map_or(0.0, |seat| seat.rate(value))
    };
    let now = |daemon: &str, value: fn(&StatusReply) -> Option<u64>| {
        detail(seat(seats, daemon), value).unwrap_or(0) as f64
    };
    Totals {
        packets: rate("detector", |r| workers_of(r).map(|w| w.packets).sum()),
        drops: rate("zbalance", |r| zbalance(r).map_or(0, |z| z.dropped))
            + rate("detector", |r| workers_of(r).map(drops).sum()),
        tags: rate("detector", |r| workers_of(r).map(|w| w.tags).sum()),
        sessions: now("detector", |r| detector(r).map(|d| d.sessions)),
        registrations: now("application", |r| application(r).map(|a| a.registrations)),
        tunnels: now("application", |r| application(r).map(|a| a.tunnels)),
        up: rate("application", |r| application(r).map_or(0, |a| a.up_bytes)),
        down: rate("application", |r| application(r).map_or(0, |a| a.down_bytes)),
    }
}

fn workers_of(reply: &StatusReply) -> impl Iterator<Item = &signalling::station::WorkerStatus> {
    detector(reply).into_iter().flat_map(|status| &status.workers)
}

/// Drops that are the detector's own; those of its queues are counted where they happen.
const fn drops(worker: &signalling::station::WorkerStatus) -> u64 {
    worker.dropped_candidates + worker.dropped_tun
}

fn daemons(seats: &[Seat]) -> Table {
    let line = |seat: &Seat| {
        let Some(seen) = &seat.now else {
            let mut cells = vec![seat.daemon.to_owned(), "does not answer".to_owned()];
            cells.resize(8, "–".to_owned());
            return row(cells, true);
        };
        let (who, process) = (
            seen.reply.identity.clone().unwrap_or_default(),
            seen.reply.process.unwrap_or_default(),
        );
        let cpu = seat.rate(|r| r.process.map_or(0, |p| (p.cpu_seconds * 1000.0) as u64)) / 10.0;
        let cells = vec![
            seat.daemon.to_owned(),
            seen.reply.state.clone(),
            who.version,
            who.pid.to_string(),
            age(since(who.started_unix_ms)),
            bytes(process.resident_memory_bytes as f64),
            format!("{cpu:.1} %"),
            format!("{}", process.open_fds),
        ];
        row(cells, seen.reply.state != "ready")
    };
    Table {
        title: "Daemons",
        columns: &["daemon", "state", "version", "pid", "up", "memory", "cpu", "fds"],
        rows: seats.iter().map(line).collect(),
    }
}

fn since(started_unix_ms: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(started_unix_ms))
}

fn workers(seats: &[Seat]) -> Table {
    let seat = seat(seats, "detector");
    let now = detail(seat, |r| detector(r).cloned()).unwrap_or_default();
    let line = |w: &signalling::station::WorkerStatus| {
        let per_second = |value: fn(&signalling::station::WorkerStatus) -> u64| {
            let of = |r: &StatusReply| {
                workers_of(r).find(|other| other.worker == w.worker).map_or(0, value)
            };
            seat.map_or(0.0, |seat| seat.rate(of))
        };
        let lost = per_second(|w| w.dropped_source + w.dropped_candidates + w.dropped_tun);
        let cells = vec![
            format!("{} (cpu {})", w.worker, w.cpu),
            short(per_second(|w| w.packets)),
            bits(per_second(|w| w.bytes) * 8.0),
            short(per_second(|w| w.dropped_source)),
            short(per_second(|w| w.dropped_candidates)),
            short(per_second(|w| w.dropped_tun)),
            w.tracked_flows.to_string(),
            short(per_second(|w| w.candidates)),
            w.candidates_waiting.to_string(),
            w.tags.to_string(),
            short(per_second(|w| w.forwarded)),
            w.restarts.to_string(),
        ];
        row(cells, lost > 0.0 || !w.attached)
    };
    Table {
        title: "Detector workers",
        columns: &[
            "worker",
            "packets/s",
            "bit/s",
            "drop queue/s",
            "drop cand/s",
            "drop tun/s",
            "flows",
            "cand/s",
            "waiting",
            "tags",
            "forwarded/s",
            "restarts",
        ],
        rows: now.workers.iter().map(line).collect(),
    }
}

fn queues(seats: &[Seat]) -> Table {
    let seat = seat(seats, "zbalance");
    let now = detail(seat, |r| zbalance(r).cloned()).unwrap_or_default();
    let line = |q: &signalling::station::QueueStatus| {
        let per_second = |value: fn(&signalling::station::QueueStatus) -> u64| {
            let of = |r: &StatusReply| {
                let queues = zbalance(r).map_or(&[][..], |z| &z.queues);
                queues.iter().find(|other| other.queue == q.queue).map_or(0, value)
            };
            seat.map_or(0.0, |seat| seat.rate(of))
        };
        let cells = vec![
            format!("{}.{}", q.set, q.queue),
            if q.hung {
                "hung"
            } else if q.attached {
                "attached"
            } else {
                "free"
            }
            .to_owned(),
            short(per_second(|q| q.enqueued)),
            short(per_second(|q| q.processed)),
            q.outstanding.to_string(),
            q.dropped_full.to_string(),
            q.dropped_quota.to_string(),
            q.no_consumer.to_string(),
            q.no_frame.to_string(),
            format!("{:.1} s", q.heartbeat_age_seconds),
        ];
        row(cells, q.hung || per_second(|q| q.dropped) > 0.0)
    };
    Table {
        title: "Queues",
        columns: &[
            "queue",
            "consumer",
            "in/s",
            "read/s",
            "depth",
            "drop full",
            "drop quota",
            "no consumer",
            "no frame",
            "heartbeat",
        ],
        rows: now.queues.iter().map(line).collect(),
    }
}

fn inputs(seats: &[Seat]) -> Table {
    let seat = seat(seats, "zbalance");
    let now = detail(seat, |r| zbalance(r).cloned()).unwrap_or_default();
    let line = |i: &signalling::station::InterfaceStatus| {
        let per_second = |value: fn(&signalling::station::InterfaceStatus) -> u64| {
            let of = |r: &StatusReply| {
                let inputs = zbalance(r).map_or(&[][..], |z| &z.interfaces);
                inputs.iter().find(|other| other.interface == i.interface).map_or(0, value)
            };
            seat.map_or(0.0, |seat| seat.rate(of))
        };
        let cells = vec![
            i.interface.clone(),
            if i.down { "down" } else { "up" }.to_owned(),
            short(per_second(|i| i.received)),
            i.received.to_string(),
            short(per_second(|i| i.dropped)),
            i.dropped.to_string(),
            i.filtered.to_string(),
            i.prefiltered.to_string(),
            i.passed.to_string(),
        ];
        row(cells, i.down || per_second(|i| i.dropped) > 0.0)
    };
    Table {
        title: "Inputs",
        columns: &[
            "input",
            "state",
            "frames/s",
            "frames",
            "dropped/s",
            "dropped",
            "filtered",
            "prefiltered",
            "passed",
        ],
        rows: now.interfaces.iter().map(line).collect(),
    }
}

fn funnel(seats: &[Seat], floor: u64) -> Table {
    let now = detail(seat(seats, "application"), |r| application(r).cloned()).unwrap_or_default();
    let (mut rows, mut other) = (Vec::new(), FunnelStatus::default());
    let line = |name: String, f: &FunnelStatus| {
        let numbers = [f.registered, f.valid, f.connected].map(|n| n.to_string());
        let moved = [f.up_bytes, f.down_bytes].map(|n| bytes(n as f64));
        row([name].into_iter().chain(numbers).chain(moved).collect(), false)
    };
    for f in &now.funnel {
        if f.clients >= floor {
            rows.push(line(format!("{} {}", f.channel, f.transport), f));
        } else {
            other.registered += f.registered;
            other.valid += f.valid;
            other.connected += f.connected;
            other.up_bytes += f.up_bytes;
            other.down_bytes += f.down_bytes;
        }
    }
    if other != FunnelStatus::default() {
        rows.push(line("other".to_owned(), &other));
    }
    Table {
        title: "Registrations by channel and transport",
        columns: &[
            "channel, transport",
            "registered",
            "valid",
            "connected",
            "bytes up",
            "bytes down",
        ],
        rows,
    }
}

fn origins(
    seats: &[Seat],
    floor: u64,
    title: &'static str,
    of: fn(&ApplicationStatus) -> &Vec<OriginStatus>,
) -> Table {
    let now = detail(seat(seats, "application"), |r| application(r).cloned()).unwrap_or_default();
    let (mut rows, mut other) = (Vec::new(), OriginStatus::default());
    let line = |name: String, o: &OriginStatus| {
        let numbers = [o.valid, o.connected].map(|n| n.to_string());
        let moved = [o.up_bytes, o.down_bytes].map(|n| bytes(n as f64));
        row([name].into_iter().chain(numbers).chain(moved).collect(), false)
    };
    let mut sorted: Vec<&OriginStatus> = of(&now).iter().collect();
    sorted.sort_by(|a, b| b.valid.cmp(&a.valid).then_with(|| a.origin.cmp(&b.origin)));
    for o in sorted {
        if o.clients >= floor {
            rows.push(line(o.origin.clone(), o));
        } else {
            other.valid += o.valid;
            other.connected += o.connected;
            other.up_bytes += o.up_bytes;
            other.down_bytes += o.down_bytes;
        }
    }
    if other != OriginStatus::default() {
        rows.push(line("other".to_owned(), &other));
    }
    Table { title, columns: &["origin", "valid", "connected", "bytes up", "bytes down"], rows }
}

fn requests(seats: &[Seat]) -> Table {
    let seat = seat(seats, "registrar");
    let now = detail(seat, |r| registrar(r).cloned()).unwrap_or_default();
    let line = |count: &signalling::station::Count| {
        let of = |r: &StatusReply| {
            let counts = registrar(r).map_or(&[][..], |status| &status.requests);
            counts.iter().find(|other| other.name == count.name).map_or(0, |count| count.value)
        };
        let rate = seat.map_or(0.0, |seat| seat.rate(of));
        row(vec![count.name.clone(), count.value.to_string(), short(rate)], false)
    };
    let mut rows: Vec<Row> = now.requests.iter().map(line).collect();
    let published = seat.map_or(0.0, |s| s.rate(|r| registrar(r).map_or(0, |x| x.published)));
    rows.push(row(vec!["published".into(), now.published.to_string(), short(published)], false));
    let dropped = seat.map_or(0.0, |s| s.rate(|r| registrar(r).map_or(0, |x| x.dropped)));
    let alarm = dropped > 0.0;
    rows.push(row(vec!["dropped".into(), now.dropped.to_string(), short(dropped)], alarm));
    Table { title: "Registrar", columns: &["counter", "since start", "per second"], rows }
}

fn events(seats: &[Seat]) -> Table {
    let seat = seat(seats, "application");
    let now = detail(seat, |r| application(r).cloned()).unwrap_or_default();
    let mut rows = Vec::new();
    type List = fn(&ApplicationStatus) -> &Vec<signalling::station::Count>;
    let lists: [(&str, List); 3] = [
        ("ingest", |a| &a.ingest),
        ("liveness", |a| &a.liveness),
        ("connections", |a| &a.connections),
    ];
    for (list, of) in lists {
        for count in of(&now) {
            let value = |r: &StatusReply| {
                let counts = application(r).map_or(&[][..], |status| of(status));
                counts.iter().find(|other| other.name == count.name).map_or(0, |count| count.value)
            };
            let rate = seat.map_or(0.0, |seat| seat.rate(value));
            let name = format!("{list} {}", count.name);
            rows.push(row(vec![name, count.value.to_string(), short(rate)], false));
        }
    }
    Table { title: "Application", columns: &["event", "since start", "per second"], rows }
}

fn notes(seats: &[Seat]) -> Table {
    let mut rows = Vec::new();
    for seat in seats {
        let notes: Vec<String> = match &seat.now {
            Some(seen) => seen.reply.notes.clone(),
            None => vec![format!("does not answer on {}", seat.socket.display())],
        };
        for note in notes {
            rows.push(row(vec![seat.daemon.to_owned(), note], seat.now.is_none()));
        }
    }
    Table { title: "Notes", columns: &["daemon", "note"], rows }
}

/// A rate or count in at most five characters.
pub fn short(value: f64) -> String {
    let units = ["", "k", "M", "G", "T"];
    let mut value = value;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 && (value >= 10.0 || value.fract() == 0.0) {
        format!("{value:.0}")
    } else if value < 10.0 {
        format!("{value:.1}{}", units[unit])
    } else {
        format!("{value:.0}{}", units[unit])
    }
}

fn bits(value: f64) -> String {
    short(value)
}

/// Bytes with a binary unit.
pub fn bytes(value: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = value;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} B") } else { format!("{value:.1} {}", units[unit]) }
}

fn age(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use signalling::station::{Identity, WorkerStatus};
    use std::time::Instant;

    /// Seats of a station at work: two answers of each daemon but the registrar, which is away.
    pub(crate) fn seats() -> Vec<Seat> {
        let mut seats: Vec<Seat> = telemetry::metrics::DAEMONS
            .into_iter()
            .map(|daemon| Seat::empty(daemon, format!("/run/conjure/{daemon}.admin.sock").into()))
            .collect();
        let start = Instant::now();
        for second in 0..2 {
            let at = start + Duration::from_secs(second);
            let worker = |worker| WorkerStatus {
                worker,
                packets: 1_500_000 * (second + 1),
                dropped_tun: 7 * second,
                tags: 41 + second,
                attached: true,
                ..Default::default()
            };
            let workers = vec![worker(0), worker(1)];
            let funnel = |channel: &str, clients| FunnelStatus {
                channel: channel.into(),
                transport: "Min".into(),
                clients,
                registered: 90 + clients,
                valid: 80,
                connected: 70,
                up_bytes: 1 << 20,
                down_bytes: 3 << 30,
            };
            let application = ApplicationStatus {
                registrations: 12,
                tunnels: 5,
                down_bytes: 4096 * second,
                funnel: vec![funnel("API", 10), funnel("DNS", 3), funnel("AMPCache", 1)],
                ..Default::default()
            };
            let details = [
                Detail::Zbalance(ZbalanceStatus { dropped: 3 * second, ..Default::default() }),
                Detail::Detector(DetectorStatus { workers, sessions: 9, ..Default::default() }),
                Detail::Application(application),
            ];
            for (seat, detail) in seats.iter_mut().zip(details) {
                let reply = StatusReply {
                    identity: Some(Identity { version: "1.2.3".into(), ..Default::default() }),
                    state: "ready".into(),
                    notes: vec![format!("note of {}", seat.daemon)],
                    detail: Some(detail),
                    ..Default::default()
                };
                seat.take(reply, at);
            }
        }
        seats
    }

    #[test]
    fn rates_and_drops_of_all_levels() {
        let totals = totals(&seats());
        assert_eq!((totals.packets, totals.tags, totals.drops), (3e6, 2.0, 17.0));
        assert_eq!((totals.registrations, totals.tunnels, totals.sessions), (12.0, 5.0, 9.0));
        assert_eq!((totals.up, totals.down), (0.0, 4096.0));
    }

    #[test]
    fn a_daemon_that_is_away_is_said_to_be() {
        let tables = View::Daemons.tables(&seats(), 0);
        let registrar = &tables[0].rows[3];
        assert_eq!((&*registrar.cells[1], registrar.alarm), ("does not answer", true));
        assert!(!tables[0].rows[0].alarm);
        assert!(tables[0].rows.iter().all(|row| row.cells.len() == tables[0].columns.len()));
    }

    #[test]
    fn workers_that_lose_packets_stand_out() {
        let table = &View::Cores.tables(&seats(), 0)[0];
        assert_eq!(table.rows[0].cells[..2], ["0 (cpu 0)".to_owned(), "1.5M".to_owned()]);
        assert!(table.rows[0].alarm, "{table:?}");
    }

    #[test]
    fn few_clients_are_one_row() {
        let table = &View::Funnel.tables(&seats(), 10)[0];
        let names: Vec<&str> = table.rows.iter().map(|row| &*row.cells[0]).collect();
        assert_eq!(names, ["API Min", "other"]);
        assert_eq!(table.rows[1].cells[1], "184");
        assert_eq!(View::Funnel.tables(&seats(), 0)[0].rows.len(), 3);
    }

    #[test]
    fn figures_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (12.0, "12"),
            (999.6, "1.0k"),
            (12_345.0, "12k"),
            (3e6, "3.0M"),
        ] {
            assert_eq!(short(value), text);
        }
        assert_eq!((bytes(512.0), bytes(1536.0)), ("512 B".to_owned(), "1.5 KiB".to_owned()));
        assert_eq!(age(Duration::from_secs(3725)), "1 h 2 min");
    }
}
