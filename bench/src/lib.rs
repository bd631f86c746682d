//! Ratios of the station's hot paths against stated baselines.
//!
//! Both sides of a row are measured in one run on one core, in turn, and the medians are compared.
//! A ratio below 1 means that ours costs less.
#![forbid(unsafe_code)]

mod accepting;
pub mod counting;
mod daemons;
mod detector;
mod dtls;
mod flood;
mod foreign;
mod forwarding;
mod hash;
mod host;
mod http;
pub mod idle;
pub mod loopback;
mod measure;
mod obfs4;
mod receiving;
mod registrations;
mod relaying;
mod report;
mod ring;
mod sessions;
mod stages;
pub mod station;
mod tag;

pub use measure::{Row, Side};
pub use report::{Outcome, run};

/// Makes a row; building it may take memory and time, so rows are made one after the other. A row
/// that this host cannot measure says what is missing.
pub type MakeRow = fn() -> Result<Row, String>;

/// All rows by name.
pub const ROWS: &[(&str, MakeRow)] = &[
    ("detector-uninteresting", || Ok(detector::uninteresting())),
    ("detector-untracked-443", || Ok(detector::untracked())),
    ("detector-floor", || Ok(detector::floor())),
    ("flood-syn", flood::missed),
    ("flood-tags", flood::tags),
    ("afxdp-user", receiving::afxdp),
    ("afpacket-user", receiving::afpacket),
    ("xdp-fast-path", stages::passing),
    ("xdp-fast-path-other", stages::not_passing),
    ("xdp-prefilter", stages::prefilter),
    ("xdp-sorting", stages::sorting),
    ("ring-handover", || Ok(ring::handover())),
    ("hash-ip", || Ok(hash::ip())),
    ("hash-auto", || Ok(hash::auto())),
    ("tag-miss", || Ok(tag::miss())),
    ("tag-miss-avx2", tag::miss_avx2),
    ("tag-miss-portable", || Ok(tag::miss_portable())),
    ("tag-second-key", || Ok(tag::second_key())),
    ("tun-forward-bulk", forwarding::bulk),
    ("tun-forward-ack", forwarding::acknowledgements),
    ("tun-forward-ack-alone", forwarding::acknowledgements_alone),
    ("accept", accepting::row),
    ("relay", relaying::row),
    ("station-relay", daemons::relay),
    ("station-sessions", daemons::sessions),
    ("registrations", registrations::alone),
    ("registrations-sinks", registrations::with_sinks),
    ("idle-session-bytes", idle::min),
    ("idle-session-bytes-obfs4", idle::obfs4),
    ("idle-session-bytes-dtls", idle::dtls),
    ("relay-obfs4", || Ok(obfs4::relay())),
    ("obfs4-identify", || Ok(obfs4::identify())),
    ("relay-dtls", dtls::relay),
    ("http-registration", http::row),
];
