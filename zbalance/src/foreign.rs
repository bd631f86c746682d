//! Options of the reference that have nothing to act on here: some are accepted with a notice, the
//! others are refused with a reason, and none is taken for something else (`spec/ingest.md` 12).

use clap::Args;

/// The options, hidden from the help.
#[derive(Debug, Clone, Default, Args)]
pub struct Foreign {
    #[arg(short = 'R', long = "pulse-resolution", value_name = "NS", hide = true)]
    pulse_resolution: Option<u64>,
    #[arg(short = 'S', long = "pulse-core", value_name = "CPU", hide = true)]
    pulse_core: Option<u32>,
    #[arg(short = 'u', long = "hugepages", value_name = "FOLDER", hide = true)]
    hugepages: Option<String>,
    #[arg(short = 'Q', long = "qemu-monitors", value_name = "SOCKET,…", hide = true)]
    qemu_monitors: Option<String>,
    #[arg(short = 'w', long = "hardware-aggregation", hide = true)]
    hardware_aggregation: bool,
    #[arg(short = 'J', long = "debug", hide = true)]
    debug: bool,
    #[arg(short = 'X', long = "capture-transmitted", hide = true)]
    capture_transmitted: bool,
    #[arg(short = 'r', long = "egress", value_name = "QUEUE:DEVICE", hide = true)]
    egress: Vec<String>,
    #[arg(short = 'G', long = "gtp-queue", value_name = "QUEUE:VERSION", hide = true)]
    gtp_queue: Vec<String>,
    #[arg(short = 'T', long = "flow-table", hide = true)]
    flow_table: bool,
    #[arg(short = 'C', long = "flow-rules", value_name = "FILE", hide = true)]
    flow_rules: Option<String>,
    #[arg(short = 'O', long = "flow-protocols", value_name = "FILE", hide = true)]
    flow_protocols: Option<String>,
    #[arg(short = 'Z', long = "zmq-filter", hide = true)]
    zmq_filter: bool,
    #[arg(short = 'E', long = "zmq-endpoint", value_name = "ENDPOINT", hide = true)]
    zmq_endpoint: Option<String>,
    #[arg(short = 'A', long = "zmq-policy", value_name = "POLICY", hide = true)]
    zmq_policy: Option<String>,
}

const FLOW_TABLE: &str = "there is no flow table here; detectors follow flows themselves";
const ZMQ_FILTER: &str = "there is no filter over ZeroMQ here; filter by expression with -f, or by \
                          VLAN with -x";

impl Foreign {
    /// What is accepted and does nothing, one text for each option.
    pub fn notices(&self) -> Vec<String> {
        let own_stamps = "frames carry the kernel's time stamps";
        [
            (self.pulse_resolution.is_some(), "-R", own_stamps),
            (self.pulse_core.is_some(), "-S", own_stamps),
            (self.hugepages.is_some(), "-u", "queues need no huge pages"),
            (self.qemu_monitors.is_some(), "-Q", "queues are not shared with virtual machines"),
            (
                self.hardware_aggregation,
                "-w",
                "sources are not aggregated in hardware; each has a thread of its own",
            ),
            (self.debug, "-J", "there is no library to debug"),
        ]
        .into_iter()
        .filter(|(given, ..)| *given)
        .map(|(_, option, reason)| format!("{option} is ignored: {reason}"))
        .collect()
    }

    /// Why the balancer must not start: the option, and the reason with a remedy.
    pub fn refusal(&self) -> Option<(&'static str, &'static str)> {
        [
            (
                self.capture_transmitted,
                "-X",
                "frames that this host sends are never captured; mirror them to the tap",
            ),
            (
                !self.egress.is_empty(),
                "-r",
                "queues cannot be sent out of a device; attach a consumer to the queue",
            ),
            (
                !self.gtp_queue.is_empty(),
                "-G",
                "the signalling of GTP has no queue of its own; -m gtp spreads it by its addresses",
            ),
            (self.flow_table, "-T", FLOW_TABLE),
            (self.flow_rules.is_some(), "-C", FLOW_TABLE),
            (self.flow_protocols.is_some(), "-O", FLOW_TABLE),
            (self.zmq_filter, "-Z", ZMQ_FILTER),
            (self.zmq_endpoint.is_some(), "-E", ZMQ_FILTER),
            (self.zmq_policy.is_some(), "-A", ZMQ_FILTER),
        ]
        .into_iter()
        .find(|(given, ..)| *given)
        .map(|(_, option, reason)| (option, reason))
    }
}
