//! Dashboard and alert rules in `monitoring/` use metrics that exist, and promtool accepts them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../monitoring")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

/// Names of metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("conjure_") || word.starts_with("process_"))
        .collect()
}

#[test]
fn every_metric_that_is_used_exists() {
    let page = read("../docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let known: BTreeSet<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    assert!(known.len() > 100, "{}", known.len());
    let dashboard: serde_json::Value = serde_json::from_str(&read("grafana.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 20);
    for file in ["grafana.json", "conjure.rules.yml", "conjure.test.yml"] {
        let text = read(file);
        let used = names(&text);
        assert!(used.len() > 10, "{file}: {used:?}");
        let unknown: Vec<&&str> = used.iter().filter(|name| !known.contains(**name)).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
}

#[test]
fn every_alert_is_tested() {
    let (rules, tests) = (read("conjure.rules.yml"), read("conjure.test.yml"));
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname: {alert}}}")), "{alert} has no test");
    }
}

#[test]
fn promtool_accepts_the_rules_and_their_tests() {
    for line in [
        "check rules conjure.rules.yml",
        "test rules conjure.test.yml",
        "check config prometheus.yml",
    ] {
        let output = Command::new("promtool").args(line.split(' ')).current_dir(folder()).output();
        let output = match output {
            Ok(output) => output,
            Err(error) => return println!("skipped: needs promtool: {error}"),
        };
        let (out, err) = (output.stdout, output.stderr);
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&out),
            String::from_utf8_lossy(&err)
        );
    }
}
