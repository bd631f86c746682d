//! Settings of `app_config.toml` (`spec/application.md` 3).

use super::Default::{Meaning, Required, Value};
use super::Kind::{Boolean, Choice, Duration, Integer, Path, Tables, Text, Texts};
use super::{Setting, setting};

const FALSE: super::Default = Value("false");
const TRUE: super::Default = Value("true");
const EMPTY: super::Default = Value("\"\"");
const NONE: super::Default = Value("[]");

/// Settings of the application; the detector reads those that start with `detector_`, `redis_url` and
/// `session_socket` from the same file.
pub const APPLICATION: &[Setting] = &[
    setting(
        "privkey_path",
        Path,
        EMPTY,
        "Station key: a file, or a folder of key files. Empty: CJ_PRIVKEY.",
    ),
    setting("zmq_privkey_path", Path, EMPTY, "Key for sources with CURVE. Empty: ZMQ_PRIVKEY."),
    setting(
        "log_level",
        Choice(&["trace", "debug", "warn", "error", "info"]),
        Value("\"error\""),
        "What is printed. In this order each prints less than the one before: info prints notices and no errors.",
    ),
    setting(
        "supplemental_prefix_path",
        Path,
        EMPTY,
        "File of further prefixes of the Prefix transport.",
    ),
    setting("disable_default_prefixes", Boolean, FALSE, "Leave out the built-in prefixes."),
    setting(
        "cache_expiration_time",
        Duration,
        EMPTY,
        "How long it is remembered that a phantom answers by itself. Empty: not at all.",
    ),
    setting(
        "cache_capacity",
        Integer(0, 100_000_000),
        Value("0"),
        "Most such results kept; 0 for 262,144.",
    ),
    setting(
        "cache_expiration_nonlive",
        Duration,
        EMPTY,
        "How long it is remembered that a phantom is silent. Empty: not at all.",
    ),
    setting(
        "cache_capacity_nonlive",
        Integer(0, 100_000_000),
        Value("0"),
        "Most such results kept; 0 for 100,000.",
    ),
    setting("enable_v4", Boolean, FALSE, "Serve IPv4 phantoms."),
    setting("enable_v6", Boolean, FALSE, "Serve IPv6 phantoms."),
    setting(
        "ingest_worker_count",
        Integer(0, 100_000),
        Value("300"),
        "Workers that process registrations; 0 for 300.",
    ),
    setting(
        "covert_blocklist_domains",
        Texts,
        NONE,
        "Patterns of names that clients cannot reach through this station.",
    ),
    setting("covert_blocklist_subnets", Texts, NONE, "Subnets that clients cannot reach."),
    setting(
        "covert_blocklist_public_addrs",
        Boolean,
        FALSE,
        "Nor the subnets of this host's own interfaces.",
    ),
    setting(
        "covert_allowlist_subnets",
        Texts,
        NONE,
        "If not empty, the only subnets that clients can reach.",
    ),
    setting(
        "covert_reject_special",
        Boolean,
        TRUE,
        "Refuse special-purpose addresses (loopback, private, multicast, …) in any case.",
    ),
    setting("phantom_blocklist", Texts, NONE, "Phantoms that another station serves."),
    setting(
        "detector_filter_list",
        Texts,
        NONE,
        "Sources whose packets the detector leaves alone: addresses or subnets.",
    ),
    setting(
        "detector_decoys",
        Texts,
        NONE,
        "Decoys, as addresses or subnets: the detector then looks for registrations in flows to them alone. Empty for all.",
    ),
    setting(
        "detector_max_flows",
        Integer(1_024, 16_777_216),
        Meaning("131072"),
        "IPv4 flows to port 443 that a worker of the detector follows for 30 s, 20 bytes each, and a quarter of that over IPv6. The oldest makes room.",
    ),
    setting(
        "detector_max_candidates",
        Integer(16, 8_192),
        Meaning("2048"),
        "Records of a worker of the detector that wait to be checked for a tag. A network with many makes room for one with few.",
    ),
    setting(
        "detector_max_straddling",
        Integer(0, 8_192),
        Meaning("512"),
        "Records of a worker of the detector, 4 KiB each, of which the rest comes in the next segment. The oldest makes room; 0 to check single segments only.",
    ),
    setting("geoip_cc_db_path", Path, EMPTY, "MaxMind database of countries. Empty for none."),
    setting("geoip_asn_db_path", Path, EMPTY, "MaxMind database of networks. Empty for none."),
    setting(
        "enable_share_over_api",
        Boolean,
        FALSE,
        "Give registrations of the detector to other stations, through a registrar.",
    ),
    setting("preshare_endpoint", Text, EMPTY, "URL of that registrar, http:// or https://."),
    setting(
        "prescanned_from",
        Choice(&["authenticated", "any"]),
        Value("\"authenticated\""),
        "Whose word that a phantom was probed already is taken: of sources under CURVE and IPC, or of any.",
    ),
    setting(
        "socket_name",
        Text,
        Required,
        "Abstract socket on which every registration is repeated; 1 to 106 bytes.",
    ),
    setting(
        "heartbeat_interval",
        Integer(0, 86_400_000),
        Value("0"),
        "Milliseconds between heartbeats on the sources; 0 for none.",
    ),
    setting(
        "heartbeat_timeout",
        Integer(0, 86_400_000),
        Value("0"),
        "Milliseconds after which a silent source counts as lost.",
    ),
    setting(
        "registrar_sign_pubkeys",
        Texts,
        NONE,
        "Ed25519 keys, 64 hexadecimal digits each, whose signature makes a registrar's response credible, for sources without signing_pubkey.",
    ),
    setting(
        "connect_sockets",
        Tables(SOCKETS),
        NONE,
        "Sources of registrations: detectors and registrars.",
    ),
    setting(
        "log_format",
        Choice(&["text", "reference"]),
        Meaning("CJ_LOG_FORMAT, or text"),
        "Form of the log: reference keeps every line of the reference as it is.",
    ),
    setting(
        "metrics_listen",
        Text,
        EMPTY,
        "ADDRESS:PORT on loopback for metrics of the application; CJ_METRICS_LISTEN_APPLICATION wins. Empty for none.",
    ),
    setting(
        "relay_mode",
        Choice(&["auto", "copy", "splice"]),
        Value("\"auto\""),
        "How bytes are moved: auto copies 64 KiB of a direction and splices the rest.",
    ),
    setting(
        "redis_url",
        Text,
        Meaning("redis://127.0.0.1:6379/"),
        "Redis over which detectors of the reference hear of sessions. Empty switches it off.",
    ),
    setting(
        "redis_clear_at_start",
        Boolean,
        FALSE,
        "Tell detectors over Redis to forget all sessions at start, as the reference does.",
    ),
    setting(
        "session_socket",
        Path,
        Meaning("session.sock in CJ_IPC_DIR"),
        "Unix socket over which our detectors hear of sessions. Empty switches it off.",
    ),
    setting("covert_dial_timeout", Duration, Meaning("30s"), "Limit of a dial to a covert."),
    setting("covert_resolve_timeout", Duration, Meaning("3s"), "Limit of a name resolution."),
    setting(
        "liveness_max_inflight",
        Integer(1, 1_000_000),
        Meaning("4096"),
        "Liveness probes at one time.",
    ),
    setting(
        "liveness_window_ms",
        Integer(1, 10_000),
        Meaning("700"),
        "Milliseconds in which a phantom must stay silent to count as unused.",
    ),
    setting("tcp_listen", Text, Meaning("[::]:41245"), "ADDRESS:PORT of the phantom listener."),
    setting(
        "accept_threads",
        Integer(1, 32),
        Meaning("one for each processor, 32 at most"),
        "Threads that serve connections to phantoms, each with a listener of its own on the port.",
    ),
    setting(
        "max_sessions",
        Integer(1, 100_000_000),
        Meaning("no limit"),
        "Connections at one time.",
    ),
    setting(
        "max_registrations",
        Integer(1, 100_000_000),
        Meaning("1000000"),
        "Registrations at one time.",
    ),
    setting(
        "shutdown_grace",
        Duration,
        Meaning("0s"),
        "Time that open tunnels have when the application is told to end.",
    ),
];

