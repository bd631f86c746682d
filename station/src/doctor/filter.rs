//! The rules that are in force, as the checks of group K need them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use host::tool::{self, CommandError};
use host::{APPLICATION_PORT, Root, TABLE};
use serde_json::Value;

/// What the packet filter does for phantom traffic.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    /// Table of the station.
    pub(crate) nftables: bool,
    /// Chains of the reference, with how they are reached.
    pub(crate) iptables: Vec<host::Chain>,
    /// Targets by tun device.
    pub(crate) targets: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Port 41245 is dropped where it does not come from a tun device.
    pub(crate) closed: bool,
    /// Port 41245 is open to connections that began at a tun device, whatever interface their packets come by.
    pub(crate) passes: bool,
    /// Interfaces whose packets this host does not forward.
    pub(crate) not_forwarded: BTreeSet<String>,
    /// Untranslated replies are dropped.
    pub(crate) guarded: bool,
}

/// Reads the rules.
pub(crate) fn read(root: &Root) -> Result<Filter, CommandError> {
    let mut filter = Filter::default();
    let text = match tool::output("nft", &["-j", "list", "ruleset"]) {
        Err(CommandError::Missing { .. }) => String::new(),
        text => text?,
    };
    let ruleset: Value = serde_json::from_str(&text).unwrap_or_default();
    filter.read_nft(ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default());
    for tools in host::iptables_tools(root) {
        for chain in host::reference_chains(tools)? {
            for rule in &chain.rules {
                filter.read_iptables(rule);
            }
            filter.iptables.push(chain);
        }
        if !filter.closed {
            let saved = tool::output(&format!("{}-save", tools.program), &["-t", "filter"])?;
            filter.closed = closes(&saved);
        }
    }
    Ok(filter)
}

/// True when rules of iptables keep strangers from the port.
fn closes(saved: &str) -> bool {
    saved.lines().any(|line| {
        let input = line.starts_with("-A INPUT ");
        line.starts_with(":INPUT DROP")
            || input
                && line.contains(&format!("--dport {APPLICATION_PORT} "))
                && (line.contains("-j DROP") || line.contains("-j REJECT"))
    })
}

impl Filter {
    fn read_nft(&mut self, objects: &[Value]) {
        let ours = |object: &Value| {
            format!("{} {}", text(&object["family"]), text(&object["table"])) == TABLE
        };
        for chain in objects.iter().map(|object| &object["chain"]) {
            self.closed |= chain["hook"] == "input" && chain["policy"] == "drop";
            self.nftables |= ours(chain);
        }
        for rule in objects.iter().map(|object| &object["rule"]).filter(|rule| rule.is_object()) {
            let expressions = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
            let dropped = expressions.iter().any(|e| e.get("drop").is_some());
            let port = |field: &str| {
                matches(expressions).any(|m| {
                    m["left"]["payload"]["field"] == field && m["right"] == APPLICATION_PORT
                })
            };
            self.closed |= dropped && text(&rule["chain"]) != "postrouting" && port("dport");
            self.guarded |= dropped && port("sport");
            let accepted = expressions.iter().any(|e| e.get("accept").is_some());
            let translated = matches(expressions).any(|m| m["left"]["ct"]["key"] == "status");
            self.passes |= accepted && translated && port("dport");
            if dropped
                && rule["chain"] == "forward"
                && expressions.len() == 2 + counters(expressions)
            {
                self.not_forwarded.extend(received_by(expressions));
            }
            let Some(dnat) = expressions.iter().find_map(|e| e.get("dnat")) else { continue };
            if dnat["port"] != APPLICATION_PORT {
                continue;
            }
            let Ok(target) = text(&dnat["addr"]).parse() else { continue };
            for device in received_by(expressions) {
                self.targets.entry(device).or_default().insert(target);
            }
        }
    }

    fn read_iptables(&mut self, rule: &str) {
        let words: Vec<&str> = rule.split(' ').collect();
        let behind = |option: &str| {
            words.iter().position(|word| *word == option).and_then(|at| words.get(at + 1))
        };
        if let (Some(device), Some(target)) = (behind("-i"), behind("--to-destination"))
            && let Ok(target) = target.parse::<std::net::SocketAddr>()
        {
            self.targets.entry((*device).to_owned()).or_default().insert(target.ip());
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn matches(expressions: &[Value]) -> impl Iterator<Item = &Value> {
    expressions.iter().filter_map(|expression| expression.get("match"))
}

fn counters(expressions: &[Value]) -> usize {
    expressions.iter().filter(|e| e.get("counter").is_some()).count()
}

/// Interfaces that a rule is for.
fn received_by(expressions: &[Value]) -> impl Iterator<Item = String> {
    matches(expressions)
        .filter(|m| m["left"]["meta"]["key"] == "iifname" && m["op"] == "==")
        .flat_map(|m| names(&m["right"]))
}

fn names(right: &Value) -> Vec<String> {
    match right {
        Value::String(name) => vec![name.clone()],
        _ => {
            let set = right["set"].as_array().into_iter().flatten();
            set.filter_map(Value::as_str).map(str::to_owned).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_both_kinds_are_understood() {
        let rules = serde_json::json!([
            {"chain": {"family": "inet", "table": "conjure", "name": "input", "hook": "input", "policy": "accept"}},
            {"rule": {"family": "inet", "table": "conjure", "chain": "prerouting", "expr": [
                {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": {"set": ["tun0", "tun1"]}}},
                {"dnat": {"family": "ip", "addr": "192.0.2.1", "port": 41245}}]}},
            {"rule": {"family": "inet", "table": "conjure", "chain": "input", "expr": [
                {"match": {"op": "==", "left": {"payload": {"protocol": "th", "field": "dport"}}, "right": 41245}},
                {"drop": null}]}},
        ]);
        let mut filter = Filter::default();
        filter.read_nft(rules.as_array().unwrap());
        assert!(filter.nftables && filter.closed && !filter.guarded && !filter.passes);
        let opening = serde_json::json!([
            {"rule": {"family": "inet", "table": "conjure", "chain": "input", "expr": [
                {"match": {"op": "==", "left": {"payload": {"protocol": "th", "field": "dport"}}, "right": 41245}},
                {"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}},
                {"accept": null}]}},
        ]);
        filter.read_nft(opening.as_array().unwrap());
        assert!(filter.passes && filter.closed);
        assert_eq!(filter.targets.len(), 2);
        filter.read_iptables(
            "-A CJ_PREROUTING -i tun1 -p udp -j DNAT --to-destination [2001:db8::1]:41245",
        );
        assert_eq!(filter.targets["tun1"].len(), 2);
        assert!(closes(":INPUT DROP [0:0]\n"));
        assert!(closes("-A INPUT -p tcp -m tcp --dport 41245 -j DROP\n"));
        assert!(!closes("-A INPUT -p tcp -m tcp --dport 41245 -j ACCEPT\n:INPUT ACCEPT [0:0]\n"));
    }
}
