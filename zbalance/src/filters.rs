//! Which frames are spread, and to which queues: by VLAN (`-x`) and by expression (`-f`).

use std::path::{Path, PathBuf};
use std::str::FromStr;

use filter::{CompileError, Compiler, LoadError, Program};

use crate::arguments::Arguments;

/// A file with an expression, as `-f` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterFile {
    /// The file.
    pub path: PathBuf,
    /// Queues that it holds for; none for all frames before they are spread.
    pub queues: Vec<u32>,
}

impl FromStr for FilterFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.starts_with('-') {
            return Err("expected FILE or FILE@QUEUE,QUEUE".to_owned());
        }
        // The folder may have an @ in its name.
        let Some((path, queues)) = text.rsplit_once('@').filter(|(_, q)| !q.contains('/')) else {
            return Ok(Self { path: text.into(), queues: Vec::new() });
        };
        let queue = |word: &str| {
            word.parse().ok().filter(|queue| *queue < 64).ok_or_else(|| {
                format!("`{word}` behind @ is no queue; expected numbers from 0 to 63")
            })
        };
        let queues = queues.split(',').map(queue).collect::<Result<_, _>>()?;
        Ok(Self { path: path.into(), queues })
    }
}

/// Why there are no filters.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// There is no compiler.
    #[error("-f: {0}")]
    Library(#[from] LoadError),
    /// A balancer that was started without filters has confined itself without the compiler.
    #[error("-f takes a restart when there was none at the start")]
    Restart,
    /// A file cannot be read.
    #[error("{path}: {cause}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A file has no expression.
    #[error("{path}:1: {cause}", path = path.display())]
    Expression {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: CompileError,
    },
    /// A filter is for a queue that is not there.
    #[error("-f {path}@{queue}: there is no queue {queue}; there are queues 0 to {last}", path = path.display())]
    Queue {
        /// The file.
        path: PathBuf,
        /// The queue.
        queue: u32,
        /// The last queue.
        last: u32,
    },
}

impl FilterError {
    /// The file that it is about, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. } | Self::Expression { path, .. } | Self::Queue { path, .. } => {
                Some(path)
            }
            Self::Library(_) | Self::Restart => None,
        }
    }
}

/// Makes filters, also after the process has confined itself.
#[derive(Debug)]
pub struct FilterMaker(Option<Compiler>);

impl FilterMaker {
    /// Loads the compiler when `arguments` have filters.
    ///
    /// # Errors
    /// When there is none.
    pub fn load(arguments: &Arguments) -> Result<Self, FilterError> {
        Ok(Self(if arguments.filters.is_empty() { None } else { Some(Compiler::load()?) }))
    }

    /// Reads and compiles the filters of `arguments`.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn make(&self, arguments: &Arguments) -> Result<Filters, FilterError> {
        let mut filters =
            Filters { vlans: VlanFilter::new(&arguments.vlans), ..Filters::default() };
        let count = arguments.queue_count();
        for file in &arguments.filters {
            let Self(Some(compiler)) = self else { return Err(FilterError::Restart) };
            let FilterFile { path, queues } = file;
            let text = std::fs::read_to_string(path)
                .map_err(|cause| FilterError::File { path: path.clone(), cause })?;
            let expression = text.lines().next().unwrap_or_default().trim();
            let program = compiler
                .compile(expression)
                .map_err(|cause| FilterError::Expression { path: path.clone(), cause })?;
            if let Some(queue) = queues.iter().find(|queue| **queue >= count) {
                let (queue, last) = (*queue, count.saturating_sub(1));
                return Err(FilterError::Queue { path: path.clone(), queue, last });
            }
            match queues.iter().fold(0, |mask, queue| mask | 1u64 << queue) {
                0 => filters.input.push(program),
                mask => filters.queues.push((mask, program)),
            }
        }
        Ok(filters)
    }
}

/// What decides over frames; the default takes all.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    vlans: VlanFilter,
    input: Vec<Program>,
    /// Queues, one bit each, and what their frames have to match.
    queues: Vec<(u64, Program)>,
}

impl Filters {
    /// Every frame is spread, to all its queues.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.vlans.0.is_none() && self.input.is_empty() && self.queues.is_empty()
    }

    /// Whether a frame of `len` bytes that begins with `head` is spread.
    #[inline]
    pub fn takes(&self, head: &[u8], len: usize) -> bool {
        self.vlans.takes(head) && self.input.iter().all(|program| program.takes(head, len))
    }

    /// Those of the queues `targets` that get the frame.
    #[inline]
    pub fn targets(&self, mut targets: u64, head: &[u8], len: usize) -> u64 {
        for (mask, program) in &self.queues {
            if targets & mask != 0 && !program.takes(head, len) {
                targets &= !mask;
            }
        }
        targets
    }
}

