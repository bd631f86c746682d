//! The program of an interface, run over one frame without an interface: what measurements take its stages apart with.

use std::io;
use std::os::fd::AsFd;

use shm::fast_path::{self, FlowKey, Table};

use super::bpf::{self, Program, SocketMap};
use super::fast_path::{FastPath, FlowTable};
use super::prefilter::Prefilter;
use super::sorting::{Sorting, Stage};
use super::tally::Tally;
use super::text;

/// What a program does before it gives a frame to its socket.
#[derive(Debug, Clone, Copy)]
pub enum Staged {
    /// Nothing.
    Not,
    /// It drops what no detector needs.
    Prefilter,
    /// It gives frames of flows that are in its table to the host.
    FastPath,
    /// It looks for the socket of a queue of the detector.
    Sorting(Sorting),
}

/// A program with one stage, and a frame.
#[derive(Debug)]
pub struct Trial {
    program: Program,
    frame: Vec<u8>,
    table: Table,
    // The program refers to them.
    _maps: (SocketMap, Tally, FlowTable),
}

impl Trial {
    /// A program that has this stage, for `frame`, whose flow is not in its table.
    ///
    /// # Errors
    /// When the process may not load programs for XDP.
    pub fn new(staged: Staged, frame: Vec<u8>) -> io::Result<Self> {
        let sorting = match staged {
            Staged::Sorting(sorting) => sorting.stage(1).unwrap_or(None),
            _ => None,
        };
        let each = sorting.map_or(1, Stage::sockets_each);
        let map = SocketMap::with(1, each)?;
        let (tally, flows) = (Tally::new()?, FlowTable::new()?);
        let tap = |recent| {
            let fast_path = matches!(staged, Staged::FastPath).then_some(FastPath {
                table: &flows,
                tally: &tally,
                address: [2; 6],
                v6: true,
                coarse: recent,
            });
            let prefilter = matches!(staged, Staged::Prefilter)
                .then_some(Prefilter { tally: &tally, reads: recent });
            text::tap(&map, fast_path.as_ref(), prefilter.as_ref(), sorting)
        };
        let program = Program::load(&tap(true), &tap(false))?;
        let table = Table::map(&flows)?;
        Ok(Self { program, frame, table, _maps: (map, tally, flows) })
    }

    /// Enters the flow of the frame into the table, for half a minute; false for a frame that is of none.
    pub fn enter(&self) -> bool {
        let Some(flow) = FlowKey::of(&self.frame) else { return false };
        self.table.enter(&flow, std::num::NonZeroU64::MIN, fast_path::now());
        true
    }

    /// Runs the program `count` times.
    ///
    /// # Errors
    /// When the kernel cannot.
    pub fn run(&self, count: u32) -> io::Result<()> {
        bpf::run(self.program.as_fd(), &self.frame, count, false).map(drop)
    }
}
