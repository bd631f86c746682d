//! Every metric of every daemon: the one place where it is named and explained.
//!
//! The fields of the status messages (`station.proto`) are the names: a metric is called
//! `conjure_DAEMON_ROW_FIELD`, in small letters, and `station status --json` shows the same value under
//! `FIELD`.

/// How a value behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises while the process lives.
    Counter,
    /// What is there now.
    Gauge,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Field of the status message.
    pub field: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// What one of it is.
    pub unit: &'static str,
    /// What it counts.
    pub help: &'static str,
}

/// Where the values of a [`Group`] stand in the status message.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// Fields of the message itself.
    Scalars,
    /// Rows of a repeated field; field and name of each label.
    Rows(&'static [(&'static str, &'static str)]),
    /// As `Rows`, but of counts that stand for clients: what is below the privacy floor is summed up.
    Clients(&'static [(&'static str, &'static str)]),
    /// A list of names and values, which is one metric with this label.
    Tally(&'static str),
    /// A list of names and values, each a metric of its own.
    Named,
}

/// Metrics that stand together in a status message.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// The daemon, or `process` for what all of them have.
    pub daemon: &'static str,
    /// Repeated field that they are in; empty for the message itself.
    pub path: &'static str,
    /// What a row is called in the name of a metric.
    pub row: &'static str,
    /// Where the values are.
    pub shape: Shape,
    /// The metrics.
    pub families: &'static [Family],
}

impl Group {
    /// Name of a metric without the ending of a counter.
    pub fn name(&self, family: &Family) -> String {
        let field = family.field.strip_suffix("_total").unwrap_or(family.field);
        let prefix = if self.daemon == "process" { "" } else { "conjure_" };
        let mut name = format!("{prefix}{}", self.daemon);
        for part in [self.row, field] {
            if !part.is_empty() {
                name.push('_');
                name.push_str(&snake(part));
            }
        }
        name
    }

    /// Labels of its metrics.
    pub fn labels(&self) -> Vec<&'static str> {
        match self.shape {
            Shape::Scalars | Shape::Named => Vec::new(),
            Shape::Rows(labels) | Shape::Clients(labels) => labels.iter().map(|l| l.1).collect(),
            Shape::Tally(label) => vec![label],
        }
    }
}

/// A field whose name has capitals, as counters of the reference have, without them.
fn snake(field: &str) -> String {
    let mut name = String::with_capacity(field.len() + 4);
    for c in field.chars() {
        if c.is_ascii_uppercase() && name.ends_with(|before: char| before.is_ascii_lowercase()) {
            name.push('_');
        }
        name.push(c);
    }
    name.to_ascii_lowercase()
}

const fn counter(field: &'static str, unit: &'static str, help: &'static str) -> Family {
    Family { field, kind: Kind::Counter, unit, help }
}

const fn gauge(field: &'static str, unit: &'static str, help: &'static str) -> Family {
    Family { field, kind: Kind::Gauge, unit, help }
}

