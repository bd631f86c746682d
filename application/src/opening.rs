//! What is opened before the application confines itself, and its bounds.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;

use conf::Application;
use handover::{Channel, Inherited};
use sandbox::{Sandbox, SandboxError, User};
use telemetry::admin;

use crate::dtls::{StartError, TunEntries};
use crate::group;

/// What a privilege may be needed for, or a predecessor had.
#[derive(Debug)]
pub struct Opened {
    /// The tun device of the DTLS transport; its absence turns that transport off.
    pub entries: Result<TunEntries, StartError>,
    /// The listeners of phantom connections that are there already.
    pub tcp: Vec<TcpListener>,
    /// Whether a predecessor had more than one, so that it asks whether all were taken.
    pub several: bool,
    /// The socket of DTLS, when it is there already.
    pub udp: Option<UdpSocket>,
    /// The fan-in socket, when it is there already.
    pub fan_in: Option<OwnedFd>,
    /// The predecessor, when it lives.
    pub predecessor: Option<Channel>,
}

impl Opened {
    /// Takes what `inherited` has of what `address` asks for, and opens the device that `OFFSET` and
    /// `CJ_CORECOUNT` name where it has none.
    pub fn open(
        mut inherited: Inherited,
        predecessor: Option<Channel>,
        address: SocketAddr,
    ) -> Self {
        let mut tcp = group::take(&mut inherited);
        let several = tcp.len() > 1;
        let udp = inherited.take("udp").map(UdpSocket::from);
        // With another address in the configuration they are of no use.
        tcp.retain(|tcp| tcp.local_addr().is_ok_and(|bound| bound == address));
        let opened = Self {
            entries: TunEntries::of_environment(|name| inherited.take(name)),
            tcp,
            several,
            udp: udp.filter(|udp| udp.local_addr().is_ok_and(|bound| bound == address)),
            fan_in: inherited.take("zmq"),
            predecessor,
        };
        inherited.dismiss();
        opened
    }
}

/// Confines the process; what an operator should hear of it.
///
/// # Errors
/// [`SandboxError`] names what could not be given up.
pub fn confine(
    settings: &Application,
    path: &Path,
    phantoms: &Path,
    user: Option<User>,
) -> Result<Vec<String>, SandboxError> {
    // Landlock knows only what exists. What cannot be made is an error with a name further on.
    let _ = std::fs::create_dir_all(admin::ipc_dir());
    Ok(profile(settings, path, phantoms).user(user).enter()?.notes)
}

/// The bounds of the application: no capability; the folders of its configuration, phantoms,
/// databases and CURVE key to read, those of its sockets to write.
pub fn profile(settings: &Application, path: &Path, phantoms: &Path) -> Sandbox {
    let mut profile =
        Sandbox::new("application").read_beside(path).read_beside(phantoms).write(admin::ipc_dir());
    let curve = std::env::var_os("ZMQ_PRIVKEY").map(Into::into);
    let read = [
        &settings.supplemental_prefix_path,
        &settings.geoip_cc_db_path,
        &settings.geoip_asn_db_path,
        &settings.zmq_privkey_path,
        &curve,
    ];
    for file in read.into_iter().flatten() {
        profile = profile.read_beside(file);
    }
    let sessions = std::env::var("CJ_SESSION_SOCKET").ok().or(settings.session_socket.clone());
    if let Some(socket) = sessions.filter(|path| !path.is_empty()) {
        profile = profile.write(sandbox::parent_of(Path::new(&socket)));
    }
    profile
}
