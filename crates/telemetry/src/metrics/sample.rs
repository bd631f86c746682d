//! From a status message to samples; counts of few clients are summed up on the way.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde_json::Value;
use signalling::station::{StatusReply, status_reply::Detail};

use super::table::{Family, GROUPS, Group, Kind, Shape};

/// Label of the sum of all rows that are below the floor.
pub const OTHER: &str = "other";

/// One metric with its values.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Name without the ending of a counter.
    pub name: String,
    /// How it behaves.
    pub kind: Kind,
    /// What it counts.
    pub help: &'static str,
    /// Labels and value of each series.
    pub samples: Vec<(Vec<(&'static str, String)>, f64)>,
}

/// Sums up the rows that stand for fewer clients than the floor.
///
/// A row that reaches the floor gets a series of its own. What the sum has shown of it until then
/// stays in the sum, so that the sum is a counter that never falls.
#[derive(Debug)]
pub struct Floor {
    clients: u64,
    /// What each hidden row had last, by name of the metric and labels.
    hidden: Mutex<BTreeMap<(String, Vec<String>), f64>>,
}

impl Floor {
    /// Hides rows of fewer than `clients` clients.
    pub fn new(clients: u32) -> Self {
        Self { clients: clients.into(), hidden: Mutex::default() }
    }

    fn fold(&self, group: &Group, metric: &mut Metric, rows: &[Row<'_>], family: &Family) {
        let mut hidden = self.hidden.lock();
        for row in rows {
            let value = number(row.value.get(family.field));
            if row.value.get("clients").and_then(Value::as_u64).unwrap_or(0) >= self.clients {
                metric.samples.push((row.labels.clone(), value));
            } else {
                let labels = row.labels.iter().map(|(_, value)| value.clone()).collect();
                hidden.insert((metric.name.clone(), labels), value);
            }
        }
        let of_metric = hidden.iter().filter(|((name, _), _)| *name == metric.name);
        let (mut any, mut sum) = (false, 0.0);
        for (_, value) in of_metric {
            any = true;
            sum += value;
        }
        if any {
            let labels = group.labels().into_iter().map(|label| (label, OTHER.to_owned()));
            metric.samples.push((labels.collect(), sum));
        }
    }
}

struct Row<'a> {
    labels: Vec<(&'static str, String)>,
    value: &'a Value,
}

/// The metrics of a reply, in the order of the table.
pub fn metrics(reply: &StatusReply, floor: &Floor) -> Vec<Metric> {
    let process = reply.process.as_ref().map(|process| ("process", serde_json::json!(process)));
    let detail = reply.detail.as_ref().map(|detail| match detail {
        Detail::Zbalance(status) => ("zbalance", serde_json::json!(status)),
        Detail::Detector(status) => ("detector", serde_json::json!(status)),
        Detail::Application(status) => ("application", serde_json::json!(status)),
        Detail::Registrar(status) => ("registrar", serde_json::json!(status)),
    });
    let mut metrics = Vec::new();
    for (name, value) in process.iter().chain(&detail) {
        for group in GROUPS.iter().filter(|group| group.daemon == *name) {
            metrics.extend(of_group(group, value, floor));
        }
    }
    metrics
}

fn of_group(group: &Group, status: &Value, floor: &Floor) -> Vec<Metric> {
    let rows = rows(group, status);
    let of_family = |family: &Family| {
        let mut metric = Metric {
            name: group.name(family),
            kind: family.kind,
            help: family.help,
            samples: Vec::new(),
        };
        match group.shape {
            Shape::Scalars => metric.samples.push((Vec::new(), number(status.get(family.field)))),
            Shape::Clients(_) => floor.fold(group, &mut metric, &rows, family),
            Shape::Rows(_) => {
                let sample =
                    |row: &Row<'_>| (row.labels.clone(), number(row.value.get(family.field)));
                metric.samples.extend(rows.iter().map(sample));
            }
            Shape::Tally(_) => {
                let sample = |row: &Row<'_>| (row.labels.clone(), number(row.value.get("value")));
                metric.samples.extend(rows.iter().map(sample));
            }
            Shape::Named => {
                // A counter that the status leaves out has not counted anything yet.
                let named = |row: &&Row<'_>| row.value.get("name") == Some(&family.field.into());
                let value =
                    rows.iter().find(named).map_or(0.0, |row| number(row.value.get("value")));
                metric.samples.push((Vec::new(), value));
            }
        }
        metric
    };
    group.families.iter().map(of_family).collect()
}

fn rows<'a>(group: &Group, status: &'a Value) -> Vec<Row<'a>> {
    let list = status.get(group.path).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let labels = |value: &Value| match group.shape {
        Shape::Rows(labels) | Shape::Clients(labels) => {
            labels.iter().map(|(field, label)| (*label, text(value.get(*field)))).collect()
        }
        Shape::Tally(label) => vec![(label, text(value.get("name")))],
        Shape::Scalars | Shape::Named => Vec::new(),
    };
    list.iter().map(|value| Row { labels: labels(value), value }).collect()
}

fn number(value: Option<&Value>) -> f64 {
    match value {
        Some(Value::Bool(flag)) => f64::from(u8::from(*flag)),
        Some(value) => value.as_f64().unwrap_or(0.0),
        None => 0.0,
    }
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use signalling::station::{ApplicationStatus, OriginStatus};

    fn networks(rows: &[(&str, u64, u64)]) -> StatusReply {
        let row = |&(origin, clients, valid): &(&str, u64, u64)| OriginStatus {
            origin: origin.into(),
            clients,
            valid,
            ..Default::default()
        };
        let status =
            ApplicationStatus { networks: rows.iter().map(row).collect(), ..Default::default() };
        StatusReply { detail: Some(Detail::Application(status)), ..Default::default() }
    }

    fn series(floor: &Floor, rows: &[(&str, u64, u64)]) -> Vec<(String, f64)> {
        let metrics = metrics(&networks(rows), floor);
        let metric =
            metrics.iter().find(|m| m.name == "conjure_application_network_valid").unwrap();
        metric.samples.iter().map(|(labels, value)| (labels[0].1.clone(), *value)).collect()
    }

    #[test]
    fn rows_of_few_clients_are_one_sum_that_never_falls() {
        let floor = Floor::new(10);
        let of = |rows: &[(&str, f64)]| -> Vec<(String, f64)> {
            rows.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
        };
        assert_eq!(series(&floor, &[("1", 9, 30), ("2", 3, 3)]), of(&[("other", 33.0)]));
        let now = series(&floor, &[("1", 10, 31), ("2", 4, 5)]);
        assert_eq!(now, of(&[("1", 31.0), ("other", 35.0)]));
        // A row that vanished leaves the sum as it was.
        assert_eq!(series(&floor, &[("1", 10, 40)]), of(&[("1", 40.0), ("other", 35.0)]));
    }

    #[test]
    fn without_a_floor_everything_is_shown() {
        let now = series(&Floor::new(0), &[("1", 0, 1)]);
        assert_eq!(now, [("1".to_owned(), 1.0)]);
    }
}
