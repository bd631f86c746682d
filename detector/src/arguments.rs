//! Command line of the reference, read as its `getopt` reads it, without its traps
//! (`spec/detector.md` 3.1, `spec/operations.md` 5.3).

use crate::pfring::Input;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Text of `--help`.
pub const HELP: &str = "\
Finds registrations in a copy of passing traffic and forwards the packets of phantoms.

Usage: detector -c ID [-n N] [-o CPU] [-s CPU] [-z N] [-l SECONDS] -K PATH [-a ADDR] [-w ADDR]
       detector -i SOURCE -K PATH ...

  -c ID        cluster whose queues zbalance fills
  -n N         workers, one per queue (1 to 255; default 1)
  -o CPU       first CPU (default 0)
  -s CPU       CPU to leave out; -1 or empty: none (default)
  -z N         first queue; also the number of the first tun device (default 0)
  -l SECONDS   statistics period (default 1)
  -K PATH      station key file, or a folder of them
  -a ADDR      where registrations are published (default ipc://@detector; a replay
               publishes only with this option)
  -w ADDR      accepted for the reference's sake; workers and publisher share one process here
  -i SOURCE    read frames without zbalance: afp:IF, a bare interface name, or pcap:FILE;
               a pcap file is replayed at full speed, opens no tun and ends with a summary;
               zc:CLUSTER or zc:CLUSTER@QUEUE for queues of PF_RING ZC, pfring:IF for an
               interface that PF_RING's module captures from
      --checkers N        threads that look for tags (default: one per worker)
      --allow-unpinned    go on when a worker cannot be pinned to its CPU
      --discard           do not open tun devices; packets of sessions are counted only
      --live-frames       give bursts of acknowledgements to the host in one call for all of them;
                          takes Linux 5.19, and CAP_BPF and CAP_NET_ADMIN until the sandbox closes
      --take-over         take devices and queues from the running detector, which then leaves; see
                          station upgrade
      --user USER         become this user (name, or UID:GID) once the devices are open;
                          otherwise CJ_USER. A detector that stays root has no capability either
      --check-config      read every file, say what is wrong, and exit
      --doctor            find what keeps it from working: station doctor for this daemon
      --health            ask the running detector for its state: 0 when it is ready, else 1
      --help, --version

Environment: CJ_STATION_CONFIG (TOML file with detector_filter_list), LOG_CLIENT_IP,
PARSE_GRE_OFFSET, CJ_IPC_DIR, CJ_SESSION_SOCKET, CJ_USER, CJ_SANDBOX (on, log or off);
with CJ_INGEST_BACKEND=pfring the queues of -c may be those of PF_RING ZC.
Signals: SIGHUP reads keys and filter list again; SIGTERM and SIGINT stop.
";

/// Workers at most, as in the reference.
const MAX_WORKERS: u64 = 255;

/// The arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// Cluster of zbalance.
    pub cluster: Option<u32>,
    /// Workers.
    pub workers: usize,
    /// First CPU.
    pub core_base: usize,
    /// CPU to leave out.
    pub skip_core: Option<usize>,
    /// First queue.
    pub queue_offset: usize,
    /// Statistics period.
    pub period: Duration,
    /// Key file or folder.
    pub keys: Option<PathBuf>,
    /// Endpoint of the publisher, when given.
    pub publish: Option<String>,
    /// Source to read without zbalance.
    pub source: Option<String>,
    /// What is read through PF_RING, instead of a source.
    pub pf_ring: Option<Input>,
    /// Checker threads.
    pub checkers: Option<usize>,
    /// Go on without CPU pinning where it is refused.
    pub allow_unpinned: bool,
    /// Open no tun devices.
    pub discard: bool,
    /// Give acknowledgements to the host together.
    pub live_frames: bool,
    /// Take devices and queues from the running detector.
    pub take_over: bool,
    /// Become this user.
    pub user: Option<sandbox::User>,
    /// Only check the configuration.
    pub check_config: bool,
    /// What an operator should hear about this command line.
    pub notices: Vec<String>,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            cluster: None,
            workers: 1,
            core_base: 0,
            skip_core: None,
            queue_offset: 0,
            period: Duration::from_secs(1),
            keys: None,
            publish: None,
            source: None,
            pf_ring: None,
            checkers: None,
            allow_unpinned: false,
            discard: false,
            live_frames: false,
            user: None,
            take_over: false,
            check_config: false,
            notices: Vec::new(),
        }
    }
}

/// Where registrations are published unless the command line says otherwise.
const DEFAULT_ENDPOINT: &str = "ipc://@detector";

impl Arguments {
    /// The recording that is replayed, if any.
    pub fn recording(&self) -> Option<&str> {
        self.source.as_deref()?.strip_prefix("pcap:")
    }

