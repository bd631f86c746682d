//! Command line of the reference's balancer, as far as this one has its concepts
//! (`spec/ingest.md` 3.1, 12).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ContextKind;
use clap::{ArgAction, CommandFactory, Parser};
use packet::distribution::{Mode, VlanMap};
use telemetry::process::Exit;

use crate::file::{DEFAULT_FILE, OptionFile};
use crate::filters::FilterFile;
use crate::foreign::Foreign;
use crate::playback::Playback;

/// Captures packets and spreads them over the queues that detector workers read.
///
/// Statistics are written to stats/ID in the folder of the control socket (CJ_IPC_DIR, by default
/// /run/conjure) once a second.
///
/// Options may stand in a file, one on a line (-o=VALUE or -o VALUE, # for comments): zbalance FILE,
/// or without any argument /etc/cluster/cluster.conf. SIGHUP and SIGUSR1 read that file again: -x, -p,
/// -v and -z take effect, what needs a restart is named.
///
/// Once the sources are open the balancer gives up all capabilities and enters its sandbox
/// (CJ_SANDBOX=on, log or off).
#[derive(Debug, Clone, Parser)]
#[command(
    name = "zbalance",
    version,
    after_help = "Options of the reference that do nothing here: -J -Q -R -S -u -w. Refused, with \
                  the reason: -A -C -E -G -O -r -T -X -Z."
)]
pub struct Arguments {
    /// Sources, separated by commas: INTERFACE, afp:INTERFACE, xdp:INTERFACE or pcap:FILE. With zc:INTERFACE for each
    /// the queues are those of PF_RING ZC, where its library, module and driver are there; otherwise zc: is ignored.
    #[arg(short = 'i', long, value_name = "SOURCE,…", required = true, value_delimiter = ',',
          action = ArgAction::Set, num_args = 1)]
    pub interfaces: Vec<String>,
    /// Cluster: the label that consumers ask for.
    #[arg(short, long, value_name = "ID", default_value_t = 103)]
    pub cluster: u32,
    /// Queues of each set; every set gets a full copy of the traffic.
    #[arg(short = 'n', long, value_name = "N[,N]", required_unless_present = "vlan_map",
          value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=64))]
    pub queues: Vec<u32>,
    /// Distribution: rr (0), ip (1), all (2), all-rr (3), iface (6), vlan-map or 5tuple; by the addresses
    /// inside tunnels: gtp (4), gre (5), erspan (7) or, whatever tunnels there are, auto.
    #[arg(short, long, default_value = "ip")]
    pub mode: Mode,
    /// With -m vlan-map: a VLAN (0 to 4094) with a queue of its own, after queue 0 for the frames of other
    /// EtherTypes; -n is not asked for. May be repeated.
    #[arg(short = 'M', long, value_name = "VLAN[,VLAN…]", value_delimiter = ',',
          value_parser = clap::value_parser!(u16).range(0..=4094))]
    pub vlan_map: Vec<u16>,
    /// With -m vlan-map: the EtherType that stands where that of the VLAN tag would be.
    #[arg(short = 'Y', long, value_name = "TYPE", default_value = "0x8585", value_parser = ether_type)]
    pub ether_type: u16,
    /// Send what is inside GRE, ERSPAN, GTP, VXLAN and MPLS without their headers; PARSE_GRE_OFFSET of the
    /// detector stays 0 then.
    #[arg(long)]
    pub decap: bool,
    /// Drop in the kernel what no detector needs: frames that are neither TCP nor UDP over IPv4 or IPv6. They are
    /// counted, but not among received packets. For sources read through AF_XDP; not with --decap nor a mode that
    /// looks into tunnels.
    #[arg(long)]
    pub prefilter: bool,
    /// Have the kernel give packets of live sessions to the host, past queue and detector: those of flows that the
    /// detector has seen some packets of. They are counted, but not among received packets. For sources read through
    /// AF_XDP in the network namespace of the detector; not with several queue sets, --decap nor a mode that looks into
    /// tunnels.
    #[arg(long)]
    pub fast_path: bool,
    /// Key of the hash that spreads frames, for tests that have to know where each goes; by default another one at each
    /// start, so that nobody can aim traffic at one queue.
    #[arg(long, value_name = "NUMBER")]
    pub hash_seed: Option<u64>,
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
    /// Buffers of a consumer of PF_RING ZC, rounded up to a power of two; queues of our own need none.
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
    pub pid_file: Option<PathBuf>,
    /// Go into the background once everything is ready; the exit code tells whether it is.
    #[arg(short = 'd', long)]
    pub daemon: bool,
    /// Write to this file, emptied first, instead of the terminal.
    #[arg(short = 'l', long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Take only frames with one of these VLAN ids (0 to 4094) among their tags.
    #[arg(short = 'x', long = "vlans", value_name = "ID[,ID…]", value_delimiter = ',',
          value_parser = clap::value_parser!(u16).range(0..=4094))]
    pub vlans: Vec<u16>,
    /// Take only frames that match the expression in this file (pcap-filter(7), its first line); with @, this
    /// holds for these queues only. Read again on SIGHUP and SIGUSR1; needs libpcap.
    #[arg(short = 'f', long = "filter", value_name = "FILE[@QUEUE,…]")]
    pub filters: Vec<FilterFile>,
    /// Seconds to wait before the first packet is read, at most 10.
    #[arg(short = 'W', long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u64,
    /// How recordings are played.
    #[command(flatten)]
    pub playback: Playback,
    /// Become this user once the sources are open (name, or UID:GID), otherwise CJ_USER; a balancer that
    /// stays root keeps no capability either. Not with PF_RING ZC.
    #[arg(short = 'D', long, value_name = "USER")]
    pub user: Option<sandbox::User>,
    /// Open the sources, say what is wrong, and exit: 0 when the balancer could start.
    #[arg(long)]
    pub check_config: bool,
    /// Take sockets and consumers from the running balancer of the cluster, which then leaves; see station
    /// upgrade.
    #[arg(long)]
    pub take_over: bool,
    /// Ask the running balancer for its state: 0 when it is ready, otherwise 1 with the reason.
    #[arg(long)]
    pub health: bool,
    /// Find what keeps it from working: `station doctor` for this daemon.
    #[arg(long)]
    pub doctor: bool,
    /// The file that these options stand in.
    #[arg(skip)]
    pub file: Option<PathBuf>,
    /// What only the reference has.
    #[command(flatten)]
    pub foreign: Foreign,
}