/// All of them.
pub const GROUPS: &[Group] = &[
    Group {
        daemon: "process",
        path: "",
        row: "",
        shape: Shape::Scalars,
        families: &[
            gauge("resident_memory_bytes", "bytes", "Memory of the process that is in RAM"),
            gauge("open_fds", "descriptors", "Open file descriptors"),
            gauge("max_fds", "descriptors", "Most file descriptors that may be open"),
            counter("cpu_seconds", "seconds", "CPU time of all threads"),
            gauge("threads", "threads", "Threads of the process"),
        ],
    },
    Group {
        daemon: "zbalance",
        path: "",
        row: "",
        shape: Shape::Scalars,
        families: &[
            counter("received", "frames", "Frames read from all inputs"),
            counter("forwarded", "frames", "Frames put into queues, once per queue set"),
            counter("dropped", "frames", "Frames lost before an input was read, or for a queue"),
            gauge("cluster", "number", "Number of the cluster"),
        ],
    },
    Group {
        daemon: "zbalance",
        path: "interfaces",
        row: "interface",
        shape: Shape::Rows(&[("interface", "interface")]),
        families: &[
            counter("received", "frames", "Frames read from the input"),
            counter("dropped", "frames", "Frames that the kernel dropped before they were read"),
            counter("filtered", "frames", "Frames left out because of a filter"),
            counter(
                "prefiltered",
                "frames",
                "Frames that the kernel dropped because they are neither TCP nor UDP",
            ),
            counter(
                "passed",
                "frames",
                "Frames of sessions that the kernel gave to the host at once",
            ),
            counter("reopened", "times", "Times that the input was opened again"),
            gauge("down", "flag", "1 while the input cannot be read"),
        ],
    },
    Group {
        daemon: "zbalance",
        path: "queues",
        row: "queue",
        shape: Shape::Rows(&[("set", "set"), ("queue", "queue")]),
        families: &[
            gauge("attached", "flag", "1 while a consumer holds the queue"),
            counter("enqueued", "frames", "Frames put into the queue"),
            counter("dropped", "frames", "Frames that the queue did not get, for any reason"),
            counter("processed", "frames", "Frames that consumers have read"),
            gauge("outstanding", "frames", "Frames in the queue or in the hands of its consumer"),
            counter("dropped_full", "frames", "Frames dropped because the queue was full"),
            counter(
                "dropped_quota",
                "frames",
                "Frames dropped because its consumer holds too many",
            ),
            counter("no_consumer", "frames", "Frames for the queue while nobody held it"),
            counter("no_frame", "frames", "Frames dropped because no buffer was free"),
            gauge(
                "heartbeat_age_seconds",
                "seconds",
                "Time since the consumer's last sign of life",
            ),
            gauge("hung", "flag", "1 while the consumer holds the queue and does not read it"),
        ],
    },
    Group {
        daemon: "detector",
        path: "",
        row: "",
        shape: Shape::Scalars,
        families: &[
            gauge("sessions", "sessions", "Sessions whose packets are forwarded"),
            counter("redis_received", "messages", "Messages of the Redis session channel"),
            counter("redis_refused", "messages", "Of these, messages that were refused"),
            counter("published", "registrations", "Registrations published on the bus"),
            counter("published_dropped", "registrations", "Copies dropped for slow subscribers"),
            gauge("subscribers", "subscribers", "Subscribers of the registration bus"),
        ],
    },
    Group {
        daemon: "detector",
        path: "workers",
        row: "worker",
        shape: Shape::Rows(&[("worker", "worker")]),
        families: &[
            counter("packets", "packets", "Packets, ignored ones included"),
            counter("bytes", "bytes", "Their bytes, without what PARSE_GRE_OFFSET skips"),
            counter("dropped_source", "packets", "Packets dropped in the queue before the worker"),
            counter("dropped_candidates", "records", "Candidates not checked: too many waited"),
            counter("dropped_tun", "packets", "Packets of sessions that the tun device refused"),
            gauge("tracked_flows", "flows", "TLS flows that are followed"),
            counter("candidates", "records", "First application records of followed flows"),
            counter("tags", "registrations", "Tags found, each a registration"),
            counter("forwarded", "packets", "Packets of sessions written to the tun device"),
            counter("restarts", "times", "Times that the worker was started again"),
            gauge("cpu", "number", "CPU of the worker"),
            counter("v4", "packets", "IPv4 packets"),
            counter("v6", "packets", "IPv6 packets"),
            counter("truncated", "packets", "Frames cut off within a header"),
            counter("tls", "packets", "Packets to port 443 that belong to no session"),
            counter("syns", "packets", "Connection attempts to port 443"),
            counter("candidates_short", "records", "Candidates too short for a tag"),
            gauge("candidates_waiting", "records", "Candidates that wait for a checker"),
            counter("checked", "records", "Candidates checked for a tag"),
            counter("malformed_tags", "records", "Tags for our key without a registration"),
            counter("tls13", "flows", "Followed flows that were TLS 1.3, which carries no tag"),
            counter("evicted", "flows", "Followed flows that made room for others"),
            counter("forwarded_bytes", "bytes", "Bytes of packets written to the tun device"),
            counter("held", "packets", "First packets held for a session still being probed"),
            counter("released", "packets", "Of these, packets forwarded when the session came"),
            gauge("attached", "flag", "1 while the worker has its source"),
            counter(
                "syns_elsewhere",
                "packets",
                "Connection attempts to none of the listed decoys",
            ),
            counter(
                "candidates_displaced",
                "records",
                "Candidates that gave way to other networks",
            ),
            counter("straddling", "records", "Candidates that did not end with their segment"),
            counter("joined", "records", "Of these, records whose rest came"),
            counter("straddling_lost", "records", "Of these, records given up for want of room"),
            gauge(
                "passing",
                "flows",
                "Flows of sessions whose packets the kernel gives to the host",
            ),
            counter("passing_entered", "flows", "Flows of sessions that came to this"),
            counter("passing_refused", "times", "Times that one did not, for want of room"),
            counter(
                "forwarded_together",
                "packets",
                "Of the packets forwarded, acknowledgements that the kernel took in together",
            ),
        ],
    },
    Group {
        daemon: "application",
        path: "",
        row: "",
        shape: Shape::Scalars,
        families: &[
            gauge("registrations", "registrations", "Valid registrations"),
            gauge("tunnels", "tunnels", "Open tunnels"),
            gauge("session_watchers", "detectors", "Detectors on the session channel"),
            counter("tunnels_completed", "tunnels", "Tunnels that have ended"),
            counter("up_bytes", "bytes", "Bytes relayed to coverts"),
            counter("down_bytes", "bytes", "Bytes relayed to clients"),
            gauge("registrations_stored", "registrations", "Registrations known, valid or not yet"),
            gauge("ingest_waiting", "messages", "Messages of the bus that wait for a worker"),
            gauge("ingest_capacity", "messages", "Messages of the bus that may wait"),
        ],
    },
    Group {
        daemon: "application",
        path: "ingest",
        row: "ingest",
        shape: Shape::Tally("event"),
        families: &[counter(
            "",
            "messages",
            "Messages of the registration bus by what became of them",
        )],
    },
    Group {
        daemon: "application",
        path: "liveness",
        row: "liveness",
        shape: Shape::Tally("result"),
        families: &[counter("", "probes", "Probes of phantoms by their result")],
    },
    Group {
        daemon: "application",
        path: "connections",
        row: "connections",
        shape: Shape::Tally("event"),
        families: &[counter("", "connections", "Phantom connections by what became of them")],
    },
    Group {
        daemon: "application",
        path: "funnel",
        row: "funnel",
        shape: Shape::Clients(&[("channel", "channel"), ("transport", "transport")]),
        families: &[
            counter("registered", "registrations", "New registrations"),
            counter("valid", "registrations", "Registrations that became valid"),
            counter("connected", "tunnels", "Connections that reached their covert"),
            counter("up_bytes", "bytes", "Bytes to coverts of tunnels that have ended"),
            counter("down_bytes", "bytes", "Bytes to clients of tunnels that have ended"),
        ],
    },
    Group {
        daemon: "application",
        path: "countries",
        row: "country",
        shape: Shape::Clients(&[("origin", "country")]),
        families: ORIGIN,
    },
    Group {
        daemon: "application",
        path: "networks",
        row: "network",
        shape: Shape::Clients(&[("origin", "asn")]),
        families: ORIGIN,
    },
    Group {
        daemon: "application",
        path: "phantom_subnets",
        row: "phantom_subnet",
        shape: Shape::Clients(&[("origin", "subnet")]),
        families: ORIGIN,
    },
    Group {
        daemon: "registrar",
        path: "",
        row: "",
        shape: Shape::Scalars,
        families: &[
            counter("published", "registrations", "Registrations published to stations"),
            gauge("subscribers", "stations", "Stations that are connected"),
            counter("dropped", "registrations", "Copies dropped because a station was too slow"),
            gauge("generation", "number", "Generation of the client configuration"),
            counter("subscribers_failed", "connections", "Connections of stations that failed"),
            gauge("dns_pending", "registrations", "Registrations over DNS kept in parts"),
        ],
    },
    Group {
        daemon: "registrar",
        path: "requests",
        row: "",
        shape: Shape::Named,
        families: REQUESTS,
    },
];