    /// Endpoint to publish on. A replay publishes only when it is told where: the registrations
    /// of a recording are old.
    pub fn endpoint(&self) -> Option<&str> {
        match (&self.publish, self.recording()) {
            (Some(endpoint), _) => Some(endpoint),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_ENDPOINT),
        }
    }
}

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Run, or check the configuration.
    Run(Box<Arguments>),
    /// Print the help text.
    Help,
    /// Print the version.
    Version,
}

/// A command line that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// An option that needs a value has none.
    #[error("{0} needs a value; see --help")]
    NoValue(String),
    /// A value of the wrong kind.
    #[error("{option}: found {found:?}, expected {expected}")]
    BadValue {
        /// The option.
        option: String,
        /// Its value.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// An option that does not exist.
    #[error("unknown option {0}; see --help")]
    Unknown(String),
    /// Neither a cluster nor a source.
    #[error("Error: required -c cluster_id (or -i SOURCE to read frames without zbalance)")]
    NoInput,
    /// A source cannot feed several workers.
    #[error("-i {source_name} has one reader; leave out -n {workers}")]
    OneReader {
        /// The source.
        source_name: String,
        /// Workers asked for.
        workers: usize,
    },
}

/// The words of a command line, while they are read.
struct Words {
    rest: std::vec::IntoIter<String>,
}

impl Words {
    /// Value of `option`: attached to it, or the next word.
    fn value(&mut self, option: &str, attached: Option<String>) -> Result<String, UsageError> {
        attached.or_else(|| self.rest.next()).ok_or_else(|| UsageError::NoValue(option.to_owned()))
    }

    /// Value of `-s`. An unquoted empty variable leaves the next option in its place, which is not
    /// its value.
    fn skip(&mut self, attached: Option<String>) -> Option<String> {
        let is_option = |word: &str| {
            word.strip_prefix('-')
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        attached.or_else(|| match self.rest.as_slice().first() {
            Some(next) if !is_option(next) => self.rest.next(),
            _ => None,
        })
    }
}

fn number(
    option: &str,
    text: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64, UsageError> {
    text.trim().parse().ok().filter(|n| range.contains(n)).ok_or_else(|| UsageError::BadValue {
        option: option.to_owned(),
        found: text.to_owned(),
        expected: format!("a number from {} to {}", range.start(), range.end()),
    })
}

/// Reads the words after the program's name.
///
/// # Errors
/// [`UsageError`] names the option; the exit code for it is 64.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Request, UsageError> {
    let words: Vec<String> =
        words.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut words = Words { rest: words.into_iter() };
    let mut arguments = Arguments::default();
    while let Some(word) = words.rest.next() {
        if let Some(long) = word.strip_prefix("--") {
            match long {
                "help" => return Ok(Request::Help),
                "version" => return Ok(Request::Version),
                _ => long_option(&mut arguments, &mut words, long)?,
            }
        } else if let Some(option) = word.strip_prefix('-').and_then(|rest| rest.chars().next()) {
            match option {
                'h' => return Ok(Request::Help),
                'V' => return Ok(Request::Version),
                _ => short_option(&mut arguments, &mut words, &word, option)?,
            }
        } else {
            arguments.notices.push(format!("argument {word:?} is not an option and is ignored"));
        }
    }
    if let Some(input) = arguments.source.as_deref().and_then(Input::parse) {
        // A cluster on the command line gives the detector its name, and the members of an interface theirs.
        if let Input::Queue { cluster, .. } = input {
            arguments.cluster = arguments.cluster.or(Some(cluster));
        }
        if input.is_shared() || arguments.workers == 1 {
            arguments.source = None;
        }
        arguments.pf_ring = Some(input);
    }
    if arguments.check_config {
        return Ok(Request::Run(Box::new(arguments)));
    }
    match &arguments.source {
        None if arguments.cluster.is_none() && arguments.pf_ring.is_none() => {
            Err(UsageError::NoInput)
        }
        Some(source) if arguments.workers > 1 => {
            Err(UsageError::OneReader { source_name: source.clone(), workers: arguments.workers })
        }
        _ => Ok(Request::Run(Box::new(arguments))),
    }
}

fn long_option(arguments: &mut Arguments, words: &mut Words, long: &str) -> Result<(), UsageError> {
    let (name, attached) = match long.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (long, None),
    };
    let option = format!("--{name}");
    match (name, &attached) {
        ("check-config", None) => arguments.check_config = true,
        ("allow-unpinned", None) => arguments.allow_unpinned = true,
        ("take-over", None) => arguments.take_over = true,
        ("discard", None) => arguments.discard = true,
        ("live-frames", None) => arguments.live_frames = true,
        ("user", _) => {
            let text = words.value(&option, attached)?;
            let user = text.parse().map_err(|error: sandbox::UnknownUser| {
                UsageError::BadValue { option, found: text, expected: error.to_string() }
            })?;
            arguments.user = Some(user);
        }
        ("checkers", _) => {
            let text = words.value(&option, attached)?;
            arguments.checkers = Some(number(&option, &text, 1..=256)? as usize);
        }
        _ => return Err(UsageError::Unknown(option)),
    }
    Ok(())
}

