//! What the doctor prints.

use serde_json::{Value, json};

use super::catalogue::Check;
use super::finding::{Outcome, Severity};
use super::probe::Probe;

/// Every check that was made, with its result.
pub(crate) type Results = Vec<(&'static Check, Outcome)>;

/// The worst that was found.
pub(crate) fn worst(results: &Results) -> Option<Severity> {
    results
        .iter()
        .filter_map(|(_, outcome)| match outcome {
            Outcome::Found(findings) => findings.iter().map(|finding| finding.severity).max(),
            _ => None,
        })
        .max()
}

fn count(results: &Results, severity: Severity) -> usize {
    results
        .iter()
        .filter_map(|(_, outcome)| match outcome {
            Outcome::Found(findings) => {
                Some(findings.iter().filter(|f| f.severity == severity).count())
            }
            _ => None,
        })
        .sum()
}

/// Prints a table; checks without a fault in one line, unless each shall be shown.
pub(crate) fn print_table(results: &Results, every: bool) {
    let mut rest = Vec::new();
    for (check, outcome) in results {
        match outcome {
            Outcome::Found(findings) => {
                for finding in findings {
                    println!("{:<7} {} {}", finding.severity.name(), check.id, finding.cause);
                    println!("            seen: {}", finding.evidence);
                    println!("            do:   {}", finding.remedy);
                }
            }
            Outcome::NeedsRoot(what) => {
                println!("root    {} {}: {what}; run with sudo", check.id, check.title)
            }
            Outcome::Good(what) if every => {
                println!("good    {} {}: {what}", check.id, check.title)
            }
            Outcome::Skipped(why) if every => {
                println!("–       {} {}: {why}", check.id, check.title)
            }
            Outcome::Good(_) | Outcome::Skipped(_) => rest.push(outcome),
        }
    }
    let (errors, warnings) = (count(results, Severity::Error), count(results, Severity::Warning));
    let good = results.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Good(_))).count();
    let skipped =
        results.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Skipped(_))).count();
    let root =
        results.iter().filter(|(_, outcome)| matches!(outcome, Outcome::NeedsRoot(_))).count();
    let more = if root > 0 { format!(", {root} need root") } else { String::new() };
    println!(
        "{errors} errors, {warnings} warnings; {good} checks good, {skipped} not applicable{more}"
    );
}

/// The same for programs.
pub(crate) fn to_json(probe: &Probe, results: &Results, done: &[String]) -> Value {
    let checks: Vec<Value> = results
        .iter()
        .map(|(check, outcome)| {
            let (status, evidence, findings) = match outcome {
                Outcome::Good(what) => ("good", what.clone(), Vec::new()),
                Outcome::Skipped(why) => ("skipped", why.clone(), Vec::new()),
                Outcome::NeedsRoot(what) => ("needs-root", what.clone(), Vec::new()),
                Outcome::Found(findings) => {
                    let worst = findings.iter().map(|finding| finding.severity).max();
                    let all = findings
                        .iter()
                        .map(|finding| {
                            json!({
                                "severity": finding.severity.name(),
                                "cause": finding.cause,
                                "evidence": finding.evidence,
                                "remedy": finding.remedy,
                                "fixable": finding.fix.is_some(),
                            })
                        })
                        .collect();
                    (worst.map_or("good", Severity::name), String::new(), all)
                }
            };
            json!({
                "id": check.id,
                "title": check.title,
                "for": check.parts.iter().map(|part| part.name()).collect::<Vec<_>>(),
                "needs": check.needs,
                "status": status,
                "evidence": evidence,
                "findings": findings,
            })
        })
        .collect();
    let variables: Vec<Value> = probe.station.as_ref().map_or_else(
        |_| Vec::new(),
        |loaded| {
            let all = loaded.value.variables.iter();
            all.map(|(name, variable)| {
                json!({"name": name, "value": variable.value, "origin": variable.origin.to_string()})
            })
            .collect()
        },
    );
    json!({
        "errors": count(results, Severity::Error),
        "warnings": count(results, Severity::Warning),
        "fixed": done,
        "checks": checks,
        "variables": variables,
    })
}
