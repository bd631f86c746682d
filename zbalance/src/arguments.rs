//! Command line of the reference's balancer, as far as this one has its concepts
//! (`spec/ingest.md` 3.1, 12).

use clap::Parser;
use packet::distribution::Mode;

/// Captures packets and spreads them over the queues that detector workers read.
///
/// Statistics are written to stats/ID in the folder of the control socket (CJ_IPC_DIR, by default
/// /run/conjure) once a second.
#[derive(Debug, Clone, Parser)]
#[command(name = "zbalance", version)]
pub struct Arguments {
    /// Sources, separated by commas: INTERFACE, afp:INTERFACE or pcap:FILE; zc: before one is ignored.
    #[arg(short = 'i', long, value_name = "SOURCE,…", required = true, value_delimiter = ',')]
    pub interfaces: Vec<String>,
    /// Cluster: the label that consumers ask for.
    #[arg(short, long, value_name = "ID", default_value_t = 103)]
    pub cluster: u32,
    /// Queues of each set; every set gets a full copy of the traffic.
    #[arg(short = 'n', long, value_name = "N[,N]", required = true, value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub queues: Vec<u32>,
    /// Distribution: rr (0), ip (1), all (2), all-rr (3), iface (6) or 5tuple.
    #[arg(short, long, default_value = "ip")]
    pub mode: Mode,
    /// CPUs of the ingest threads, in their order; -1 leaves them unbound.
    #[arg(
        short = 'g',
        long,
        value_name = "CPU[:CPU…]",
        value_delimiter = ':',
        default_value = "-1",
        allow_negative_numbers = true
    )]
    pub cores: Vec<i64>,
    /// Packets that a queue holds, rounded up to a power of two.
    #[arg(short = 'q', long, value_name = "N", default_value_t = 8192,
          value_parser = clap::value_parser!(u32).range(64..=1 << 20))]
    pub slots: u32,
    /// Buffers of a consumer; accepted for the reference's sake, these queues need none.
    #[arg(short = 'b', long, value_name = "N", default_value_t = 16)]
    pub buffers: u32,
    /// Wait busily instead of sleeping between bursts.
    #[arg(short = 'a', long)]
    pub active: bool,
    /// Add counters per interface and queue to the statistics.
    #[arg(short = 'p', long)]
    pub per_queue: bool,
    /// Print no statistics.
    #[arg(short = 'z', long)]
    pub silent: bool,
    /// Print statistics once a second.
    #[arg(short = 'v', long)]
    pub verbose: bool,
    /// Write the process id to this file and remove it at the end.
    #[arg(short = 'P', long, value_name = "FILE")]
    pub pid_file: Option<std::path::PathBuf>,
    /// Seconds to wait before the first packet is read, at most 10.
    #[arg(short = 'W', long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u64,
    /// Open the sources, say what is wrong, and exit: 0 when the balancer could start.
    #[arg(long)]
    pub check_config: bool,
}

impl Arguments {
    /// Parses the arguments of this process; prints help or usage and exits when asked to.
    pub fn of_process() -> Self {
        match Self::try_parse() {
            Ok(arguments) => arguments,
            Err(error) => {
                // Nothing better can be done when the terminal is gone.
                let _ = error.print();
                let usage = telemetry::process::Exit::Usage as i32;
                std::process::exit(if error.use_stderr() { usage } else { 0 });
            }
        }
    }

    /// CPU of the ingest thread `index` among `online` ones; `None` leaves it unbound.
    pub fn core(&self, index: usize, online: usize) -> Option<usize> {
        let core = self.cores.get(index % self.cores.len().max(1)).copied()?;
        usize::try_from(core).ok().map(|core| core % online.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_start_scripts_line() {
        let a = parse("zbalance -i afp:tap0,eth1 -c 98 -n 4,4 -m 1 -g 3 -z").unwrap();
        assert_eq!(a.interfaces, ["afp:tap0", "eth1"]);
        assert_eq!((a.cluster, a.queues.as_slice(), a.mode), (98, [4, 4].as_slice(), Mode::Ip));
        assert_eq!(a.core(0, 2), Some(1));
        assert_eq!(parse("z -i x -n 1").unwrap().core(0, 2), None);
    }

    #[test]
    fn an_empty_variable_is_noticed() {
        for line in
            ["z -i -c 98 -n 4 -m 1", "z -i x -c -n 4", "z -i x -c 98 -n 0", "z -i x -n 1 -m 7"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