/// Number of an EtherType, in hexadecimal after 0x.
fn ether_type(text: &str) -> Result<u16, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    number.filter(|number| *number >= 0x600).ok_or_else(|| "expected 0x600 to 0xffff".to_owned())
}

/// Why there are no arguments to work with.
#[derive(Debug)]
enum Unusable {
    /// The command line is wrong, or asks for help or version.
    CommandLine(clap::Error),
    /// It has an option that is refused.
    Foreign(String),
    /// The file of options is wrong.
    File(String),
}

/// The spellings of the option that `error` is about.
fn names(error: &clap::Error) -> Vec<String> {
    let Some(found) = error.get(ContextKind::InvalidArg) else { return Vec::new() };
    let found = found.to_string();
    let name = found.split([' ', '=']).next().unwrap_or_default().to_owned();
    let mut names = vec![name.clone()];
    for argument in Arguments::command().get_arguments() {
        if argument.get_long().is_some_and(|long| name == format!("--{long}")) {
            names.extend(argument.get_short().map(|short| format!("-{short}")));
        }
    }
    names
}

impl Arguments {
    /// Parses the arguments of this process; prints help or what is wrong and exits when it has to.
    pub fn of_process() -> Self {
        match Self::of_words(std::env::args_os().collect(), Path::new(DEFAULT_FILE)) {
            Ok(arguments) => arguments,
            Err(Unusable::CommandLine(error)) => {
                // Nothing better can be done when the terminal is gone.
                let _ = error.print();
                std::process::exit(if error.use_stderr() { Exit::Usage as i32 } else { 0 });
            }
            Err(Unusable::Foreign(text)) => {
                eprintln!("zbalance: ERROR: {text}");
                std::process::exit(Exit::Usage as i32);
            }
            Err(Unusable::File(text)) => {
                eprintln!("zbalance: ERROR: {text}");
                std::process::exit(Exit::Config as i32);
            }
        }
    }

