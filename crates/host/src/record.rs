//! What set-up made and what was there before, kept until the next boot.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::firewall::Route;

/// Folder of the records. It belongs to root, unlike the folder of the daemons' sockets: what stands
/// here is executed at the next change.
const FOLDER: &str = "/run/conjure-setup";

/// What set-up did for one station.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Number of the station (`OFFSET`).
    pub offset: u32,
    /// Its tun devices and addresses.
    pub route: Route,
    /// Tun devices that were made.
    pub made: Vec<String>,
    /// Tun devices that were there and only set up.
    pub raised: Vec<String>,
    /// Kernel settings as they were, by path below `/proc/sys`.
    pub settings: BTreeMap<String, String>,
    /// The packet filter as it was asked for and as nft then printed it.
    pub ruleset: Option<(String, String)>,
    /// Tables of nftables that were not there before.
    pub tables: Vec<String>,
    /// Folder of sockets that was made.
    #[serde(default)]
    pub sockets: Option<PathBuf>,
    /// Sizes of pools of huge pages as they were.
    pub pages: BTreeMap<PathBuf, u64>,
    /// Where huge pages were mounted.
    pub mounted: Option<PathBuf>,
}

/// A record that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}; remove the file to forget what the last set-up made")]
pub struct RecordError {
    path: PathBuf,
    source: io::Error,
}

/// The records of this host.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

impl Default for Records {
    fn default() -> Self {
        Self { folder: PathBuf::from(FOLDER) }
    }
}

impl Records {
    /// The records of the host `root`.
    pub fn of(root: &crate::Root) -> Self {
        Self::at(root.path(FOLDER))
    }

    /// Records in another folder.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    fn file(&self, offset: u32) -> PathBuf {
        self.folder.join(format!("station-{offset}.json"))
    }

    /// Every record, by the number of its station.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn load(&self) -> Result<Vec<Record>, RecordError> {
        let mut records = Vec::new();
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(records),
            Err(source) => return Err(RecordError { path: self.folder.clone(), source }),
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !name.starts_with("station-") || path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let record = std::fs::read(&path)
                .and_then(|bytes| Ok(serde_json::from_slice::<Record>(&bytes)?))
                .map_err(|source| RecordError { path: path.clone(), source })?;
            records.push(record);
        }
        records.sort_by_key(|record| record.offset);
        Ok(records)
    }

    /// Writes `record`, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, record: &Record) -> Result<(), RecordError> {
        let path = self.file(record.offset);
        let write = || {
            std::fs::create_dir_all(&self.folder)?;
            let temporary = path.with_extension("new");
            std::fs::write(&temporary, serde_json::to_vec_pretty(record)?)?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(|source| RecordError { path: path.clone(), source })
    }

    /// Forgets the station `offset`.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(&self, offset: u32) -> Result<(), RecordError> {
        let path = self.file(offset);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(RecordError { path, source });
            }
            _ => {}
        }
        // The folder stays while it holds records of other stations.
        let _ = std::fs::remove_dir(&self.folder);
        Ok(())
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}
