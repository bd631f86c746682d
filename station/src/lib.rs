//! The operator's command: runs, checks, shows and demonstrates a station.
#![forbid(unsafe_code)]

pub mod arguments;
mod client_conf;
mod config;
mod daemons;
mod demo;
mod doctor;
mod exec;
pub mod genkey;
mod page;
mod probe;
mod reload;
mod run;
mod setup;
mod status;
mod upgrade;

pub use arguments::execute;