const ORIGIN: &[Family] = &[
    counter("valid", "registrations", "Registrations that became valid"),
    counter("connected", "tunnels", "Connections that reached their covert"),
    counter("up_bytes", "bytes", "Bytes to coverts of tunnels that have ended"),
    counter("down_bytes", "bytes", "Bytes to clients of tunnels that have ended"),
];

const REQUESTS: &[Family] = &[
    counter("api_requests_total", "requests", "Requests to /register"),
    counter("bdapi_requests_total", "requests", "Requests to /register-bidirectional"),
    counter("ampcache_requests_total", "requests", "Requests to /amp/register/"),
    counter("bdampcache_requests_total", "requests", "Requests to /amp/register-bidirectional/"),
    counter("dns_requests_total", "registrations", "Registrations over DNS that were whole"),
    counter("grpc_requests_total", "calls", "Calls of Announce"),
    counter("bdgrpc_requests_total", "calls", "Calls of Register"),
    counter("cc_updated", "requests", "Bidirectional requests of an older generation"),
    counter("reg_processed_API", "registrations", "Registrations taken over the HTTP API"),
    counter("reg_processed_BidirectionalAPI", "registrations", "The same, bidirectional"),
    counter("reg_processed_DNS", "registrations", "Registrations taken over DNS"),
    counter("reg_processed_BidirectionalDNS", "registrations", "The same, bidirectional"),
    counter("reg_processed_AMPCache", "registrations", "Registrations taken over AMP caches"),
    counter("reg_processed_BidirectionalAMP", "registrations", "The same, bidirectional"),
    counter("requests_refused", "requests", "Requests refused for whatever reason"),
    counter("requests_rate_limited", "requests", "Requests above the rate of one client"),
    counter("station_claims_refused", "requests", "Claims that only stations may make, of others"),
    counter("connections_refused", "connections", "Connections closed: too many were open"),
    counter("connections_timed_out", "connections", "Connections closed: the peer was too slow"),
    counter("connections_evicted", "connections", "Idle connections that made room for others"),
    counter("dns_queries_udp", "queries", "DNS queries over UDP"),
    counter("dns_queries_tcp", "queries", "DNS queries over TCP"),
    counter("dns_queries_refused", "queries", "DNS queries answered with an error"),
    counter("dns_errors_rate_limited", "answers", "DNS errors not sent: too many to one network"),
    counter("dns_dropped_response", "queries", "DNS queries that were responses"),
    counter("dns_dropped_frame", "queries", "DNS queries whose names hold no frame"),
    counter("dns_dropped_sealed", "queries", "DNS queries not sealed for our key"),
    counter("dns_dropped_message", "queries", "DNS queries without part or registration"),
    counter("dns_parts_malformed", "parts", "Parts without a usable number or total"),
    counter("dns_parts_contradicting", "parts", "Parts that contradict an earlier one"),
    counter("dns_parts_expired", "registrations", "Registrations that were never whole in time"),
    counter("dns_parts_evicted", "registrations", "Registrations that made room for newer ones"),
];

/// Numbers of the status messages that are no metrics, and why.
pub const STATUS_ONLY: &[(&str, &str)] = &[
    ("registrations_by_channel", "the funnel has it, behind the privacy floor"),
    ("tunnels_by_transport", "the funnel has it, behind the privacy floor"),
    ("clients", "decides what the privacy floor hides"),
];

/// Metrics that are made of the identity and the state of a daemon: name, type, unit and meaning.
pub const COMMON: &[(&str, &str, &str, &str)] = &[
    ("conjure_build", "info", "1", "Daemon and version, as labels"),
    ("conjure_state", "stateset", "flag", "1 for the state that the daemon is in"),
    ("conjure_start_time_seconds", "gauge", "seconds", "Unix time at which the process started"),
];

/// The states of `conjure_state`.
pub const STATES: [&str; 4] = ["starting", "ready", "degraded", "draining"];