    /// Arguments from the words of a command line, or from the file that they name; `default_file`
    /// is taken when there are none.
    fn of_words(words: Vec<OsString>, default_file: &Path) -> Result<Self, Unusable> {
        let file = match &words[..] {
            [] | [_] if default_file.exists() => default_file.to_owned(),
            [_, only] if !only.as_encoded_bytes().starts_with(b"-") => only.into(),
            _ => {
                let arguments = Self::try_parse_from(&words).map_err(Unusable::CommandLine)?;
                return arguments
                    .settled()
                    .map_err(|(option, reason)| Unusable::Foreign(format!("{option}: {reason}")));
            }
        };
        Self::of_file(&file).map_err(Unusable::File)
    }

    /// Arguments from the options in the file at `path`.
    ///
    /// # Errors
    /// What is wrong, with file and line.
    pub fn of_file(path: &Path) -> Result<Self, String> {
        let file = OptionFile::read(path).map_err(|error| error.to_string())?;
        let words = std::iter::once("zbalance").chain(file.words());
        let arguments = Self::try_parse_from(words).map_err(|error| {
            let rendered = error.render().to_string();
            let first = rendered.lines().next().unwrap_or_default();
            let text = first.strip_prefix("error: ").unwrap_or(first).to_owned();
            file.error(&names(&error), text).to_string()
        })?;
        match arguments.settled() {
            Err((option, reason)) => {
                Err(file.error(&[option.to_owned()], reason.into()).to_string())
            }
            Ok(arguments) => Ok(Self { file: Some(path.to_owned()), ..arguments }),
        }
    }

    /// One of the sources is a recording.
    pub fn has_recording(&self) -> bool {
        let name = |name: &String| name.strip_prefix("zc:").unwrap_or(name).starts_with("pcap:");
        self.interfaces.iter().any(name)
    }

    /// All queues of all sets.
    pub fn queue_count(&self) -> u32 {
        self.queues.iter().sum()
    }

    /// These arguments, when they can be meant together; otherwise an option and what is wrong with it.
    fn settled(mut self) -> Result<Self, (&'static str, &'static str)> {
        if let Some(refusal) = self.foreign.refusal() {
            return Err(refusal);
        }
        if let Some(option) = self.playback.needless(self.has_recording()) {
            return Err((option, "is for recordings; no source is pcap:FILE"));
        }
        match self.map() {
            Some(map) if map.vlans.is_empty() => {
                return Err((
                    "-m",
                    "vlan-map needs the VLANs that have a queue of their own, as -M",
                ));
            }
            Some(map) if map.queues() > 64 => {
                return Err(("-M", "more than 63 VLANs; a set has at most 64 queues"));
            }
            Some(map) => self.queues = vec![map.queues()],
            None if !self.vlan_map.is_empty() => {
                return Err((
                    "-M",
                    "belongs to -m vlan-map; -m 7 is erspan, as in Conjure's patch",
                ));
            }
            None => {}
        }
        if self.prefilter {
            if self.decap {
                return Err((
                    "--prefilter",
                    "not with --decap: what tunnels carry would be dropped",
                ));
            }
            if self.mode.reads_tunnels() {
                return Err((
                    "--prefilter",
                    "not with -m gtp, gre, erspan, vlan-map or auto: what tunnels carry would be dropped; \
                     leave it out, or spread by ip, 5tuple, iface, rr, all or all-rr",
                ));
            }
        }
        if self.fast_path {
            if self.queues.len() > 1 {
                return Err((
                    "--fast-path",
                    "not with several queue sets: the other sets would not get the packets of sessions",
                ));
            }
            if self.decap || self.mode.reads_tunnels() {
                return Err((
                    "--fast-path",
                    "not with --decap nor -m gtp, gre, erspan, vlan-map or auto: the host does not look into tunnels",
                ));
            }
        }
        Ok(self)
    }

