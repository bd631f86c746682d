//! What the kernel does with frames of AF_XDP before it hands them over.

use std::io;

use capture::{FlowTable, Handed, Position, Sorting};

use crate::arguments::Arguments;
use crate::input::Input;
use crate::log;

/// Stages of the programs on interfaces that are read through AF_XDP.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stages {
    /// They drop what no detector needs.
    pub prefilter: bool,
    /// They give packets of the flows of this table to the host.
    pub fast_path: Option<FlowTable>,
    /// They give packets to the queues.
    pub sorting: Option<Sorting>,
}

impl Stages {
    /// What the options ask for, with `sorting` where that is possible. Sources that a predecessor holds have its table.
    ///
    /// # Errors
    /// When the kernel makes no table.
    pub(crate) fn of(
        arguments: &Arguments,
        succeeding: bool,
        sorting: Option<Sorting>,
    ) -> io::Result<Self> {
        let fast_path = (arguments.fast_path && !succeeding).then(FlowTable::new).transpose()?;
        Ok(Self { prefilter: arguments.prefilter, fast_path, sorting })
    }
}

/// Says what a source does not have although it is to.
pub(crate) fn note_missing(arguments: &Arguments, name: &str, input: &Input) {
    let prefilter = arguments.prefilter && !input.is_prefiltered();
    note_unstaged(name, prefilter, arguments.fast_path && input.fast_path().is_none());
}

/// Says that a source of this name is without the stages that are to be there, which only AF_XDP has.
pub(crate) fn note_unstaged(name: &str, prefilter: bool, fast_path: bool) {
    const REMEDY: &str = "is for AF_XDP (xdp: before the interface's name)";
    if prefilter {
        log::notice(format_args!("{name}: not filtered in the kernel: --prefilter {REMEDY}"));
    }
    if fast_path {
        log::notice(format_args!("{name}: no fast path in the kernel: --fast-path {REMEDY}"));
    }
}

/// Says in which stages a source of the predecessor differs from what is wanted.
pub(crate) fn note_predecessor(arguments: &Arguments, name: &str, handed: Option<&Handed>) {
    let position = handed.map(|handed| handed.position);
    match position.is_some_and(Position::is_prefiltered) {
        true if !arguments.prefilter => log::notice(format_args!(
            "{name}: the predecessor's prefilter stays on the interface; a restart takes it off"
        )),
        false if arguments.prefilter => log::notice(format_args!(
            "{name}: not filtered in the kernel: the predecessor's sockets have no prefilter; a restart \
             brings it"
        )),
        _ => {}
    }
    match position.is_some_and(Position::has_fast_path) {
        true if !arguments.fast_path => log::notice(format_args!(
            "{name}: the predecessor's fast path ends within half a minute; a restart takes its program off"
        )),
        false if arguments.fast_path => log::notice(format_args!(
            "{name}: no fast path in the kernel: the predecessor's sockets have none; a restart brings it"
        )),
        _ => {}
    }
}
