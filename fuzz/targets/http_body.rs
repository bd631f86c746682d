//! What a client posts to the registrar, and the headers around it.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use registration::http::{check, client_address, endpoint};
use registration::message::Wrapper;
use signalling::RegistrationSource;

fuzz_target!(|body: &[u8]| {
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let _ = client_address(peer, Some(body), None);
    if let Ok(text) = std::str::from_utf8(body) {
        let _ = (endpoint(text), check(text, Some(body.len() as u64), 1024));
    }
    let Ok(mut wrapper) = Wrapper::decode(body) else { return };
    let _ = wrapper.set_generation(9);
    if let Ok(published) = wrapper.publication(RegistrationSource::Api, Some(&[0; 16]), None) {
        let again = Wrapper::decode(&published).expect("what is published decodes");
        assert_eq!(again.secret(), wrapper.secret());
    }
});