    /// The VLANs with a queue each, in the mode that has them.
    pub fn map(&self) -> Option<VlanMap> {
        let map = || VlanMap { ethertype: self.ether_type, vlans: self.vlan_map.clone() };
        (self.mode == Mode::VlanMap).then(map)
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
    fn what_tunnels_carry_is_not_dropped_in_the_kernel() {
        let settled =
            |line: &str| parse(&format!("z -i xdp:x -n 1 --prefilter {line}")).unwrap().settled();
        for good in ["", "-m 1", "-m 5tuple", "-m rr", "-m all-rr", "-m iface"] {
            assert!(settled(good).is_ok_and(|arguments| arguments.prefilter), "{good}");
        }
        for bad in ["--decap", "-m gtp", "-m 5", "-m 7", "-m auto", "-m vlan-map -M 7"] {
            let (option, reason) = settled(bad).unwrap_err();
            assert!(option == "--prefilter" && reason.contains("tunnels"), "{bad}: {reason}");
        }
        assert!(!parse("z -i x -n 1").unwrap().prefilter);
    }

    #[test]
    fn sessions_pass_in_the_kernel_where_the_host_can_read_them() {
        let settled = |line: &str| {
            parse(&format!("z -i xdp:x --fast-path {line}")).unwrap().settled().map_err(|e| e.0)
        };
        for good in ["-n 1", "-n 4 --prefilter", "-n 1 -m 5tuple", "-n 1 -m rr"] {
            assert!(settled(good).is_ok_and(|arguments| arguments.fast_path), "{good}");
        }
        for bad in ["-n 1,1", "-n 1 --decap", "-n 1 -m gre", "-n 1 -m auto", "-m vlan-map -M 7"] {
            assert_eq!(settled(bad).unwrap_err(), "--fast-path", "{bad}");
        }
        assert!(!parse("z -i x -n 1").unwrap().fast_path);
    }

    fn of_file(text: &str) -> Result<Arguments, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.conf");
        std::fs::write(&path, text).unwrap();
        let folder = format!("{}/", dir.path().display());
        let words = vec!["zbalance".into(), path.into_os_string()];
        match Arguments::of_words(words, Path::new("/nonexistent")) {
            Ok(arguments) => Ok(arguments),
            Err(Unusable::File(text)) => Err(text.replace(&folder, "")),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_holds_the_same_options() {
        let a =
            of_file("# cluster\n-i=afp:tap0,eth1\n-c 98\n-n=4,4\n-m \"1\"\n-g=3\n-z\n").unwrap();
        let b = parse("zbalance -i afp:tap0,eth1 -c 98 -n 4,4 -m 1 -g 3 -z").unwrap();
        let b = Arguments { file: a.file.clone(), ..b };
        assert_eq!(format!("{a:?}"), format!("{b:?}"));
        for (text, expected) in [
            ("-i=x\n-n=0\n", "cluster.conf:2: invalid value '0'"),
            ("-i=x\n-n=4\n-k\n", "cluster.conf:3: unexpected argument '-k'"),
            ("-i=x\n-n=4\n-D=no-such-user\n", "cluster.conf:3: invalid value 'no-such-user'"),
            ("-n=4\n", "cluster.conf: the following required arguments"),
            ("-i=x\n-n=4\n-x=4095\n", "cluster.conf:3: invalid value '4095'"),
        ] {
            let error = of_file(text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
        let missing = vec!["zbalance".into(), "/nonexistent/x.conf".into()];
        assert!(matches!(
            Arguments::of_words(missing, Path::new("/nonexistent")),
            Err(Unusable::File(text)) if text.starts_with("/nonexistent/x.conf: cannot be read")
        ));
        let nothing = vec!["zbalance".into()];
        let result = Arguments::of_words(nothing, Path::new("/nonexistent"));
        assert!(matches!(result, Err(Unusable::CommandLine(_))));
    }

    #[test]
    fn options_of_the_reference_are_never_taken_for_others() {
        for line in ["-R 1000", "-S 1", "-u /mnt/huge", "-Q /tmp/q0", "-w", "-J"] {
            let arguments = parse(&format!("z -i x -n 1 {line}")).unwrap();
            let notices = arguments.foreign.notices();
            assert_eq!(notices.len(), 1, "{line}");
            assert!(notices[0].starts_with(&line[..2]), "{notices:?}");
            assert!(arguments.foreign.refusal().is_none());
        }
        for line in [
            "-X",
            "-r 1:eth0",
            "-G 0:1",
            "-T",
            "-C /tmp/rules",
            "-O /tmp/protocols",
            "-Z",
            "-E tcp://127.0.0.1:5555",
            "-A 1",
        ] {
            let words = format!("z -i x -n 1 {line}").split(' ').map(OsString::from).collect();
            match Arguments::of_words(words, Path::new("/nonexistent")) {
                Err(Unusable::Foreign(text)) => assert!(text.starts_with(&line[..2]), "{text}"),
                other => panic!("{line}: {other:?}"),
            }
        }
        // Twice -i would be two balancers with queues of their own.
        assert!(parse("z -i x -i y -n 1").is_err());
        for (line, ids) in [("-x 1,4094", vec![1, 4094]), ("--vlans 0", vec![0])] {
            assert_eq!(parse(&format!("z -i x -n 1 {line}")).unwrap().vlans, ids);
        }
        assert!(parse("z -i x -n 1 -x 4095").is_err());
    }

    fn settled(line: &str) -> Result<Arguments, (&'static str, &'static str)> {
        parse(line).unwrap().settled()
    }

    #[test]
    fn a_map_of_vlans_makes_its_queues() {
        let a = settled("z -i x -m vlan-map -M 100 -M 7,4094").unwrap();
        assert_eq!(a.queues, [4]);
        assert_eq!(a.map().unwrap(), VlanMap { ethertype: 0x8585, vlans: vec![100, 7, 4094] });
        let a = settled("z -i x -n 9 -m vlan-map -M 1 -Y 0x88b5").unwrap();
        assert_eq!((a.queues.as_slice(), a.ether_type), ([2].as_slice(), 0x88b5));
        assert_eq!(settled("z -i x -n 1 -m vlan-map").unwrap_err().0, "-m");
        assert_eq!(settled("z -i x -n 1 -m 7 -M 1").unwrap_err().0, "-M");
        let many: Vec<String> = (1..=64).map(|id| id.to_string()).collect();
        assert_eq!(
            settled(&format!("z -i x -m vlan-map -M {}", many.join(","))).unwrap_err().0,
            "-M"
        );
        for line in ["-M 4095", "-Y 0x5ff", "-Y 10000000", "-Y x"] {
            assert!(parse(&format!("z -i x -n 1 {line}")).is_err(), "{line}");
        }
        assert_eq!(settled("z -i x -n 2 -m 7").unwrap().mode, Mode::Erspan);
        assert_eq!(
            of_file("-i=x\n-n=4\n-M=7\n").unwrap_err().split(": ").next(),
            Some("cluster.conf:3")
        );
    }

    #[test]
    fn an_empty_variable_is_noticed() {
        for line in [
            "z -i -c 98 -n 4 -m 1",
            "z -i x -c -n 4",
            "z -i x -c 98 -n 0",
            "z -i x -n 1 -m 8",
            "z -i x -n 1 -l -z",
            "z -i x -n 1 -x -z",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
