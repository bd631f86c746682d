//! Filter expressions over Ethernet frames (`pcap-filter(7)`), as operators write them for `zbalance -f`
//! (`spec/ingest.md` 3.1 and 12).
//!
//! libpcap compiles an expression to a [`Program`]; it is loaded at run time, so that nobody needs it who has no
//! filter. Programs are run here, over frames wherever they lie.

mod compiler;
mod program;

pub use compiler::{CompileError, Compiler, LoadError};
pub use program::{Instruction, InvalidProgram, Program};
