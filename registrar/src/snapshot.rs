//! What requests are answered from: read at start and on reload, then immutable.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use phantoms::PhantomTable;
use registration::signing::ResponseSigner;
use signalling::client_conf;
use transports::{Transport, prefix::PrefixTable};

use crate::delivery::Delivery;

/// Everything a request needs.
#[derive(Debug)]
pub struct Snapshot {
    /// Phantom subnets by generation.
    pub phantoms: PhantomTable,
    /// The `ClientConf` as it is handed out.
    pub delivery: Delivery,
    /// Its generation; 0 when it names none.
    pub generation: u32,
    /// Prefixes of the Prefix transport.
    pub prefixes: PrefixTable,
}

/// Rules of one configuration.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Transports that registrations may ask for.
    pub transports: BTreeSet<Transport>,
    /// Subnet overrides.
    pub overrides: conf::Overrides,
    /// Give every Prefix client that allows it a random prefix.
    pub random_prefix: bool,
    /// Who may claim what only stations can know; `None` for anyone.
    pub sharers: Option<Vec<IpNet>>,
    /// Signs the response in the published message; `None` in NULL mode.
    pub signer: Option<Arc<ResponseSigner>>,
}

/// Where a [`Snapshot`] is read from.
#[derive(Debug, Clone)]
pub struct Files {
    /// Serialized `ClientConf`.
    pub client_conf: PathBuf,
    /// Phantom subnets.
    pub phantoms: PathBuf,
    /// Further prefixes of the Prefix transport.
    pub prefixes: Option<PathBuf>,
    /// Leave out the built-in ones.
    pub no_default_prefixes: bool,
}

impl Files {
    /// The files that a configuration names, and that of the phantom subnets.
    pub fn new(registrar: &conf::Registrar, phantoms: &Path) -> Self {
        Self {
            client_conf: registrar.clientconf_path.clone(),
            phantoms: phantoms.to_owned(),
            prefixes: registrar.supplemental_prefix_path.clone(),
            no_default_prefixes: registrar.disable_default_prefixes,
        }
    }
}

/// Why a snapshot could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The ClientConf does not exist or cannot be read.
    #[error("failed to read client config {}: {source}", .path.display())]
    ClientConf {
        /// Path of the file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The ClientConf does not decode.
    #[error("failed to decode client config {}: {source}", .path.display())]
    Decode {
        /// Path of the file.
        path: PathBuf,
        /// Why.
        source: client_conf::ClientConfError,
    },
    /// The supplemental prefix file cannot be used.
    #[error("supplemental_prefix_path: {source}")]
    Prefixes {
        /// Path of the file.
        path: PathBuf,
        /// Why.
        source: conf::Problems,
    },
    /// The phantom subnets cannot be used.
    #[error("phantom subnets {}: {source}", .path.display())]
    Phantoms {
        /// Path of the file.
        path: PathBuf,
        /// Why.
        source: phantoms::FileError,
    },
}

impl Snapshot {
    /// Reads all files. Remarks are returned beside the snapshot.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing is half read.
    pub fn load(files: &Files) -> Result<(Self, Vec<String>), SnapshotError> {
        let path = &files.client_conf;
        let client_conf = std::fs::read(path)
            .map_err(|source| SnapshotError::ClientConf { path: path.clone(), source })?;
        let decoded = client_conf::decode(&client_conf)
            .map_err(|source| SnapshotError::Decode { path: path.clone(), source })?;
        let generation = decoded.generation.unwrap_or(0);
        let path = &files.phantoms;
        let loaded = PhantomTable::load(path)
            .map_err(|source| SnapshotError::Phantoms { path: path.clone(), source })?;
        let mut remarks: Vec<String> = loaded
            .warnings
            .iter()
            .map(|warning| format!("{}: {warning}", path.display()))
            .collect();
        let phantoms = loaded.table;
        if generation > 0 && phantoms.generation(generation).is_none() {
            remarks.push(missing_generation(generation, files.client_conf.as_path(), path));
        }
        let prefixes = conf::prefix_table(files.prefixes.as_deref(), files.no_default_prefixes)
            .map_err(|source| SnapshotError::Prefixes {
                path: files.prefixes.clone().unwrap_or_default(),
                source,
            })?;
        remarks.extend(prefixes.notices.iter().map(ToString::to_string));
        let delivery = Delivery::new(&client_conf);
        Ok((Self { phantoms, delivery, generation, prefixes: prefixes.value }, remarks))
    }

    /// Number of generations with phantoms.
    pub fn generations(&self) -> usize {
        self.phantoms.numbers().count()
    }
}

fn missing_generation(generation: u32, client_conf: &Path, phantoms: &Path) -> String {
    format!(
        "generation {generation} of {} is not in {}: every client with an older generation will be \
         refused; add the generation to the phantom subnets",
        client_conf.display(),
        phantoms.display()
    )
}

impl Rules {
    /// Rules of a configuration: every transport, no signatures.
    pub fn new(registrar: &conf::Registrar) -> Self {
        let curve = registrar.zmq_auth == conf::ZmqAuth::Curve;
        Self {
            transports: Transport::ALL.into_iter().collect(),
            overrides: registrar.overrides.clone(),
            random_prefix: registrar.random_prefix_override.unwrap_or(curve),
            sharers: registrar.sharing_stations.clone(),
            signer: None,
        }
    }
}
