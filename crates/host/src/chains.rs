//! The chains of the reference's host set-up, for sites whose tooling looks for them.

use std::fmt::Write;
use std::net::IpAddr;

use crate::firewall::{APPLICATION_PORT, Route};
use crate::tool::{self, CommandError};
use crate::{Root, Step};

/// Table, hook and chain of each.
pub const REFERENCE_CHAINS: [(&str, &str, &str); 2] =
    [("nat", "PREROUTING", "CJ_PREROUTING"), ("filter", "INPUT", "CJ_INPUT")];

/// One set of iptables programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tools {
    /// What to call.
    pub program: &'static str,
    /// It serves IPv6.
    pub v6: bool,
    /// It keeps its rules in nftables.
    pub nftables: bool,
}

/// A chain of the reference that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Whose it is.
    pub tools: Tools,
    /// Its table.
    pub table: &'static str,
    /// The chain that jumps to it.
    pub hook: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its rules, as iptables prints them.
    pub rules: Vec<String>,
    /// Jumps to it from its hook.
    pub jumps: usize,
    /// Whether one of them is the first rule of the hook.
    pub first: bool,
    /// Nothing else is in its table.
    pub alone: bool,
}

/// The iptables programs of this host; legacy ones only where their tables are in use.
pub fn tools(root: &Root) -> Vec<Tools> {
    let mut all = Vec::new();
    for (program, legacy, v6, names) in [
        ("iptables", "iptables-legacy", false, "/proc/net/ip_tables_names"),
        ("ip6tables", "ip6tables-legacy", true, "/proc/net/ip6_tables_names"),
    ] {
        let version = tool::output(program, &["-V"]).unwrap_or_default();
        let nftables = version.contains("nf_tables");
        if !version.is_empty() {
            all.push(Tools { program, v6, nftables });
        }
        let used = root.read(names).unwrap_or_default();
        if (nftables || version.is_empty())
            && used.lines().any(|name| name == "nat" || name == "filter")
            && tool::installed(legacy)
        {
            all.push(Tools { program: legacy, v6, nftables: false });
        }
    }
    all
}

/// The reference's chains that `tools` know of.
///
/// # Errors
/// When iptables refuses to list its rules.
pub fn found(tools: Tools) -> Result<Vec<Chain>, CommandError> {
    let saved = tool::output(&format!("{}-save", tools.program), &[])?;
    Ok(parse(tools, &saved))
}

fn parse(tools: Tools, saved: &str) -> Vec<Chain> {
    let mut chains = Vec::new();
    for (table, hook, name) in REFERENCE_CHAINS {
        let head = format!("*{table}");
        let body: Vec<&str> = saved
            .lines()
            .skip_while(|line| *line != head)
            .take_while(|line| *line != "COMMIT")
            .collect();
        if !body.iter().any(|line| line.starts_with(&format!(":{name} "))) {
            continue;
        }
        let jump = format!("-A {hook} -j {name}");
        let own = format!("-A {name} ");
        let of_hook = format!("-A {hook} ");
        let rules = body.iter().filter(|line| line.starts_with("-A "));
        let strangers = body.iter().filter(|line| {
            let chain = line.starts_with(':')
                && line.contains(" - [")
                && !line.starts_with(&format!(":{name} "));
            chain || line.starts_with("-A ") && **line != jump && !line.starts_with(&own)
        });
        chains.push(Chain {
            tools,
            table,
            hook,
            name,
            rules: rules.clone().filter(|l| l.starts_with(&own)).map(|l| (*l).to_owned()).collect(),
            jumps: rules.clone().filter(|line| **line == jump).count(),
            first: rules.clone().find(|line| line.starts_with(&of_hook)) == Some(&jump.as_str()),
            alone: strangers.count() == 0,
        });
    }
    chains
}

/// The rules that a chain must have, as iptables prints them. The reference inserts each rule at the
/// top, so that the last device comes first.
pub fn wanted(name: &str, v6: bool, routes: &[Route]) -> Vec<String> {
    let mut rules = Vec::new();
    for route in routes {
        let target: Option<IpAddr> =
            if v6 { route.v6.map(Into::into) } else { route.v4.map(Into::into) };
        for tun in &route.tuns {
            match (name, target) {
                ("CJ_INPUT", _) => rules.push(format!("-A {name} -i {tun} -j ACCEPT")),
                (_, Some(target)) => rules.extend(["tcp", "udp"].map(|protocol| {
                    let target = std::net::SocketAddr::new(target, APPLICATION_PORT);
                    format!("-A {name} -i {tun} -p {protocol} -j DNAT --to-destination {target}")
                })),
                _ => {}
            }
        }
    }
    rules.reverse();
    rules
}

