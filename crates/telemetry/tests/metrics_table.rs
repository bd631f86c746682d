//! The table of metrics, the status messages and `docs/metrics.md` say the same.

use std::collections::BTreeSet;
use std::fmt::Write;

use prost_reflect::{DescriptorPool, Kind as FieldKind, MessageDescriptor};
use telemetry::metrics::table::{COMMON, GROUPS, Group, Kind, STATUS_ONLY, Shape};

fn message(name: &str) -> MessageDescriptor {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../signalling/proto");
    let files = protox::compile(["station.proto"], [folder]).unwrap();
    let pool = DescriptorPool::from_file_descriptor_set(files).unwrap();
    pool.get_message_by_name(&format!("conjure.station.v1.{name}")).unwrap()
}

const MESSAGES: [(&str, &str); 5] = [
    ("process", "ProcessStatus"),
    ("zbalance", "ZbalanceStatus"),
    ("detector", "DetectorStatus"),
    ("application", "ApplicationStatus"),
    ("registrar", "RegistrarStatus"),
];

/// Groups of a daemon at one repeated field.
fn groups(daemon: &'static str, path: &str) -> Vec<&'static Group> {
    GROUPS.iter().filter(|group| group.daemon == daemon && group.path == path).collect()
}

fn is_number(kind: &FieldKind) -> bool {
    !matches!(
        kind,
        FieldKind::Message(_) | FieldKind::String | FieldKind::Bytes | FieldKind::Enum(_)
    )
}

#[test]
fn every_number_of_a_status_message_is_a_metric() {
    let status_only = |name: &str| STATUS_ONLY.iter().any(|(field, _)| *field == name);
    for (daemon, name) in MESSAGES {
        for field in message(name).fields() {
            let groups = groups(daemon, if field.is_list() { field.name() } else { "" });
            let named =
                |name: &str| groups.iter().any(|g| g.families.iter().any(|f| f.field == name));
            let label = |name: &str| {
                groups.iter().any(|g| match g.shape {
                    Shape::Rows(labels) | Shape::Clients(labels) => {
                        labels.iter().any(|l| l.0 == name)
                    }
                    _ => false,
                })
            };
            match field.kind() {
                FieldKind::Message(row) if field.is_list() && row.name() == "Count" => {
                    assert!(
                        !groups.is_empty() || status_only(field.name()),
                        "{daemon} {}",
                        field.name()
                    );
                }
                FieldKind::Message(row) => {
                    for column in row.fields().filter(|column| is_number(&column.kind())) {
                        let name = column.name();
                        assert!(
                            named(name) || label(name) || status_only(name),
                            "{daemon}.{}.{name} is not in the table",
                            field.name()
                        );
                    }
                }
                kind if is_number(&kind) => {
                    assert!(named(field.name()), "{daemon}.{} is not in the table", field.name());
                }
                _ => {}
            }
        }
    }
}

#[test]
fn every_metric_is_a_field() {
    for group in GROUPS {
        let name = MESSAGES.iter().find(|(daemon, _)| *daemon == group.daemon).unwrap().1;
        let mut descriptor = message(name);
        if !group.path.is_empty() {
            let field = descriptor.get_field_by_name(group.path).unwrap();
            let FieldKind::Message(row) = field.kind() else { panic!("{} is no list", group.path) };
            descriptor = row;
        }
        if matches!(group.shape, Shape::Tally(_) | Shape::Named) {
            assert_eq!(descriptor.name(), "Count");
            continue;
        }
        for family in group.families {
            let field = descriptor.get_field_by_name(family.field);
            assert!(
                field.is_some(),
                "{}.{} has no field {}",
                group.daemon,
                group.path,
                family.field
            );
        }
    }
}

#[test]
fn names_are_good_and_different() {
    let mut seen = BTreeSet::new();
    for group in GROUPS {
        for family in group.families {
            let name = group.name(family);
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
            assert!(!name.ends_with("_total") && !name.ends_with("_ms"), "{name}");
            assert!(!family.help.is_empty() && !family.help.ends_with('.'), "{name}");
            assert!(seen.insert(name.clone()), "{name} is there twice");
        }
    }
}

fn page() -> String {
    let mut out = String::from(include_str!("metrics_head.md"));
    let mut row = |name: &str, kind: &str, unit: &str, labels: &[&str], help: &str| {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(out, "| `{name}` | {kind} | {unit} | {} | {help} |", labels.join(", ")).unwrap();
    };
    for (name, kind, unit, help) in COMMON {
        let (name, labels): (String, &[&str]) = match *kind {
            "info" => (format!("{name}_info"), &["daemon", "version"]),
            "stateset" => ((*name).to_owned(), &["conjure_state"]),
            _ => ((*name).to_owned(), &[]),
        };
        row(&name, kind, unit, labels, help);
    }
    for group in GROUPS {
        for family in group.families {
            let (ending, kind) = match family.kind {
                Kind::Counter => ("_total", "counter"),
                Kind::Gauge => ("", "gauge"),
            };
            let mut kind = kind.to_owned();
            if matches!(group.shape, Shape::Clients(_)) {
                kind.push_str(", floor");
            }
            let name = group.name(family) + ending;
            row(&name, &kind, family.unit, &group.labels(), family.help);
        }
    }
    out.push_str("\nNumbers of `station status --json` that are no metrics:\n\n");
    for (field, why) in STATUS_ONLY {
        writeln!(out, "* `{field}`: {why}").unwrap();
    }
    out
}

/// Writes the page anew with `REGENERATE=1 cargo test --release -p conjure-telemetry`.
#[test]
fn the_page_in_the_docs_is_this_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap();
    assert!(
        found == page(),
        "docs/metrics.md is not the table any more: REGENERATE=1 cargo test --release -p \
         conjure-telemetry --test metrics_table"
    );
}
