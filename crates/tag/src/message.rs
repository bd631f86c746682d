//! What the detector publishes about a tag (`spec/detector.md` 10.1).

use crate::check::Tag;
use signalling::RegistrationSource;
use signalling::raw::{put_bytes, put_varint};
use std::net::IpAddr;

/// Serialises the `C2SWrapper` of a tag found on the flow from `client` to `decoy`. The client's
/// own bytes are spliced in as the payload, so fields that this station does not know survive.
pub fn registration_message(tag: &Tag, client: IpAddr, decoy: IpAddr) -> Vec<u8> {
    let mut message = Vec::with_capacity(tag.client_to_station.len() + 96);
    put_bytes(&mut message, 1, tag.shared_secret.as_slice());
    put_bytes(&mut message, 3, &tag.client_to_station);
    put_varint(&mut message, 4, RegistrationSource::Detector as u64);
    put_address(&mut message, 6, client);
    put_address(&mut message, 7, decoy);
    message
}

fn put_address(message: &mut Vec<u8>, number: u32, address: IpAddr) {
    match address {
        IpAddr::V4(address) => put_bytes(message, number, &address.octets()),
        IpAddr::V6(address) => put_bytes(message, number, &address.octets()),
    }
}