const SOCKETS: &[Setting] = &[
    setting(
        "address",
        Text,
        Required,
        "ZeroMQ endpoint: tcp://HOST:PORT, ipc://PATH or ipc://@NAME. Or a NATS server with JetStream: nats://HOST:PORT, tls://HOST:PORT.",
    ),
    setting(
        "type",
        Text,
        Value("\"NULL\""),
        "CURVE, or NULL for a source that neither authenticates nor encrypts.",
    ),
    setting("pubkey", Text, EMPTY, "CURVE key of the source, 40 characters of Z85."),
    setting(
        "subscription",
        Text,
        EMPTY,
        "Topic prefix; empty for everything. NATS: the subject; empty for conjure.registrations.",
    ),
    setting(
        "resp_policy",
        Choice(&["verify", "trust", "strip"]),
        Meaning("verify where a signing key is known, otherwise trust"),
        "What becomes of registrar responses in this source's messages.",
    ),
    setting(
        "signing_pubkey",
        Text,
        EMPTY,
        "Ed25519 key of the registrar's responses, 64 hexadecimal digits.",
    ),
    setting(
        "signing_mode",
        Choice(&["ed25519", "legacy"]),
        Value("\"ed25519\""),
        "Form of the signatures: standard, or the reference's.",
    ),
    setting(
        "durable_name",
        Text,
        Meaning("the name of this host"),
        "NATS: name under which the server keeps what this station did not hear.",
    ),
    setting(
        "credentials_path",
        Path,
        EMPTY,
        "NATS: file with USER:PASSWORD, where the server wants them.",
    ),
];
