//! Typed configuration of the station: `conjure.conf` and the TOML files.
//!
//! Every error names file, line, key, what was found and what is expected; an unknown key is only
//! a remark, with the nearest known one. All errors of a file are reported at once.
#![forbid(unsafe_code)]

mod application;
mod arithmetic;
mod bash;
pub mod catalogue;
pub mod command_lines;
mod detector;
mod document;
mod go;
mod keys;
mod placement;
mod prefixes;
mod problem;
mod registrar;
mod responses;
mod shell;
mod station;
mod variables;

pub use application::{Application, ConnectSocket, LivenessCache, LogFormat, LogLevel, RelayMode};
pub use detector::Detector;
pub use go::{parse_bool, parse_duration};
pub use keys::z85;
pub use packet::Mode;
pub use placement::{MAX_CPUS, Placement, cpu_list};
pub use prefixes::prefix_table;
pub use problem::{Loaded, Notice, Origin, Problem, Problems};
pub use registrar::{
    OverrideSubnet, OverrideTransport, Overrides, Registrar, RegistrarLogLevel, SigningMode,
    ZmqAuth,
};
pub use responses::{Responses, SigningKey};
pub use shell::Variable;
pub use station::{IngestBackend, Station};
pub use variables::{DEFAULT_FILE, LOCAL_FILE, Precedence, Sources, Variables};
