//! What the daemons of a station are doing, for people.
//!
//! [`feed`] listens to the admin socket of each daemon and survives their restarts; [`figures`] makes
//! tables and rates of what they say. [`terminal`] shows them live in a terminal, [`page`] as a web
//! page with the history of the last hour. Both show the same tables.
#![forbid(unsafe_code)]

mod chart;
mod draw;
pub mod feed;
pub mod figures;
pub mod history;
mod html;
pub mod page;
mod serve;
pub mod terminal;
