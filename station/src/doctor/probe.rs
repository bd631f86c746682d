//! What the checks look at: configuration, files, interfaces, daemons. Each is read once.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use conf::{Application, IngestBackend, Loaded, Problems, Registrar, Sources, Station};
use host::{Capability, Root};
use serde_json::Value;
use signalling::station::StatusReply;

use super::finding::{Outcome, Part};
use super::sample::{self, Sample};
use crate::daemons::Daemon;

/// What was seen on each capture interface.
pub(crate) type Samples = Vec<(String, Result<Sample, Outcome>)>;

/// Everything that checks read.
pub(crate) struct Probe {
    pub(crate) root: Root,
    pub(crate) sources: Sources,
    pub(crate) station: Result<Loaded<Station>, Problems>,
    pub(crate) parts: Vec<Part>,
    /// Packets may be sent in a namespace of the check's own.
    pub(crate) packets: bool,
    application: OnceCell<Rc<Result<Loaded<Application>, Problems>>>,
    registrar: OnceCell<Rc<Result<Loaded<Registrar>, Problems>>>,
    statuses: OnceCell<Rc<Vec<(Daemon, StatusReply)>>>,
    samples: OnceCell<Rc<Samples>>,
    runtime: tokio::runtime::Runtime,
}

impl Probe {
    pub(crate) fn new(
        root: Root,
        sources: Sources,
        parts: Vec<Part>,
        packets: bool,
    ) -> std::io::Result<Self> {
        let station = Station::load(&sources);
        Ok(Self {
            root,
            sources,
            station,
            parts,
            packets,
            application: OnceCell::new(),
            registrar: OnceCell::new(),
            statuses: OnceCell::new(),
            samples: OnceCell::new(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        })
    }

    /// The configuration; checks that need it end where there is none.
    pub(crate) fn station(&self) -> Result<&Station, Outcome> {
        match &self.station {
            Ok(loaded) => Ok(&loaded.value),
            Err(_) => Err(Outcome::Skipped("the configuration does not load (C01)".to_owned())),
        }
    }

    /// The application's settings with what is remarkable about them.
    pub(crate) fn application_file(
        &self,
    ) -> Result<Rc<Result<Loaded<Application>, Problems>>, Outcome> {
        let path = self.root.path(&self.station()?.station_config);
        Ok(Rc::clone(self.application.get_or_init(|| Rc::new(Application::load(&path)))))
    }

    /// The application's settings; checks that need them end where there are none.
    pub(crate) fn application(&self) -> Result<Application, Outcome> {
        match &*self.application_file()? {
            Ok(loaded) => Ok(loaded.value.clone()),
            Err(_) => {
                Err(Outcome::Skipped("the application's file does not load (S05)".to_owned()))
            }
        }
    }

    /// The registrar's settings with what is remarkable about them.
    pub(crate) fn registrar_file(
        &self,
    ) -> Result<Rc<Result<Loaded<Registrar>, Problems>>, Outcome> {
        let path = self.root.path(&self.station()?.registrar_config);
        Ok(Rc::clone(self.registrar.get_or_init(|| Rc::new(Registrar::load(&path)))))
    }

    /// The registrar's settings; checks that need them end where there are none.
    pub(crate) fn registrar(&self) -> Result<Registrar, Outcome> {
        match &*self.registrar_file()? {
            Ok(loaded) => Ok(loaded.value.clone()),
            Err(_) => Err(Outcome::Skipped("the registrar's file does not load (S05)".to_owned())),
        }
    }

    /// True when `part` is among those that are looked at.
    pub(crate) fn wants(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// Folder of the daemons' sockets.
    pub(crate) fn ipc_dir(&self) -> PathBuf {
        let configured = self.station.as_ref().ok().and_then(|loaded| loaded.value.ipc_dir.clone());
        self.root.path(configured.unwrap_or_else(|| telemetry::admin::DEFAULT_IPC_DIR.into()))
    }

    /// What the daemons that run say of themselves.
    pub(crate) fn statuses(&self) -> Rc<Vec<(Daemon, StatusReply)>> {
        Rc::clone(self.statuses.get_or_init(|| {
            let offset =
                self.station.as_ref().map_or(0, |loaded| loaded.value.placement.tun_offset);
            let offset = u32::try_from(offset).unwrap_or(0);
            let ask = |daemon: Daemon| {
                let socket = daemon.admin_socket(&self.ipc_dir(), offset);
                let reply = self.runtime.block_on(crate::status::ask(&socket)).ok()?;
                Some((daemon, reply))
            };
            Rc::new(Daemon::ALL.into_iter().filter_map(ask).collect())
        }))
    }

    /// What one daemon says of itself, when it runs.
    pub(crate) fn status(&self, daemon: Daemon) -> Option<StatusReply> {
        self.statuses().iter().find(|(known, _)| *known == daemon).map(|(_, reply)| reply.clone())
    }

    /// Runs what needs a runtime.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// The configured capture interfaces, without their back ends; files are none.
    pub(crate) fn interfaces(&self) -> Result<Vec<String>, Outcome> {
        let station = self.station()?;
        let bare = |text: &String| {
            let text = text.strip_prefix("zc:").unwrap_or(text);
            let text = match text.strip_prefix("xdp:") {
                // One receive queue of it.
                Some(name) => name.split('@').next().unwrap_or(name),
                None => text.strip_prefix("afp:").unwrap_or(text),
            };
            (!text.starts_with("pcap:")).then(|| text.to_owned())
        };
        let names: Vec<String> = station.interfaces.iter().filter_map(bare).collect();
        if names.is_empty() && !station.interfaces.is_empty() {
            return Err(Outcome::Skipped("packets come from files".to_owned()));
        }
        Ok(names)
    }

    /// The capture interfaces that are there.
    pub(crate) fn links(&self) -> Result<Vec<(String, Value)>, Outcome> {
        let found =
            self.interfaces()?.into_iter().filter_map(|name| Some((name.clone(), link(&name)?)));
        let found: Vec<(String, Value)> = found.collect();
        if found.is_empty() {
            return Err(Outcome::Skipped("no capture interface is there (N01)".to_owned()));
        }
        Ok(found)
    }

    /// The back end of the configuration; PF_RING also when a source asks for it.
    pub(crate) fn backend(&self) -> Result<IngestBackend, Outcome> {
        let station = self.station()?;
        let asks = |prefix: &str| station.interfaces.iter().any(|name| name.starts_with(prefix));
        Ok(match station.backend {
            IngestBackend::Auto if asks("xdp:") => IngestBackend::Xdp,
            backend => backend,
        })
    }

    /// Ends a check that is about PF_RING where another back end is configured.
    pub(crate) fn only_pf_ring(&self) -> Result<(), Outcome> {
        match self.backend()? {
            IngestBackend::PfRing => Ok(()),
            _ => Err(Outcome::Skipped("the capture back end is not PF_RING".to_owned())),
        }
    }

    /// Ends a check that this process has not the privilege for.
    pub(crate) fn needs(&self, capability: Capability, what: &str) -> Result<(), Outcome> {
        if host::has_capability(&Root::default(), capability) {
            return Ok(());
        }
        Err(Outcome::NeedsRoot(format!("{} is needed to {what}", capability.name())))
    }

    /// Two seconds of traffic of each capture interface.
    pub(crate) fn samples(&self) -> Result<Rc<Samples>, Outcome> {
        let links = self.links()?;
        self.needs(Capability::NetRaw, "look at packets")?;
        Ok(Rc::clone(self.samples.get_or_init(|| {
            let names: Vec<String> = links.into_iter().map(|(name, _)| name).collect();
            Rc::new(sample::take(&names))
        })))
    }

    /// Name of the driver of an interface.
    pub(crate) fn driver(&self, interface: &str) -> Option<String> {
        let link = self.root.path(format!("/sys/class/net/{interface}/device/driver"));
        let known = std::fs::read_link(link).ok();
        let known = known.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
        known.or_else(|| {
            let text = host::tool::output("ethtool", &["-i", interface]).ok()?;
            Some(text.lines().find_map(|line| line.strip_prefix("driver: "))?.trim().to_owned())
        })
    }

    /// True when `path` exists on the host.
    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.root.path(path).exists()
    }
}

/// What the kernel knows of an interface, `None` when there is none of that name.
pub(crate) fn link(name: &str) -> Option<Value> {
    let text = host::tool::output("ip", &["-j", "-d", "link", "show", "dev", name]).ok()?;
    let list: Vec<Value> = serde_json::from_str(&text).ok()?;
    list.into_iter().next()
}

/// True when a link has the flag.
pub(crate) fn flag(link: &Value, name: &str) -> bool {
    link["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == name))
}