fn short_option(
    arguments: &mut Arguments,
    words: &mut Words,
    word: &str,
    letter: char,
) -> Result<(), UsageError> {
    let option = format!("-{letter}");
    let attached = Some(word[1 + letter.len_utf8()..].to_owned()).filter(|text| !text.is_empty());
    if letter == 's' {
        arguments.skip_core = match words.skip(attached).as_deref().map(str::trim) {
            None => {
                arguments.notices.push("-s has no value, so no CPU is left out".to_owned());
                None
            }
            Some("" | "-1") => None,
            Some(text) => Some(number("-s", text, 0..=4095)? as usize),
        };
        return Ok(());
    }
    if !"conzlKawi".contains(letter) {
        return Err(UsageError::Unknown(option));
    }
    let value = words.value(&option, attached)?;
    let numeric = |range| number(&option, &value, range);
    match letter {
        'c' => arguments.cluster = Some(numeric(0..=u64::from(u32::MAX))? as u32),
        'o' => arguments.core_base = numeric(0..=4095)? as usize,
        'n' => arguments.workers = numeric(1..=MAX_WORKERS)? as usize,
        'z' => arguments.queue_offset = numeric(0..=65_535)? as usize,
        'l' => arguments.period = Duration::from_secs(numeric(1..=86_400)?),
        'K' => arguments.keys = Some(value.into()),
        'a' => arguments.publish = Some(value),
        'i' => arguments.source = Some(value),
        _ => arguments.notices.push(format!("-w {value} is accepted and not bound")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Arguments, UsageError> {
        match parse(line.split(' ').map(OsString::from))? {
            Request::Run(arguments) => Ok(*arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_empty_skip_core_keeps_the_queue_offset() {
        let base = "-c 98 -o 0 -n 4 -l 5 -K /k";
        for (tail, skip, offset) in [
            ("-s -z 7", None, 7),
            ("-s -1 -z 7", None, 7),
            ("-s  -z 7", None, 7),
            ("-s 2 -z 7", Some(2), 7),
            ("-s2 -z7", Some(2), 7),
            ("-z 7 -s", None, 7),
        ] {
            let arguments = run(&format!("{base} {tail}")).unwrap();
            assert_eq!((arguments.skip_core, arguments.queue_offset), (skip, offset), "{tail}");
            assert_eq!((arguments.workers, arguments.period.as_secs()), (4, 5));
        }
    }

    #[test]
    fn defaults_of_the_reference() {
        let arguments = run("-c 98 -w ipc://@x stray").unwrap();
        assert_eq!(arguments.endpoint(), Some("ipc://@detector"));
        assert_eq!(run("-i pcap:x").unwrap().endpoint(), None);
        assert_eq!(run("-i pcap:x -a ipc://y").unwrap().endpoint(), Some("ipc://y"));
        assert_eq!(arguments.period, Duration::from_secs(1));
        assert_eq!(arguments.notices.len(), 2);
    }

    #[test]
    fn queues_of_pf_ring_are_sources_that_workers_share() {
        let queue = |queue| Some(Input::Queue { cluster: 98, queue, either: false });
        let arguments = run("-i zc:98 -n 4").unwrap();
        assert_eq!(
            (arguments.pf_ring, arguments.source, arguments.cluster),
            (queue(None), None, Some(98))
        );
        assert_eq!(run("-i zc:98@3").unwrap().pf_ring, queue(Some(3)));
        let arguments = run("-i pfring:eth1 -c 7 -n 2").unwrap();
        assert_eq!(arguments.pf_ring, Some(Input::Interface("eth1".to_owned())));
        assert_eq!(arguments.cluster, Some(7));
        assert_eq!(run("-i zc:eth1").unwrap().source.as_deref(), Some("zc:eth1"));
    }

    #[test]
    fn errors_name_option_and_value() {
        assert_eq!(run("-n 1"), Err(UsageError::NoInput));
        assert!(run("-c x").unwrap_err().to_string().contains("\"x\""));
        assert!(run("-c 1 -n 256").unwrap_err().to_string().contains("from 1 to 255"));
        assert!(matches!(run("-c"), Err(UsageError::NoValue(_))));
        assert!(matches!(run("-c 1 -q"), Err(UsageError::Unknown(_))));
        for line in ["-i lo -n 2", "-i zc:98@1 -n 2", "-i zc:eth1 -n 2"] {
            assert!(matches!(run(line), Err(UsageError::OneReader { .. })), "{line}");
        }
        assert_eq!(parse(["--help".into()]), Ok(Request::Help));
        assert_eq!(parse(["--version".into()]), Ok(Request::Version));
    }
}
