//! From one message of the bus to registrations, one per family (`spec/application.md` 6.1 to 6.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use keys::{ClientVersion, SharedSecret};
use phantoms::{Family, Phantom, SelectError};
use session::Proto;
use signalling::{Any, C2sWrapper, ClientToStation, Message, RegistrationResponse};
use transports::obfs4::ServerIdentity;
use transports::{Params, Protocol, Transport, destination_port};

use crate::dtls::Material;
use crate::policy::Policy;
use crate::registration::{Credentials, Identifier, Parts, Registration};

/// Shortest shared secret; registrars require as much.
pub const MIN_SECRET: usize = 8;

/// What the station serves: transports fixed at the start, families by the configuration.
#[derive(Debug, Clone)]
pub struct Served {
    /// IPv4 phantoms.
    pub v4: bool,
    /// IPv6 phantoms.
    pub v6: bool,
    /// Transports that this build and configuration serve.
    pub transports: Vec<Transport>,
}

/// Why a message brings no registration, or not for one family.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum IntakeError {
    /// The frame is no `C2SWrapper`.
    #[error("Failed to unmarshall ClientToStation: {0}")]
    Decode(signalling::DecodeError),
    /// The secret is too short to be one.
    #[error("shared secret of {0} bytes, at least {MIN_SECRET} are required")]
    Secret(usize),
    /// The client's address is neither absent nor 4 nor 16 bytes.
    #[error("registration address of {0} bytes, 4 or 16 are required")]
    Address(usize),
    /// No phantom for this seed.
    #[error(
        "failed to build registration: failed phantom select: gen {generation} libv {version} \
         v6 {v6} err: {cause}"
    )]
    Phantom {
        /// Generation asked for.
        generation: u32,
        /// Client library version.
        version: u32,
        /// Family asked for.
        v6: bool,
        /// Reason.
        cause: SelectError,
    },
    /// The transport is not served here.
    #[error("failed to build registration: unknown transport")]
    Transport,
    /// The transport refuses the parameters.
    #[error("failed to build registration: error handling transport params: {0}")]
    Params(#[from] transports::ParamsError),
    /// The transport has no port for the parameters.
    #[error("failed to build registration: error selecting phantom dst port: {0}")]
    Port(#[from] transports::PortError),
    /// The registrar's override is no address that can be dialled.
    #[error("failed to build registration: override phantom is not a usable address")]
    Override,
    /// An IPv4 phantom for a client that is not IPv4: its packets could not be recognised.
    #[error("failed because IPv6 client chose IPv4 phantom")]
    MixedFamilies,
}

/// Registrations of one message; a family that failed does not take the other with it.
#[derive(Debug, Default)]
pub struct Intake {
    /// What can be tracked.
    pub registrations: Vec<Registration>,
    /// What went wrong, by family (true: IPv6).
    pub errors: Vec<(bool, IntakeError)>,
}

/// Reads one message.
///
/// # Errors
/// When the message as a whole is unusable.
pub fn read(frame: &[u8], served: &Served, policy: &Policy) -> Result<Intake, IntakeError> {
    let wrapper = C2sWrapper::decode(frame).map_err(IntakeError::Decode)?;
    let Some(payload) = &wrapper.registration_payload else { return Ok(Intake::default()) };
    let wanted =
        [(false, payload.v4_support() && served.v4), (true, payload.v6_support() && served.v6)];
    if wanted.iter().all(|(_, wanted)| !wanted) {
        return Ok(Intake::default());
    }
    let secret = wrapper.shared_secret();
    if secret.len() < MIN_SECRET {
        return Err(IntakeError::Secret(secret.len()));
    }
    let client = client_address(wrapper.registration_address.as_deref().unwrap_or_default())?;
    let message = MessageParts::new(&wrapper, payload, client, served, policy);
    let mut intake = Intake::default();
    for (v6, wanted) in wanted {
        // A client known only by IPv6 never gets an IPv4 registration.
        if !wanted || (!v6 && !client.is_ipv4()) {
            continue;
        }
        match message.build(v6) {
            Ok(registration) => intake.registrations.push(registration),
            Err(error) => intake.errors.push((v6, error)),
        }
    }
    Ok(intake)
}

/// Absent and empty are unknown (`::`); IPv4-mapped counts as IPv4.
fn client_address(bytes: &[u8]) -> Result<IpAddr, IntakeError> {
    match bytes.len() {
        0 => Ok(Ipv6Addr::UNSPECIFIED.into()),
        4 => Ok(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        16 => {
            let mut octets = [0; 16];
            octets.copy_from_slice(bytes);
            Ok(IpAddr::from(octets).to_canonical())
        }
        n => Err(IntakeError::Address(n)),
    }
}

/// What both families of a message share, derived once.
struct MessageParts<'a> {
    payload: &'a ClientToStation,
    response: Option<&'a RegistrationResponse>,
    served: &'a Served,
    policy: &'a Policy,
    secret: SharedSecret,
    keys: keys::SessionKeys,
    version: ClientVersion,
    client: IpAddr,
    source: i32,
}

impl<'a> MessageParts<'a> {
    fn new(
        wrapper: &'a C2sWrapper,
        payload: &'a ClientToStation,
        client: IpAddr,
        served: &'a Served,
        policy: &'a Policy,
    ) -> Self {
        let secret = SharedSecret::new(wrapper.shared_secret());
        let version = ClientVersion(payload.client_lib_version());
        Self {
            payload,
            response: wrapper.registration_response.as_ref(),
            served,
            policy,
            keys: secret.session_keys(version),
            secret,
            version,
            client,
            source: wrapper.registration_source.unwrap_or(0),
        }
    }

    fn build(&self, v6: bool) -> Result<Registration, IntakeError> {
        let overridden = self.overridden_phantom(v6)?;
        let selected = self.select(v6);
        // When the registrar names the phantom, the local selection is only asked for its port.
        let phantom = match (overridden, &selected) {
            (Some(phantom), _) => phantom,
            (None, Ok(phantom)) => phantom.address,
            (None, Err(error)) => return Err(error.clone()),
        };
        let random_port = selected.is_ok_and(|p| p.random_port);
        let transport = Transport::try_from(self.payload.transport.unwrap_or(0))
            .ok()
            .filter(|t| self.served.transports.contains(t))
            .ok_or(IntakeError::Transport)?;
        let params = Params::parse(transport, self.version, self.params(), &self.policy.prefixes)?;
        let derived = destination_port(
            transport,
            self.version,
            random_port,
            &params,
            &self.keys.seed,
            &self.policy.prefixes,
        );
        let dst_port = match self.overridden_port() {
            Some(port) => port,
            None => derived?,
        };
        if phantom.is_ipv4() && !self.client.is_ipv4() {
            return Err(IntakeError::MixedFamilies);
        }
        let (identifier, credentials) = self.recognition(transport, &params, v6);
        let mut short_id = [0; 8];
        short_id.copy_from_slice(&self.secret.expose()[..8]);
        let flags = self.payload.flags.as_ref();
        Ok(Registration::new(Parts {
            phantom,
            dst_port,
            proto: match transport.protocol() {
                Protocol::Tcp => Proto::Tcp,
                Protocol::Udp => Proto::Udp,
            },
            client: self.client,
            origin: self.policy.geoip.origin(self.client),
            transport,
            identifier,
            credentials,
            prefix_id: params.prefix_id(),
            short_id,
            source: self.source,
            generation: self.payload.decoy_list_generation(),
            lib_version: self.version.0,
            proxy_header: flags.is_some_and(|f| f.proxy_header()),
            prescanned: flags.is_some_and(|f| f.prescanned()),
            covert_text: self.payload.covert_address().into(),
        }))
    }

    fn select(&self, v6: bool) -> Result<Phantom, IntakeError> {
        let generation = self.payload.decoy_list_generation();
        let family = if v6 { Family::V6 } else { Family::V4 };
        let seed = self.keys.seed.expose();
        self.policy
            .phantoms
            .pick(generation, seed, self.version)
            .and_then(|pick| pick.phantom(family))
            .map_err(|cause| IntakeError::Phantom {
                generation,
                version: self.version.0,
                v6,
                cause,
            })
    }

    /// The registrar's phantom for the family: none, or an address that can be dialled.
    fn overridden_phantom(&self, v6: bool) -> Result<Option<IpAddr>, IntakeError> {
        let Some(response) = self.response else { return Ok(None) };
        let phantom: IpAddr = if v6 {
            let bytes = response.ipv6addr();
            match bytes.len() {
                0 => return Ok(None),
                // A registrar that puts an IPv4 address here means it (`spec/application.md` 6.4).
                4 => Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into(),
                _ => <[u8; 16]>::try_from(bytes).map_err(|_| IntakeError::Override)?.into(),
            }
        } else {
            match response.ipv4addr {
                None | Some(0) => return Ok(None),
                Some(number) => Ipv4Addr::from(number).into(),
            }
        };
        let mapped = phantom.is_ipv6() && phantom.to_canonical().is_ipv4();
        if phantom.is_unspecified() || phantom.is_multicast() || mapped {
            return Err(IntakeError::Override);
        }
        Ok(Some(phantom))
    }

    /// The registrar's port; 0 and numbers beyond 16 bits are none.
    fn overridden_port(&self) -> Option<u16> {
        let port = self.response?.dst_port?;
        u16::try_from(port).ok().filter(|port| *port != 0)
    }

    /// The registrar's parameters unless the client forbade overrides, otherwise the client's.
    fn params(&self) -> Option<&Any> {
        let overridden = self.response.and_then(|r| r.transport_params.as_ref());
        match overridden {
            Some(params) if !self.payload.disable_registrar_overrides() => Some(params),
            _ => self.payload.transport_params.as_ref(),
        }
    }

    /// By what the transport recognises connections, and what it needs to serve them.
    fn recognition(
        &self,
        transport: Transport,
        params: &Params,
        v6: bool,
    ) -> (Identifier, Credentials) {
        let tag = match transport {
            Transport::Min => self.secret.min_identifier(),
            Transport::Prefix => self.secret.prefix_identifier(),
            Transport::Dtls => {
                let material = Material::new(&self.secret, params, v6);
                let identifier = (&self.secret.dtls_identifier()).into();
                return (identifier, Credentials::Dtls(Box::new(material)));
            }
            Transport::Obfs4 => {
                let keys = self.keys.obfs4();
                let identifier = keys.identifier().into();
                return (identifier, Credentials::Obfs4(Box::new(ServerIdentity::new(keys))));
            }
        };
        ((&tag).into(), Credentials::Tag)
    }
}