/// The step that makes the chains of `tools` as the reference does; none when they are there.
pub(crate) fn make(tools: Tools, present: &[Chain], routes: &[Route]) -> Option<Step> {
    let mut text = String::new();
    for (table, hook, name) in REFERENCE_CHAINS {
        let rules = wanted(name, tools.v6, routes);
        let there = present.iter().find(|chain| chain.name == name);
        if there.is_some_and(|c| c.rules == rules && c.jumps == 1 && c.first) {
            continue;
        }
        // Writing into a text cannot fail.
        let _ = writeln!(text, "*{table}\n:{name} - [0:0]");
        for _ in 0..there.map_or(0, |chain| chain.jumps) {
            let _ = writeln!(text, "-D {hook} -j {name}");
        }
        for rule in rules {
            let _ = writeln!(text, "{rule}");
        }
        let _ = writeln!(text, "-I {hook} 1 -j {name}\nCOMMIT");
    }
    let command = format!("{}-restore --noflush", tools.program);
    let reason = format!("{}: the chains of the reference", tools.program);
    (!text.is_empty()).then(|| Step::feed(reason, &command, text))
}

/// The steps that remove `chains`, which are of one set of tools. Where `new_tables` were made for
/// them and hold nothing else, they go as well.
pub(crate) fn remove(chains: &[Chain], new_tables: &[String]) -> Vec<Step> {
    let Some(tools) = chains.first().map(|chain| chain.tools) else { return Vec::new() };
    let mut text = String::new();
    for Chain { table, hook, name, jumps, .. } in chains {
        let _ = writeln!(text, "*{table}");
        for _ in 0..*jumps {
            let _ = writeln!(text, "-D {hook} -j {name}");
        }
        let _ = writeln!(text, "-F {name}\n-X {name}\nCOMMIT");
    }
    let command = format!("{}-restore --noflush", tools.program);
    let reason = format!("{}: the chains of the reference are not used", tools.program);
    let mut steps = vec![Step::feed(reason, &command, text)];
    for chain in chains.iter().filter(|chain| chain.alone && tools.nftables) {
        let table = format!("{} {}", if tools.v6 { "ip6" } else { "ip" }, chain.table);
        if new_tables.contains(&table) {
            steps.push(Step::run(
                "nothing else is in this table",
                &format!("nft delete table {table}"),
            ));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
# Generated by iptables-save
*nat
:PREROUTING ACCEPT [0:0]
:CJ_PREROUTING - [0:0]
-A PREROUTING -j OTHER
-A PREROUTING -j CJ_PREROUTING
-A PREROUTING -j CJ_PREROUTING
-A CJ_PREROUTING -i tun0 -p udp -j DNAT --to-destination 192.0.2.1:41245
COMMIT
*filter
:INPUT ACCEPT [0:0]
:CJ_INPUT - [0:0]
-A INPUT -j CJ_INPUT
COMMIT
";
    const TOOLS: Tools = Tools { program: "iptables", v6: false, nftables: true };

    #[test]
    fn chains_are_read_and_rebuilt() {
        let chains = parse(TOOLS, SAVED);
        assert_eq!(chains.len(), 2);
        assert_eq!((chains[0].jumps, chains[0].first, chains[0].alone), (2, false, false));
        assert_eq!((chains[1].jumps, chains[1].first, chains[1].alone), (1, true, true));
        assert_eq!(chains[0].rules.len(), 1);
        let routes = [Route {
            tuns: vec!["tun0".to_owned(), "tun1".to_owned()],
            v4: Some([192, 0, 2, 1].into()),
            ..Route::default()
        }];
        let step = make(TOOLS, &chains, &routes).unwrap().to_string();
        assert_eq!(step.matches("-D PREROUTING -j CJ_PREROUTING\n").count(), 2, "{step}");
        assert!(step.contains("-A CJ_INPUT -i tun1 -j ACCEPT\n-A CJ_INPUT -i tun0 -j ACCEPT\n"));
        let tables = ["ip nat".to_owned(), "ip filter".to_owned()];
        let removal = remove(&chains, &tables);
        assert_eq!(removal.len(), 2, "only the table that holds nothing else goes: {removal:?}");
        assert!(remove(&[], &tables).is_empty());
    }
}
