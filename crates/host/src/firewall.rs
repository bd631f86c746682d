//! The packet filter of a station as one nftables transaction (`spec/operations.md` 7.5).

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::tool::{self, CommandError};

/// Port of the application, to which phantom traffic goes.
pub const APPLICATION_PORT: u16 = 41245;
/// Name of the table.
pub const TABLE: &str = "inet conjure";

/// Where the phantom traffic of one station goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Tun devices that it enters by.
    pub tuns: Vec<String>,
    /// The application's IPv4 address, if phantoms have that family.
    pub v4: Option<Ipv4Addr>,
    /// The application's IPv6 address, if phantoms have that family.
    pub v6: Option<Ipv6Addr>,
    /// Interfaces by which the host itself receives packets of sessions (`CJ_FAST_PATH`).
    #[serde(default)]
    pub taps: Vec<String>,
}

fn set<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let mut names: Vec<String> = names.map(|name| format!("\"{name}\"")).collect();
    names.sort();
    names.dedup();
    format!("{{ {} }}", names.join(", "))
}

/// The table for the stations of this host, replacing whatever table of that name there is.
///
/// A reply leaves with the phantom's address, because its connection is known as translated. What comes
/// from the application's port and is not translated would show the station's own address: it is dropped.
/// The application's port is open to connections that began at a tun device, also when their packets come by a tap
/// (`CJ_FAST_PATH`); what comes by that tap and is not translated is not forwarded, whatever else this host forwards.
pub fn nft_ruleset(routes: &[Route]) -> String {
    let all = set(routes.iter().flat_map(|route| &route.tuns));
    let mut forward = String::new();
    if routes.iter().any(|route| !route.taps.is_empty()) {
        let taps = set(routes.iter().flat_map(|route| &route.taps));
        forward = format!(
            "    chain forward {{\n\
             \x20       type filter hook forward priority filter; policy accept;\n\
             \x20       iifname {taps} counter drop\n\
             \x20   }}\n"
        );
    }
    let mut dnat = String::new();
    for route in routes {
        let tuns = set(route.tuns.iter());
        let mut rule = |family: &str, target: String| {
            // Writing into a text cannot fail.
            let _ = writeln!(
                dnat,
                "        iifname {tuns} meta nfproto {family} meta l4proto {{ tcp, udp }} dnat {target}",
            );
        };
        if let Some(v4) = route.v4 {
            rule("ipv4", format!("ip to {v4}:{APPLICATION_PORT}"));
        }
        if let Some(v6) = route.v6 {
            rule("ipv6", format!("ip6 to [{v6}]:{APPLICATION_PORT}"));
        }
    }
    format!(
        "table {TABLE}\n\
         delete table {TABLE}\n\
         table {TABLE} {{\n\
        \x20   chain prerouting {{\n\
        \x20       type nat hook prerouting priority dstnat; policy accept;\n\
         {dnat}\
        \x20   }}\n\
        \x20   chain input {{\n\
        \x20       type filter hook input priority filter; policy accept;\n\
        \x20       iifname {all} accept\n\
        \x20       meta l4proto {{ tcp, udp }} th dport {APPLICATION_PORT} ct status dnat accept\n\
        \x20       iifname != \"lo\" meta l4proto {{ tcp, udp }} th dport {APPLICATION_PORT} counter drop\n\
        \x20   }}\n\
         {forward}\
        \x20   chain postrouting {{\n\
        \x20       type filter hook postrouting priority 300; policy accept;\n\
        \x20       oifname != \"lo\" meta l4proto {{ tcp, udp }} th sport {APPLICATION_PORT} \
         ct status dnat accept\n\
        \x20       oifname != \"lo\" meta l4proto {{ tcp, udp }} th sport {APPLICATION_PORT} counter drop\n\
        \x20   }}\n\
         }}\n"
    )
}

/// The table as nft prints it, without counts; `None` when there is none.
///
/// # Errors
/// When nft is missing or may not look.
pub fn nft_listing() -> Result<Option<String>, CommandError> {
    let mut command = tool::command("nft");
    // Protocols by number: a container has no names for them, and the same rules must print alike.
    command.args(["-s", "-p", "list", "table"]).args(TABLE.split(' ')).env("LC_ALL", "C");
    match tool::run(command, "") {
        Ok(text) => Ok(Some(text)),
        Err(CommandError::Failed { output, .. }) if output.contains("No such file") => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_table_serves_every_station_of_the_host() {
        let tuns = |range: std::ops::Range<u32>| range.map(|n| format!("tun{n}")).collect();
        let v4 = Some(Ipv4Addr::new(192, 0, 2, 1));
        let first = Route { tuns: tuns(0..2), v4, ..Route::default() };
        let v6 = Some("2001:db8::1".parse().unwrap());
        let second = Route { tuns: tuns(4..5), v6, ..Route::default() };
        let text = nft_ruleset(&[first, second]);
        assert!(
            text.starts_with(
                "table inet conjure\ndelete table inet conjure\ntable inet conjure {\n"
            )
        );
        assert_eq!(
            text.matches(" dnat ").count() - text.matches("status dnat").count(),
            2,
            "{text}"
        );
        assert!(text.contains(
            "iifname { \"tun0\", \"tun1\" } meta nfproto ipv4 meta l4proto { tcp, udp } dnat ip to \
             192.0.2.1:41245\n"
        ));
        assert!(text.contains("iifname { \"tun4\" } meta nfproto ipv6"));
        assert!(text.contains("dnat ip6 to [2001:db8::1]:41245\n"));
        assert!(text.contains("iifname { \"tun0\", \"tun1\", \"tun4\" } accept\n"));
        assert!(!text.contains("chain forward"));
        let tap = Route { taps: vec!["eth1".to_owned()], ..Route::default() };
        let rule = "hook forward priority filter; policy accept;\n        iifname { \"eth1\" } counter drop\n";
        assert!(nft_ruleset(&[tap]).contains(rule));
    }
}
