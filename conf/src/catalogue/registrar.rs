//! Settings of `reg_config.toml` (`spec/registrar.md` 3).

use super::Default::{Meaning, Required, Value};
use super::Kind::{Boolean, Choice, Integer, Number, Path, Tables, Text, Texts};
use super::{Setting, setting};

const FALSE: super::Default = Value("false");
const TRUE: super::Default = Value("true");
const EMPTY: super::Default = Value("\"\"");
const NONE: super::Default = Value("[]");

/// Settings of the registrar.
pub const REGISTRAR: &[Setting] = &[
    setting(
        "dns_listen_addr",
        Text,
        EMPTY,
        "ADDRESS:PORT of the DNS registrar, UDP and TCP. Empty, or no domain: none.",
    ),
    setting("domain", Text, EMPTY, "Zone below which registrations are taken."),
    setting("dns_private_key_path", Path, EMPTY, "Key of the DNS registrar."),
    setting(
        "dns_accept_unfragmented",
        Boolean,
        TRUE,
        "Also take whole registrations of clients from before 2025.",
    ),
    setting(
        "dns_nodata",
        Boolean,
        FALSE,
        "Names in the zone exist, with an SOA record behind negative answers. Resolvers that minimise names strictly need it.",
    ),
    setting(
        "dns_max_pending",
        Integer(1, 10_000_000),
        Value("100000"),
        "Registrations over DNS in progress or kept for retries.",
    ),
    setting(
        "dns_workers",
        Integer(0, 1024),
        Value("0"),
        "Tasks that answer UDP queries; 0 for one per core.",
    ),
    setting(
        "log_level",
        Choice(&["fatal", "error", "warning", "info", "debug", "trace"]),
        Required,
        "What is printed.",
    ),
    setting(
        "log_format",
        Choice(&["text", "reference"]),
        Meaning("CJ_LOG_FORMAT, or text"),
        "Form of the log: reference keeps every line of the reference as it is.",
    ),
    setting(
        "log_metrics_interval",
        Integer(0, 65_535),
        Value("0"),
        "Seconds between metrics lines; 0 for none.",
    ),
    setting("api_port", Integer(0, 65_535), Value("0"), "Port of the HTTP API; 0 for a free one."),
    setting("api_bind_addr", Text, EMPTY, "Address of the HTTP API. Empty for all."),
    setting(
        "trusted_proxies",
        Texts,
        NONE,
        "Subnets of proxies whose X-Forwarded-For is believed. Empty for the reference's rule.",
    ),
    setting(
        "sharing_stations",
        Texts,
        NONE,
        "Subnets of stations that may say that a detector heard a registration. Empty for anyone.",
    ),
    setting(
        "max_body_bytes",
        Integer(64, 67_108_864),
        Value("65536"),
        "Largest request body in bytes.",
    ),
    setting(
        "api_max_connections",
        Integer(1, 1_000_000),
        Value("8192"),
        "HTTP connections at one time; when all are taken, the one that waited longest without a request goes.",
    ),
    setting(
        "client_rate",
        Integer(0, 1_000_000),
        Value("20"),
        "Registrations per second of one client over HTTP and gRPC; 0 for no limit.",
    ),
    setting(
        "client_burst",
        Integer(1, 1_000_000),
        Value("200"),
        "Registrations of one client at once.",
    ),
    setting("grpc_listen_addr", Text, EMPTY, "ADDRESS:PORT of gRPC registration. Empty for none."),
    setting(
        "grpc_tls_cert",
        Path,
        EMPTY,
        "PEM certificate chain of the gRPC service. Empty for plain HTTP/2.",
    ),
    setting("grpc_tls_key", Path, EMPTY, "PEM key that belongs to it."),
    setting("grpc_reflection", Boolean, FALSE, "gRPC clients may ask for the schema."),
    setting(
        "zmq_port",
        Integer(0, 65_535),
        Value("0"),
        "Port of the publication to stations; 0 for a free one.",
    ),
    setting(
        "zmq_bind_addr",
        Text,
        Required,
        "Where it listens: *, an interface or an IPv4 address.",
    ),
    setting("zmq_privkey_path", Path, EMPTY, "Key file of 64 bytes for CURVE and signatures."),
    setting(
        "zmq_auth_type",
        Choice(&["NULL", "CURVE"]),
        Required,
        "NULL neither authenticates nor encrypts; CURVE does both and signs responses.",
    ),
    setting("zmq_auth_verbose", Boolean, FALSE, "Print each decision about a subscriber."),
    setting(
        "station_pubkeys",
        Texts,
        NONE,
        "Z85 keys of the stations that may subscribe; * admits every one.",
    ),
    setting(
        "signing_key_path",
        Path,
        EMPTY,
        "Seed of the signatures. Empty: derived from the ZeroMQ key.",
    ),
    setting(
        "signing_mode",
        Choice(&["ed25519", "legacy"]),
        Value("\"ed25519\""),
        "Form of the signatures: standard, or the reference's bytes.",
    ),
    setting(
        "nats_url",
        Text,
        EMPTY,
        "NATS server with JetStream to which registrations go as well, for a fleet of stations that must not miss one: nats://HOST:PORT, tls://HOST:PORT. Empty for none.",
    ),
    setting("nats_subject", Text, EMPTY, "Their subject. Empty for conjure.registrations."),
    setting(
        "nats_credentials_path",
        Path,
        EMPTY,
        "File with USER:PASSWORD, where the server wants them.",
    ),
    setting(
        "clientconf_path",
        Path,
        Required,
        "Serialized ClientConf that clients with an older generation get.",
    ),
    setting(
        "supplemental_prefix_path",
        Path,
        EMPTY,
        "File of further prefixes of the Prefix transport, as the stations have it.",
    ),
    setting("disable_default_prefixes", Boolean, FALSE, "Leave out the built-in prefixes."),
    setting(
        "enforce_subnet_overrides",
        Boolean,
        FALSE,
        "Move bidirectional registrations to other subnets.",
    ),
    setting(
        "prcnt_min_regs_to_override",
        Number,
        Value("0"),
        "Percentage of Min registrations to move.",
    ),
    setting(
        "prcnt_prefix_regs_to_override",
        Number,
        Value("0"),
        "Percentage of Prefix registrations to move.",
    ),
    setting(
        "min_override_respects_optout",
        Boolean,
        TRUE,
        "Clients that asked for no overrides keep their phantom also with Min.",
    ),
    setting("override_subnet", Tables(OVERRIDES), NONE, "Subnets to move to."),
    setting(
        "excluded_subnet_from_overrides",
        Tables(EXCLUDED),
        NONE,
        "Phantoms in these subnets are never moved.",
    ),
    setting(
        "random_prefix_override",
        Boolean,
        Meaning("on under CURVE, off under NULL"),
        "Override the prefix by a random one.",
    ),
    setting(
        "admin_listen_addr",
        Text,
        EMPTY,
        "ADDRESS:PORT of /healthz and /metrics. Empty for none.",
    ),
    setting(
        "ampcache_url",
        Text,
        Meaning("nothing"),
        "Ignored: the reference reads it and does nothing with it.",
    ),
    setting(
        "bidirectional_api_generation",
        Integer(0, 4_294_967_295),
        Meaning("nothing"),
        "Ignored: the generation is that of the ClientConf.",
    ),
];

const OVERRIDES: &[Setting] = &[
    setting("cidr", Text, Required, "IPv4 subnet, such as 192.0.2.0/24."),
    setting("weight", Number, Value("0"), "Weight among the entries for the same transport."),
    setting(
        "port",
        Integer(0, 65_535),
        Value("0"),
        "Destination port; needed for Prefix_Transport.",
    ),
    setting("transport", Text, Required, "Min_Transport or Prefix_Transport."),
    setting(
        "prefix_id",
        Integer(-1, 9),
        Value("0"),
        "Prefix that clients get; -1 for a random one.",
    ),
];

const EXCLUDED: &[Setting] = &[
    setting("cidr", Text, Required, "IPv4 or IPv6 subnet."),
    setting("weight", Number, Meaning("nothing"), "Ignored."),
    setting("port", Integer(0, 65_535), Meaning("nothing"), "Ignored."),
    setting("transport", Text, Meaning("nothing"), "Ignored."),
    setting("prefix_id", Integer(-1, 9), Meaning("nothing"), "Ignored."),
];
