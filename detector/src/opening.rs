//! What is opened before the detector gives up its privileges, and what it gives up.

use crate::arguments::Arguments;
use crate::daemon::Failure;
use crate::outlets::{Discard, PacketSink};
use crate::report::FIFO_DIR;
use crate::settings::Settings;
use crate::source::{self, FrameSource};
use capture::tun::{Tun, TunError};
use capture::{LiveFrames, LiveFramesError};
use handover::Inherited;
use sandbox::{Capability, Sandbox};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use telemetry::admin;
use telemetry::process::Exit;

/// A killed predecessor may hold its devices for this long.
const PREDECESSOR: Duration = Duration::from_secs(2);

/// Devices and sources that a privilege may be needed for.
pub(crate) struct Opened {
    /// Where packets of sessions go, one for each worker.
    pub(crate) sinks: Vec<Arc<dyn PacketSink>>,
    /// What `-i` names.
    pub(crate) source: Option<Box<dyn FrameSource>>,
    /// Copies of the devices, by name, for a successor.
    pub(crate) devices: Vec<(String, OwnedFd)>,
    /// The publishing socket, when it is there already.
    pub(crate) publisher: Option<OwnedFd>,
}

impl Opened {
    /// Opens everything. What can never work is an error now, not a worker that fails for ever.
    /// What `inherited` has of it is used.
    pub(crate) fn open(arguments: &Arguments, inherited: &mut Inherited) -> Result<Self, Failure> {
        let discards = arguments.recording().is_some() || arguments.discard;
        let wanted = if discards { 0 } else { arguments.workers };
        let mut devices = Vec::new();
        let mut tuns = Vec::new();
        for queue in arguments.queue_offset..arguments.queue_offset + wanted {
            let name = format!("tun{queue}");
            let device = match inherited.take(&name) {
                Some(device) => Tun::from_attached(&name, device)
                    .map_err(|error| Failure::new(Exit::Unavailable, error))?,
                None => tun(&name)?,
            };
            // Out of descriptors: the successor opens it itself.
            devices.extend(device.as_fd().try_clone_to_owned().map(|copy| (name, copy)));
            tuns.push(device);
        }
        if arguments.live_frames && !discards {
            tuns = with_live_frames(tuns)?;
        }
        let mut sinks: Vec<Arc<dyn PacketSink>> = Vec::with_capacity(arguments.workers);
        sinks.extend(tuns.into_iter().map(|tun| Arc::new(tun) as Arc<dyn PacketSink>));
        sinks.resize_with(arguments.workers, || Arc::new(Discard));
        let open =
            |name: &String| source::open(name).map_err(|error| Failure::new(Exit::NoInput, error));
        let source = arguments.source.as_ref().map(open).transpose()?;
        Ok(Self { sinks, source, devices, publisher: inherited.take("zmq") })
    }
}

/// Gives every device a way for acknowledgements together. What is asked for and cannot be had is an error now.
fn with_live_frames(tuns: Vec<Tun>) -> Result<Vec<Tun>, Failure> {
    [Capability::Bpf, Capability::NetAdmin].into_iter().for_each(Capability::raise);
    let devices: Vec<&Tun> = tuns.iter().collect();
    let ways = LiveFrames::open(&devices).map_err(|error| {
        let exit = match error {
            LiveFramesError::Steered { .. } => Exit::Config,
            LiveFramesError::Refused { .. } | LiveFramesError::Anchor(_) => Exit::NoPerm,
        };
        Failure::new(exit, format_args!("--live-frames: {error}"))
    })?;
    Ok(tuns.into_iter().zip(ways).map(|(tun, live)| tun.with_live_frames(live)).collect())
}

/// Opens the device, waiting a little for a predecessor that was killed to let go of it.
fn tun(name: &str) -> Result<Tun, Failure> {
    let end = Instant::now() + PREDECESSOR;
    loop {
        match Tun::open_for_batches(name) {
            Err(TunError::Busy(_)) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => {
                let exit = match error {
                    TunError::Control(_) | TunError::Missing(_) | TunError::Down(_) => Exit::NoPerm,
                    _ => Exit::Unavailable,
                };
                return Err(Failure::new(exit, error));
            }
            Ok(tun) => return Ok(tun),
        }
    }
}

/// Confines the process: no capability at all, its key and configuration folders to read, the folder
/// of sockets to write.
pub(crate) fn confine(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    // Landlock knows only what exists. What cannot be made is an error with a name further on.
    let _ = std::fs::create_dir_all(admin::ipc_dir());
    let entered = profile(arguments, &settings.config).enter().map_err(|error| {
        let exit = if error.is_configuration() { Exit::Config } else { Exit::NoPerm };
        Failure::new(exit, error)
    })?;
    for note in entered.notes {
        eprintln!("detector: {note}");
    }
    Ok(())
}

/// The bounds of the detector.
pub fn profile(arguments: &Arguments, config: &Path) -> Sandbox {
    let mut profile = Sandbox::new("detector")
        .user(arguments.user.clone())
        .read_beside(config)
        .write(admin::ipc_dir())
        .fifos(FIFO_DIR);
    if let Some(keys) = &arguments.keys {
        profile = profile.read(keys).read_beside(keys);
    }
    let socket = arguments.publish.as_deref().and_then(|endpoint| endpoint.strip_prefix("ipc://"));
    if let Some(path) = socket.filter(|path| !path.starts_with('@')) {
        profile = profile.write(sandbox::parent_of(Path::new(path)));
    }
    if let Some(recording) = arguments.recording() {
        profile = profile.read_beside(Path::new(recording));
    }
    if arguments.live_frames {
        profile = profile.runs_programs();
    }
    if arguments.pf_ring.is_some() {
        return crate::pfring::allow(profile);
    }
    profile
}
