//! The application's library as the rows use it, and the registrations that they give it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use application::daemon::accept;
use application::dtls::{NatEntries, Service, Sockets};
use application::intake::{self, Served};
use application::policy::Policy;
use application::{Station, listener};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use signalling::{C2sWrapper, ClientToStation, Message, RegistrationFlags};
use transports::Transport;

use crate::loopback::COVERT;

/// The phantom subnets of every row.
pub const PHANTOMS: &str = "[Networks]\n[Networks.1]\nGeneration = 1\n\
    [[Networks.1.WeightedSubnets]]\nWeight = 1\n\
    Subnets = [\"192.122.190.0/24\", \"2001:48a8:687f:1::/64\"]\n";
/// The shipped configuration.
const CONFIGURATION: &str = include_str!("../../conf/app_config.toml");
/// Its line that reads the addresses of the host, which a measurement must not depend on.
const PUBLIC_ADDRESSES: &str = "covert_blocklist_public_addrs = true";

/// Names of the files that [`files`] writes.
pub const SETTINGS: &str = "app.toml";
/// See [`SETTINGS`].
pub const PHANTOM_FILE: &str = "phantoms.toml";
/// The station's private key.
pub const PRIVATE_KEY: [u8; 32] = [0x40; 32];

/// The secret of registration `number`.
pub fn secret(number: u64) -> [u8; 32] {
    let mut secret = [0; 32];
    ChaCha20Rng::seed_from_u64(number).fill_bytes(&mut secret);
    secret
}

/// Registration `number` as it comes from the bus: IPv4, prescanned.
pub fn frame(transport: Transport, number: u64) -> Vec<u8> {
    frame_to(COVERT, transport, number)
}

fn frame_to(covert: SocketAddr, transport: Transport, number: u64) -> Vec<u8> {
    let client = 0x0a0a_0000 | (number as u32 & 0xffff);
    C2sWrapper {
        shared_secret: Some(secret(number).to_vec()),
        registration_payload: Some(ClientToStation {
            decoy_list_generation: Some(1),
            client_lib_version: Some(4),
            transport: Some(transport.number()),
            covert_address: Some(covert.to_string()),
            v4_support: Some(true),
            v6_support: Some(false),
            flags: Some(RegistrationFlags { prescanned: Some(true), ..Default::default() }),
            ..Default::default()
        }),
        registration_source: Some(2),
        registration_address: Some(client.to_be_bytes().to_vec()),
        ..Default::default()
    }
    .encode_to_vec()
}

/// The application's parts with the shipped configuration; an empty `redis_url` turns Redis off.
/// Must be called within a tokio runtime.
///
/// # Errors
/// When a file cannot be written or read.
pub fn start(redis_url: &str) -> Result<Arc<Station>, String> {
    build(redis_url).map(Arc::new)
}

fn build(redis_url: &str) -> Result<Station, String> {
    let (mut settings, policy) = settings()?;
    settings.redis_url = Some(redis_url.to_owned());
    let key = keys::StationKey::from_private(&PRIVATE_KEY).map_err(|e| e.to_string())?;
    Ok(Station::new(&settings, policy, vec![key]))
}

/// The same without Redis, taking connections to phantoms.
///
/// # Errors
/// As [`start`], and when the port cannot be opened.
pub fn listen() -> Result<Arc<Station>, String> {
    let station = start("")?;
    let phantoms = listener::listen(listener::default_address()).map_err(|e| e.to_string())?;
    tokio::spawn(accept(phantoms, Arc::clone(&station)));
    Ok(station)
}

/// The same without Redis and without taking connections; a tunnel may be idle for hours.
///
/// # Errors
/// As [`start`].
pub fn patient() -> Result<Arc<Station>, String> {
    let mut station = build("")?;
    let hours = Duration::from_secs(4 * 3600);
    station.stall = relay::StallLimits { first: hours, later: hours };
    Ok(Arc::new(station))
}

/// Nobody is dialled, so the kernel needs no entries.
#[derive(Debug)]
struct NoEntries;

impl NatEntries for NoEntries {
    fn add(&self, _: SocketAddr, _: SocketAddr) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// The same without Redis, taking DTLS sessions to phantoms.
///
/// # Errors
/// As [`listen`].
pub fn listen_dtls() -> Result<Arc<Station>, String> {
    let mut station = build("")?;
    station.take_dtls();
    let station = Arc::new(station);
    let address = listener::default_address();
    let sockets = Sockets::with_entries(address, None, Box::new(NoEntries));
    Service::start(sockets.map_err(|e| e.to_string())?, &station);
    Ok(station)
}

/// Writes the configuration and the phantom file of every row into `folder`.
///
/// # Errors
/// When the folder cannot be written.
pub fn files(folder: &Path) -> std::io::Result<()> {
    let text = CONFIGURATION.replace(PUBLIC_ADDRESSES, "covert_blocklist_public_addrs = false");
    std::fs::write(folder.join(SETTINGS), text)?;
    std::fs::write(folder.join(PHANTOM_FILE), PHANTOMS)
}

fn settings() -> Result<(conf::Application, Policy), String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    files(dir.path()).map_err(|e| e.to_string())?;
    let (settings, phantoms) = (dir.path().join(SETTINGS), dir.path().join(PHANTOM_FILE));
    let settings = conf::Application::load(&settings).map_err(|e| e.to_string())?.value;
    let (policy, _) = Policy::build(&settings, &phantoms).map_err(|e| e.to_string())?;
    Ok((settings, policy))
}

/// Phantom and port of registration `number`, which no station has seen yet.
///
/// # Errors
/// When a station would refuse it.
pub fn phantom(transport: Transport, number: u64) -> Result<SocketAddr, String> {
    let (settings, policy) = settings()?;
    let (v4, v6) = (settings.enable_v4, settings.enable_v6);
    let served = Served { v4, v6, transports: vec![transport] };
    let read = intake::read(&frame(transport, number), &served, &policy);
    let registrations = read.map_err(|e| e.to_string())?.registrations;
    let first = registrations.first().ok_or("no registration in the message")?;
    Ok(first.phantom_endpoint())
}

/// Tracks registration `number`; its phantom and port.
///
/// # Errors
/// When the registration is refused.
pub async fn register(
    station: &Station,
    transport: Transport,
    number: u64,
) -> Result<SocketAddr, String> {
    register_to(COVERT, station, transport, number).await
}

/// The same with a covert of its own.
///
/// # Errors
/// As [`register`].
pub async fn register_to(
    covert: SocketAddr,
    station: &Station,
    transport: Transport,
    number: u64,
) -> Result<SocketAddr, String> {
    let frame = frame_to(covert, transport, number);
    let policy = station.pipeline.policy.load_full();
    let read = intake::read(&frame, &station.pipeline.served.load(), &policy)
        .map_err(|e| e.to_string())?;
    let registration = read.registrations.first().ok_or("no registration in the message")?;
    station.pipeline.handle(&frame).await;
    let stored = station.pipeline.store.find(registration.phantom, &registration.identifier);
    stored.map(|r| r.phantom_endpoint()).ok_or_else(|| "the registration was refused".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn registrations_are_accepted_and_unique() {
        let station = start("").unwrap();
        for number in 0..100 {
            assert_eq!(register(&station, Transport::Min, number).await.unwrap().port(), 443);
        }
        assert_eq!(station.pipeline.store.len(), 100);
        let policy = station.pipeline.policy.load();
        assert!(!policy.covert.blocked.is_empty(), "the shipped lists are in force");
    }
}
