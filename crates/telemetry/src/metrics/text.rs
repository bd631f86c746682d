//! Metrics as text: OpenMetrics 1.0, and the older text format of Prometheus.

use std::fmt::Write;

use signalling::station::{Identity, StatusReply};

use super::sample::{Floor, Metric, metrics};
use super::table::{COMMON, Kind, STATES};

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Text format 0.0.4 of Prometheus.
    Prometheus,
}

impl Format {
    /// What a client that sends this `Accept` header gets: OpenMetrics, unless it only takes the other.
    pub fn of_accept(accept: &str) -> Self {
        if accept.contains("text/plain") && !accept.contains("application/openmetrics-text") {
            Self::Prometheus
        } else {
            Self::OpenMetrics
        }
    }

    /// Value of the `Content-Type` header.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The text of a reply.
pub fn text(reply: &StatusReply, floor: &Floor, format: Format) -> String {
    let mut out = String::with_capacity(16 << 10);
    common(&mut out, reply, format);
    for metric in metrics(reply, floor) {
        family(&mut out, &metric, format);
    }
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn family(out: &mut String, metric: &Metric, format: Format) {
    let Metric { name, kind, help, samples } = metric;
    let ending = if *kind == Kind::Counter { "_total" } else { "" };
    let kind = if *kind == Kind::Counter { "counter" } else { "gauge" };
    head(out, (name, ending), kind, help, format);
    for (labels, value) in samples {
        let _ = write!(out, "{name}{ending}");
        sample(out, labels, *value);
    }
}

/// Writing into a String cannot fail, here and below.
fn head(out: &mut String, (name, ending): (&str, &str), kind: &str, help: &str, format: Format) {
    let declared = match format {
        Format::OpenMetrics => name.to_owned(),
        Format::Prometheus => format!("{name}{ending}"),
    };
    let _ = writeln!(out, "# TYPE {declared} {kind}");
    let unit = ["bytes", "seconds"].into_iter().find(|unit| name.ends_with(&format!("_{unit}")));
    if let (Format::OpenMetrics, Some(unit)) = (format, unit) {
        let _ = writeln!(out, "# UNIT {declared} {unit}");
    }
    let _ = writeln!(out, "# HELP {declared} {help}");
}

fn sample(out: &mut String, labels: &[(&str, String)], value: f64) {
    for (index, (name, value)) in labels.iter().enumerate() {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{}{name}=\"{value}\"", if index == 0 { '{' } else { ',' });
    }
    let _ = writeln!(out, "{} {value}", if labels.is_empty() { "" } else { "}" });
}

/// What is made of identity and state.
fn common(out: &mut String, reply: &StatusReply, format: Format) {
    let Identity { daemon, version, started_unix_ms, .. } =
        reply.identity.clone().unwrap_or_default();
    for (name, kind, _, help) in COMMON {
        let (ending, kind) = match (*kind, format) {
            ("info", Format::OpenMetrics) => ("_info", "info"),
            ("info", Format::Prometheus) => ("_info", "gauge"),
            ("stateset", Format::Prometheus) => ("", "gauge"),
            (kind, _) => ("", kind),
        };
        head(out, (name, ending), kind, help, format);
        match *name {
            "conjure_build" => {
                let labels = [("daemon", daemon.clone()), ("version", version.clone())];
                let _ = write!(out, "{name}_info");
                sample(out, &labels, 1.0);
            }
            // In a set of states the label has the name of the metric.
            "conjure_state" => {
                for state in STATES {
                    let _ = write!(out, "{name}");
                    let labels = [("conjure_state", state.to_owned())];
                    sample(out, &labels, f64::from(u8::from(reply.state == state)));
                }
            }
            _ => {
                let _ = write!(out, "{name}");
                sample(out, &[], started_unix_ms as f64 / 1000.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use signalling::station::{
        Count, DetectorStatus, ProcessStatus, RegistrarStatus, WorkerStatus, status_reply::Detail,
    };

    fn reply(detail: Detail) -> StatusReply {
        let identity = Identity {
            daemon: "detector".into(),
            version: "1.2.3".into(),
            started_unix_ms: 1500,
            ..Default::default()
        };
        StatusReply {
            identity: Some(identity),
            state: "ready".into(),
            process: Some(ProcessStatus { cpu_seconds: 1.25, ..Default::default() }),
            detail: Some(detail),
            ..Default::default()
        }
    }

    #[test]
    fn open_metrics_text() {
        let worker =
            WorkerStatus { worker: 3, bytes: 1 << 50, attached: true, ..Default::default() };
        let status = DetectorStatus { workers: vec![worker], ..Default::default() };
        let reply = reply(Detail::Detector(status));
        let text = text(&reply, &Floor::new(10), Format::OpenMetrics);
        for expected in [
            "conjure_build_info{daemon=\"detector\",version=\"1.2.3\"} 1\n",
            "# TYPE conjure_state stateset\n",
            "conjure_state{conjure_state=\"ready\"} 1\n",
            "conjure_start_time_seconds 1.5\n",
            "# TYPE process_cpu_seconds counter\n# UNIT process_cpu_seconds seconds\n",
            "process_cpu_seconds_total 1.25\n",
            "# TYPE conjure_detector_worker_bytes counter\n# UNIT conjure_detector_worker_bytes bytes\n",
            "conjure_detector_worker_bytes_total{worker=\"3\"} 1125899906842624\n",
            "conjure_detector_worker_attached{worker=\"3\"} 1\n",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn the_older_format_declares_the_names_that_it_prints() {
        let requests = vec![Count { name: "api_requests_total".into(), value: 7 }];
        let reply = reply(Detail::Registrar(RegistrarStatus { requests, ..Default::default() }));
        let text = text(&reply, &Floor::new(10), Format::Prometheus);
        assert!(text.contains("# TYPE conjure_registrar_api_requests_total counter\n"), "{text}");
        assert!(text.contains("\nconjure_registrar_api_requests_total 7\n"), "{text}");
        assert!(text.contains("\nconjure_registrar_reg_processed_dns_total 0\n"), "{text}");
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
    }

    #[test]
    fn the_format_follows_the_client() {
        assert_eq!(Format::of_accept("*/*"), Format::OpenMetrics);
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2";
        assert_eq!(Format::of_accept(prometheus), Format::OpenMetrics);
        assert_eq!(Format::of_accept("text/plain"), Format::Prometheus);
    }

    #[test]
    fn labels_are_escaped() {
        let mut out = String::new();
        sample(&mut out, &[("a", "x\"y\\z\n".into())], 2.0);
        assert_eq!(out, "{a=\"x\\\"y\\\\z\\n\"} 2\n");
    }
}
