//! Nothing that a station writes may name a client or hold a secret. The suite proves it over everything
//! that its daemons write:
//!
//! * whoever starts a daemon lets its output go to a file of the folder of records ([`keep`]), and says
//!   which clients it will have and which secrets it gets ([`client`], [`secret`], [`shared_secret`]);
//! * when all is over, the program `leaks` searches every file for each of them, in every form in which
//!   programs print bytes ([`forms`], [`search`]).
//!
//! The folder is the value of `CONJURE_RECORDS`; without it nothing is kept. It has a part for each run of
//! the suite (`run`, `test`, …), and a part has the file `markers` and two folders: `hidden` for daemons
//! that must not tell, `shown` for those that were told to show clients (`LOG_CLIENT_IP`), where the search
//! has to find some.
#![forbid(unsafe_code)]

pub mod forms;
mod keep;
mod marker;
pub mod search;

pub use keep::{Clients, FOLDER, client, file, folder, secret, shared_secret, streams, text};
pub use marker::{BadMarker, Marker};
