//! Command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ipnet::IpNet;
use serde::{Serialize, Serializer};
use telemetry::process::Exit;

/// Captures packets from and to subnets and replaces the addresses of clients.
#[derive(Debug, Clone, Parser, Serialize)]
#[command(name = "captool", version)]
pub struct Arguments {
    /// Subnets whose packets are captured; the other end of a packet is the client.
    #[arg(
        short = 't',
        long = "targets",
        value_name = "SUBNETS",
        value_delimiter = ',',
        required = true
    )]
    #[serde(serialize_with = "texts")]
    pub targets: Vec<IpNet>,
    /// Subnets that are left out.
    #[arg(long, value_name = "SUBNETS", value_delimiter = ',')]
    #[serde(serialize_with = "texts")]
    pub except: Vec<IpNet>,
    /// Most packets in all; 0 for no limit, here and below.
    #[arg(long, value_name = "PACKETS", default_value_t = 0)]
    pub lp: u64,
    /// Most flows in all.
    #[arg(long, value_name = "FLOWS", default_value_t = 0)]
    pub lf: u64,
    /// Most packets of one flow.
    #[arg(long, value_name = "PACKETS", default_value_t = 0)]
    pub ppf: u64,
    /// Most packets of one AS.
    #[arg(long, value_name = "PACKETS", default_value_t = 0)]
    pub lpa: u64,
    /// Most flows of one AS.
    #[arg(long, value_name = "FLOWS", default_value_t = 0)]
    pub lfa: u64,
    /// Most packets of one country.
    #[arg(long, value_name = "PACKETS", default_value_t = 0)]
    pub lpc: u64,
    /// Most flows of one country.
    #[arg(long, value_name = "FLOWS", default_value_t = 0)]
    pub lfc: u64,
    /// Stop after this time, e.g. 90s, 10m, 1h30m.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Clients of these AS numbers only.
    #[arg(short = 'a', long = "asns", value_name = "ASNS", value_delimiter = ',')]
    pub asns: Vec<u32>,
    /// Clients of these countries only, as two letters.
    #[arg(short = 'c', long = "ccs", value_name = "CODES", value_delimiter = ',', value_parser = country)]
    pub ccs: Vec<String>,
    /// Interfaces to capture from; eno1 when nothing else is named.
    #[arg(short = 'i', long = "interfaces", value_name = "INTERFACES", value_delimiter = ',')]
    pub interfaces: Vec<String>,
    /// Capture file, or folder of capture files, to read instead.
    #[arg(short = 'p', long = "pcaps", value_name = "PATH", conflicts_with_all = ["interfaces", "cluster"])]
    pub pcaps: Option<PathBuf>,
    /// Cluster of a running zbalance to attach to instead. Without --set every packet is seen through a mirror, and
    /// none is taken from a detector.
    #[arg(long, value_name = "NUMBER", conflicts_with = "interfaces")]
    pub cluster: Option<u32>,
    /// Queue set of that cluster to take the packets of; never the one of a detector.
    #[arg(long, value_name = "NUMBER", requires = "cluster")]
    pub set: Option<u32>,
    /// IPv4 only.
    #[arg(long, conflicts_with = "v6")]
    pub v4: bool,
    /// IPv6 only.
    #[arg(long)]
    pub v6: bool,
    /// File to write; the options are written beside it.
    #[arg(short = 'o', long = "out", value_name = "FILE", default_value = "./out.pcapng.gz")]
    pub out: PathBuf,
    /// Database of AS numbers.
    #[arg(long, value_name = "FILE", default_value = "/usr/share/GeoIP/GeoLite2-ASN.mmdb")]
    pub asn_db: PathBuf,
    /// Database of countries.
    #[arg(long, value_name = "FILE", default_value = "/usr/share/GeoIP/GeoLite2-Country.mmdb")]
    pub cc_db: PathBuf,
}

impl Arguments {
    /// Parses the arguments of this process; prints help or usage and exits when asked to.
    pub fn of_process() -> Self {
        Self::try_parse().unwrap_or_else(|error| {
            // Nothing better can be done when the terminal is gone.
            let _ = error.print();
            std::process::exit(if error.use_stderr() { Exit::Usage as i32 } else { 0 });
        })
    }

    /// File of the options: the name of the output up to its first dot, and `.cfg`.
    pub fn options_file(&self) -> PathBuf {
        let name = self.out.file_name().unwrap_or_default().to_string_lossy();
        let prefix = name.split('.').next().filter(|prefix| !prefix.is_empty()).unwrap_or(&name);
        self.out.with_file_name(format!("{prefix}.cfg"))
    }
}

fn texts<S: Serializer>(nets: &[IpNet], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(nets.iter().map(ToString::to_string))
}

#[allow(clippy::ref_option)] // the signature that serde asks for
fn seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}s", time.unwrap_or_default().as_secs_f64()))
}

fn country(text: &str) -> Result<String, String> {
    if text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Ok(text.to_ascii_uppercase());
    }
    Err("expected two letters, e.g. DE".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("found `{text}`, expected a time such as 90s, 10m or 1h30m");
    let (mut seconds, mut number) = (0.0, String::new());
    for c in text.chars().filter(|c| !c.is_whitespace()) {
        let unit = match c {
            '0'..='9' | '.' => {
                number.push(c);
                continue;
            }
            's' => 1.0,
            'm' => 60.0,
            'h' => 3600.0,
            'd' => 86_400.0,
            _ => return Err(expected()),
        };
        let value: f64 = std::mem::take(&mut number).parse().map_err(|_| expected())?;
        seconds += value * unit;
    }
    if !number.is_empty() || seconds <= 0.0 {
        return Err(expected());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| expected())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_options_of_the_reference() {
        let line = "captool -t 192.0.2.0/24,2001:db8::/32 --except 192.0.2.1/32 --lp 1 --lf 2 --ppf 3 --lpa 4 \
                    --lfa 5 --lpc 6 --lfc 7 --timeout 1h30m -a 64500,64501 -c de,ZZ -i eth0,eth1 --v4 -o a/b.c.gz \
                    --asn-db x --cc-db y";
        let arguments = parse(line).unwrap();
        assert_eq!(arguments.targets.len(), 2);
        assert_eq!(arguments.timeout, Some(Duration::from_secs(5400)));
        assert_eq!(arguments.ccs, ["DE", "ZZ"]);
        assert_eq!(arguments.options_file(), PathBuf::from("a/b.cfg"));
        let arguments = parse("captool -t 192.0.2.0/24").unwrap();
        assert_eq!(arguments.out, PathBuf::from("./out.pcapng.gz"));
        assert_eq!(arguments.options_file(), PathBuf::from("./out.cfg"));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for line in [
            "captool",
            "captool -t 192.0.2.0/24 -i a -p b",
            "captool -t 192.0.2.0/24 --v4 --v6",
            "captool -t 192.0.2.0/24 --set 1",
            "captool -t 192.0.2.0/24 --timeout 5x",
            "captool -t 192.0.2.0/24 --timeout 5",
            "captool -t 192.0.2.0/24 -c deu",
            "captool -t 192.0.2",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