/// The VLANs whose frames are taken (`-x`).
#[derive(Debug, Clone, Default)]
pub struct VlanFilter(Option<Box<[u64; 64]>>);

impl VlanFilter {
    /// Takes frames with one of `ids` among their tags; without ids it takes all.
    pub fn new(ids: &[u16]) -> Self {
        if ids.is_empty() {
            return Self(None);
        }
        let mut bits = Box::new([0; 64]);
        for id in ids {
            bits[usize::from(id >> 6) % 64] |= 1 << (id & 63);
        }
        Self(Some(bits))
    }

    /// Whether `frame` is taken.
    #[inline]
    pub fn takes(&self, frame: &[u8]) -> bool {
        let Some(bits) = &self.0 else { return true };
        packet::walk::vlan_ids(frame)
            .any(|id| bits[usize::from(id >> 6) % 64] & 1 << (id & 63) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Arguments {
        use clap::Parser;
        Arguments::try_parse_from(line.split_whitespace()).unwrap()
    }

    #[test]
    fn files_are_for_all_frames_or_for_some_queues() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (tcp, ssh) = (file("tcp", "tcp\nudp\n"), file("ssh", "not port 22"));
        let arguments = arguments(&format!("z -i x -n 2,1 -f {tcp} -f {ssh}@0,2"));
        assert_eq!(arguments.filters[0].queues, [0; 0]);
        let filters = FilterMaker::load(&arguments).unwrap().make(&arguments).unwrap();
        let frame = |protocol: u8, port: u8| {
            let mut frame = vec![2; 12];
            frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0]);
            frame.extend([10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 0, port]);
            frame
        };
        let (web, shell, quic) = (frame(6, 80), frame(6, 22), frame(17, 80));
        assert!(filters.takes(&web, 60) && filters.takes(&shell, 60) && !filters.takes(&quic, 60));
        assert_eq!(filters.targets(0b101, &web, 60), 0b101);
        assert_eq!(filters.targets(0b101, &shell, 60), 0);
        assert_eq!(filters.targets(0b110, &shell, 60), 0b010);
    }

    #[test]
    fn vlans_up_to_4094_are_taken_anywhere_among_the_tags() {
        let frame = |tags: &[u16]| {
            let mut frame = vec![0; 12];
            for tag in tags {
                frame.extend([0x81, 0]);
                frame.extend(tag.to_be_bytes());
            }
            frame.extend([8, 0]);
            frame
        };
        let filter = VlanFilter::new(&[0, 100, 1024, 4094]);
        for tags in [&[0u16][..], &[100], &[0xe000 | 1024], &[7, 4094], &[1, 2, 3, 100]] {
            assert!(filter.takes(&frame(tags)), "{tags:?}");
        }
        for tags in [&[][..], &[1], &[36], &[4095], &[101, 1025]] {
            assert!(!filter.takes(&frame(tags)), "{tags:?}");
        }
        assert!(!filter.takes(&[]) && VlanFilter::new(&[]).takes(&[]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bpf");
        std::fs::write(&path, "tcp prot 80").unwrap();
        let shown = path.display();
        let error = |line: &str| {
            let arguments = arguments(line);
            FilterMaker::load(&arguments).unwrap().make(&arguments).unwrap_err().to_string()
        };
        let text = error(&format!("z -i x -n 1 -f {shown}"));
        assert!(text.starts_with(&format!("{shown}:1: `tcp prot 80` is no filter")), "{text}");
        std::fs::write(&path, "tcp port 80").unwrap();
        let text = error(&format!("z -i x -n 2 -f {shown}@1,2"));
        assert_eq!(text, format!("-f {shown}@2: there is no queue 2; there are queues 0 to 1"));
        assert!(error("z -i x -n 1 -f /nonexistent/bpf").starts_with("/nonexistent/bpf: "));
        let folder: FilterFile = "/a@b/bpf".parse().unwrap();
        assert_eq!((folder.path, folder.queues), ("/a@b/bpf".into(), vec![]));
        for word in ["", "-x", "bpf@", "bpf@a", "bpf@64"] {
            assert!(word.parse::<FilterFile>().is_err(), "{word}");
        }
        let late = FilterMaker(None).make(&arguments("z -i x -n 1 -f x")).unwrap_err();
        assert!(matches!(late, FilterError::Restart));
    }
}
