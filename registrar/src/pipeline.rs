//! What happens to one registration (`spec/registrar.md` 5 and 6): pure, with the random source
//! passed in.

use std::net::{IpAddr, Ipv4Addr};

use conf::OverrideTransport;
use keys::{ClientVersion, SharedSecret};
use phantoms::{Family, SelectError};
use rand::CryptoRng;
use registration::channel::Channel;
use registration::http::Refusal;
use registration::message::Wrapper;
use registration::overrides::{self, Percent};
use signalling::{Message, PrefixTransportParams, RegistrationResponse, params, raw};
use transports::{Params, Transport, requested_port};

use crate::snapshot::{Rules, Snapshot};

/// Port for phantoms that do not support others.
const DEFAULT_PORT: u32 = 443;
/// Fields of a published message that carry the signed response and the signature.
const SIGNED_BYTES: u32 = 9;
const SIGNATURE: u32 = 10;

/// A registration that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Message for the stations.
    pub publication: Vec<u8>,
    /// Serialized response; `None` for unidirectional registrations.
    pub response: Option<Vec<u8>>,
}

/// Whether the client's generation is older than the registrar's; an absent one counts as 0.
pub fn is_outdated(wrapper: &Wrapper<'_>, snapshot: &Snapshot) -> bool {
    let generation = wrapper.payload().and_then(|p| p.message.decoy_list_generation);
    generation.unwrap_or(0) < snapshot.generation
}

/// Processes a decoded request; `address` is the client's, where the channel knows one.
///
/// # Errors
/// The [`Refusal`] to answer with.
pub fn process<R: CryptoRng + ?Sized>(
    mut wrapper: Wrapper<'_>,
    channel: Channel,
    address: Option<&[u8]>,
    snapshot: &Snapshot,
    rules: &Rules,
    rng: &mut R,
) -> Result<Accepted, Refusal> {
    let publish = |wrapper: &Wrapper<'_>, response: Option<&[u8]>| {
        wrapper.publication(channel.source(), address, response).map_err(|_| Refusal::Failed)
    };
    if !channel.is_bidirectional() {
        return Ok(Accepted { publication: publish(&wrapper, None)?, response: None });
    }
    if channel.delivers_client_conf() && is_outdated(&wrapper, snapshot) {
        wrapper.set_generation(snapshot.generation).map_err(|_| Refusal::Decode)?;
    }
    let response = respond(&wrapper, snapshot, rules, rng)?.encode_to_vec();
    let mut publication = publish(&wrapper, Some(&response))?;
    if let Some(signer) = &rules.signer {
        raw::put_bytes(&mut publication, SIGNED_BYTES, &response);
        raw::put_bytes(&mut publication, SIGNATURE, &signer.sign(&response));
    }
    Ok(Accepted { publication, response: Some(response) })
}

/// The answer to a bidirectional registration, overrides applied.
fn respond<R: CryptoRng + ?Sized>(
    wrapper: &Wrapper<'_>,
    snapshot: &Snapshot,
    rules: &Rules,
    rng: &mut R,
) -> Result<RegistrationResponse, Refusal> {
    let payload = &wrapper.payload().ok_or(Refusal::NoPayload)?.message;
    let version = ClientVersion(payload.client_lib_version.unwrap_or(0));
    let seed = SharedSecret::new(wrapper.secret()).session_keys(version).seed;
    let generation = payload.decoy_list_generation.unwrap_or(0);

    let mut response = RegistrationResponse::default();
    let mut random_port = true;
    if payload.v4_support() || payload.v6_support() {
        let pick =
            snapshot.phantoms.pick(generation, seed.expose(), version).map_err(|e| refusal(&e))?;
        if payload.v4_support() {
            let phantom = pick.phantom(Family::V4).map_err(|e| refusal(&e))?;
            if let IpAddr::V4(v4) = phantom.address {
                response.ipv4addr = Some(u32::from(v4));
            }
            random_port = phantom.random_port;
        }
        if payload.v6_support() {
            let phantom = pick.phantom(Family::V6).map_err(|e| refusal(&e))?;
            if let IpAddr::V6(v6) = phantom.address {
                response.ipv6addr = Some(v6.octets().to_vec());
            }
            random_port &= phantom.random_port;
        }
    }

    let transport = Transport::try_from(payload.transport.unwrap_or(0))
        .ok()
        .filter(|transport| rules.transports.contains(transport))
        .ok_or(Refusal::Failed)?;
    let any = payload.transport_params.as_ref();
    let parsed =
        Params::parse(transport, version, any, &snapshot.prefixes).map_err(|_| Refusal::Failed)?;
    let fixed = payload.disable_registrar_overrides();
    if rules.random_prefix && !fixed && transport == Transport::Prefix {
        let client = any.and_then(|any| params::unpack::<PrefixTransportParams>(any).ok());
        if let Some(prefix) = snapshot.prefixes.random(rng) {
            let chosen = overrides::prefix_params(
                prefix.id,
                &prefix.bytes,
                Some(client.unwrap_or_default()),
            );
            response.transport_params = Some(params::pack_with_url(&chosen));
        }
    }
    response.dst_port = Some(if random_port {
        let port = requested_port(transport, version, &parsed, &seed, &snapshot.prefixes);
        u32::from(port.map_err(|_| Refusal::Failed)?)
    } else {
        DEFAULT_PORT
    });
    if rules.overrides.enforce {
        move_phantom(&mut response, transport, fixed, snapshot, rules, rng);
    }
    Ok(response)
}

/// Moves the IPv4 phantom to an override subnet, if the rules and the dice say so.
fn move_phantom<R: CryptoRng + ?Sized>(
    response: &mut RegistrationResponse,
    transport: Transport,
    fixed: bool,
    snapshot: &Snapshot,
    rules: &Rules,
    rng: &mut R,
) {
    let overrides = &rules.overrides;
    let (percent, opted_out) = match transport {
        Transport::Min => (overrides.min_percent, fixed && overrides.min_respects_optout),
        Transport::Prefix => (overrides.prefix_percent, fixed),
        _ => return,
    };
    // Only a client that asked for an IPv4 phantom has one to move.
    let Some(phantom) = response.ipv4addr.map(Ipv4Addr::from) else { return };
    if opted_out || overrides.excludes(phantom) || !Percent::new(percent).draw(rng) {
        return;
    }
    let group: Vec<_> = overrides.group(transport == Transport::Min).collect();
    let weights: Vec<f64> = group.iter().map(|entry| entry.weight).collect();
    let picked = overrides::pick(&weights, overrides::unit(rng));
    let Some(entry) = picked.map(|at| group[at]) else { return };
    if let OverrideTransport::Prefix { prefix_id, .. } = entry.transport {
        let prefix = match prefix_id {
            -1 => snapshot.prefixes.random(rng),
            id => snapshot.prefixes.by_id(i32::from(id)),
        };
        let Some(prefix) = prefix else { return };
        let chosen = overrides::prefix_params(prefix.id, &prefix.bytes, None);
        response.transport_params = Some(params::pack_with_url(&chosen));
    }
    response.ipv4addr = Some(u32::from(overrides::address(entry.subnet, rng)));
    if entry.port != 0 {
        response.dst_port = Some(u32::from(entry.port));
    }
}

/// Seeds that select nothing are the client's affair with old library versions only.
const fn refusal(error: &SelectError) -> Refusal {
    match error {
        SelectError::NoAddressesV0 | SelectError::NoRangeV0 | SelectError::NoAddressesV1 => {
            Refusal::BadSeed
        }
        SelectError::NoAddresses => Refusal::NoPhantom,
        _ => Refusal::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Delivery;
    use phantoms::PhantomTable;
    use proptest::prelude::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;
    use registration::request::Registration;
    use signalling::{C2sWrapper, RegistrationSource, TransportType};
    use transports::prefix::PrefixTable;

    const HEAD: &str = "log_level = \"info\"\nzmq_bind_addr = \"*\"\nzmq_auth_type = \"NULL\"\n\
                        clientconf_path = \"/c\"\n";
    const PHANTOMS: &str = "[Networks.5]\nGeneration = 5\n[[Networks.5.WeightedSubnets]]\n\
                            Weight = 1\nRandomizeDstPort = true\nSubnets = [\"192.0.2.0/24\", \"2001:db8::/64\"]\n\
                            [Networks.6]\nGeneration = 6\n[[Networks.6.WeightedSubnets]]\n\
                            Weight = 1\nSubnets = [\"2001:db8::/64\"]\n";

    fn rules(text: &str) -> Rules {
        let path = std::path::Path::new("r.toml");
        Rules::new(&conf::Registrar::parse(&format!("{HEAD}{text}"), path).unwrap().value)
    }

    fn snapshot() -> Snapshot {
        let phantoms = PhantomTable::parse(PHANTOMS).unwrap().table;
        Snapshot {
            phantoms,
            delivery: Delivery::new(&[0x10, 5]),
            generation: 5,
            prefixes: PrefixTable::default(),
        }
    }

    fn registration(transport: TransportType) -> Registration {
        Registration {
            version: 4,
            covert: "203.0.113.1:443".to_owned(),
            generation: 5,
            v4: true,
            v6: true,
            transport,
            params: Some(signalling::Any::default()),
            proxy_header: false,
            disable_overrides: false,
        }
    }

    fn answer(
        registration: &Registration,
        rules: &Rules,
        seed: u8,
    ) -> Result<RegistrationResponse, Refusal> {
        let secret = [seed; 32];
        let body = registration.wrapper(&secret, RegistrationSource::BidirectionalApi, None);
        let accepted = process(
            Wrapper::decode(&body).unwrap(),
            Channel::BidirectionalApi,
            Some(&[0; 16]),
            &snapshot(),
            rules,
            &mut ChaCha20Rng::from_seed([seed; 32]),
        )?;
        let published = C2sWrapper::decode(&accepted.publication[..]).unwrap();
        let reply = RegistrationResponse::decode(&accepted.response.unwrap()[..]).unwrap();
        assert_eq!(published.registration_response, Some(reply.clone()), "one answer for all");
        Ok(reply)
    }

    const MIN: &str = "enforce_subnet_overrides = true\nprcnt_min_regs_to_override = 100\n\
                       [[override_subnet]]\ncidr = \"198.51.100.0/24\"\nweight = 1\ntransport = \"Min_Transport\"\n";
    const PREFIX: &str = "enforce_subnet_overrides = true\nprcnt_prefix_regs_to_override = 100\n\
                          [[override_subnet]]\ncidr = \"198.51.100.0/24\"\nweight = 1\nport = 80\n\
                          transport = \"Prefix_Transport\"\nprefix_id = 3\n";

    fn moved(response: &RegistrationResponse) -> bool {
        Ipv4Addr::from(response.ipv4addr.unwrap()).octets()[..3] == [198, 51, 100]
    }

    #[test]
    fn min_moves_the_address_alone_and_respects_the_opt_out() {
        let plain = answer(&registration(TransportType::Min), &rules(""), 1).unwrap();
        let response = answer(&registration(TransportType::Min), &rules(MIN), 1).unwrap();
        assert!(moved(&response) && !moved(&plain));
        assert_eq!(response.dst_port, plain.dst_port);
        assert_eq!(response.ipv6addr, plain.ipv6addr);
        assert_eq!(response.transport_params, None);
        let mut opted_out = registration(TransportType::Min);
        opted_out.disable_overrides = true;
        assert!(!moved(&answer(&opted_out, &rules(MIN), 1).unwrap()));
        let old = format!("min_override_respects_optout = false\n{MIN}");
        assert!(moved(&answer(&opted_out, &rules(&old), 1).unwrap()));
    }

    #[test]
    fn prefix_moves_address_port_and_prefix() {
        let response = answer(&registration(TransportType::Prefix), &rules(PREFIX), 2).unwrap();
        assert!(moved(&response));
        assert_eq!(response.dst_port, Some(80));
        let chosen: PrefixTransportParams =
            params::unpack(response.transport_params.as_ref().unwrap()).unwrap();
        assert_eq!(
            (chosen.prefix_id, chosen.prefix),
            (Some(3), Some(b"HTTP/1.1 200\r\n".to_vec()))
        );
        let mut opted_out = registration(TransportType::Prefix);
        opted_out.disable_overrides = true;
        let response = answer(&opted_out, &rules(PREFIX), 2).unwrap();
        assert!(!moved(&response) && response.transport_params.is_none());
    }

    #[test]
    fn excluded_phantoms_and_ipv6_clients_are_not_moved() {
        let excluded =
            format!("{MIN}[[excluded_subnet_from_overrides]]\ncidr = \"192.0.2.0/24\"\n");
        assert!(!moved(&answer(&registration(TransportType::Min), &rules(&excluded), 3).unwrap()));
        let mut v6 = registration(TransportType::Min);
        v6.v4 = false;
        assert_eq!(answer(&v6, &rules(MIN), 3).unwrap().ipv4addr, None);
    }

    #[test]
    fn a_random_prefix_only_where_switched_on_and_allowed() {
        let on = rules("random_prefix_override = true\n");
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..60 {
            let response = answer(&registration(TransportType::Prefix), &on, seed).unwrap();
            let any = response.transport_params.unwrap();
            let chosen: PrefixTransportParams = params::unpack(&any).unwrap();
            let known = PrefixTable::default().by_id(chosen.prefix_id()).unwrap().clone();
            assert_eq!(chosen.prefix(), known.bytes);
            seen.insert(known.id);
        }
        assert!(seen.len() > 7, "{seen:?}");
        let off = answer(&registration(TransportType::Prefix), &rules(""), 1).unwrap();
        assert_eq!(off.transport_params, None);
    }

    /// The mechanism decides about the random prefix, unless the configuration does; what is signed
    /// are the bytes of the published response, and unidirectional messages carry no signature.
    #[test]
    fn curve_gives_random_prefixes_and_signed_responses() {
        use ed25519_dalek::{Signature, VerifyingKey};
        use registration::signing::ResponseSigner;
        let curve = HEAD.replace("NULL", "CURVE") + "zmq_privkey_path = \"/k\"\n";
        let rules_of = |text: &str| {
            Rules::new(&conf::Registrar::parse(text, std::path::Path::new("r.toml")).unwrap().value)
        };
        assert!(!rules_of(&format!("{curve}random_prefix_override = false\n")).random_prefix);
        let mut rules = rules_of(&curve);
        assert!(rules.random_prefix);
        let signer = ResponseSigner::from_seed(&[5; 32]);
        let key = VerifyingKey::from_bytes(&signer.public()).unwrap();
        rules.signer = Some(std::sync::Arc::new(signer));

        let body = registration(TransportType::Prefix).wrapper(
            &[1; 32],
            RegistrationSource::BidirectionalApi,
            None,
        );
        let published = |channel| {
            let wrapper = Wrapper::decode(&body).unwrap();
            let rng = &mut ChaCha20Rng::from_seed([1; 32]);
            let accepted =
                process(wrapper, channel, Some(&[0; 16]), &snapshot(), &rules, rng).unwrap();
            C2sWrapper::decode(&accepted.publication[..]).unwrap()
        };
        let message = published(Channel::BidirectionalApi);
        let signed = message.reg_resp_bytes.unwrap();
        let signature = Signature::from_slice(&message.reg_resp_signature.unwrap()).unwrap();
        key.verify_strict(&signed, &signature).unwrap();
        let response = RegistrationResponse::decode(&signed[..]).unwrap();
        assert!(response.transport_params.is_some());
        assert_eq!(message.registration_response, Some(response));
        let message = published(Channel::Api);
        assert_eq!((message.reg_resp_bytes, message.reg_resp_signature), (None, None));
    }

    /// P28: never an unspecified phantom.
    #[test]
    fn a_family_without_phantoms_is_an_error_not_an_unspecified_address() {
        let mut wants = registration(TransportType::Min);
        wants.generation = 6;
        for (version, refusal) in [
            (0, Refusal::BadSeed),
            (1, Refusal::BadSeed),
            (2, Refusal::NoPhantom),
            (4, Refusal::NoPhantom),
        ] {
            wants.version = version;
            assert_eq!(answer(&wants, &rules(""), 1).unwrap_err(), refusal, "version {version}");
        }
        wants.v4 = false;
        let response = answer(&wants, &rules(""), 1).unwrap();
        assert_eq!((response.ipv4addr, response.dst_port), (None, Some(443)));
        wants.v6 = false;
        let response = answer(&wants, &rules(""), 1).unwrap();
        assert_eq!((response.ipv4addr, response.ipv6addr), (None, None));
    }

    proptest! {
        #[test]
        fn any_payload_is_answered_or_refused(
            secret in prop::collection::vec(any::<u8>(), 0..40),
            payload in prop::collection::vec(any::<u8>(), 0..60),
            version in 0u32..5,
        ) {
            let mut body = Vec::new();
            raw::put_bytes(&mut body, 1, &secret);
            raw::put_bytes(&mut body, 3, &payload);
            if let Ok(wrapper) = Wrapper::decode(&body) {
                let mut rng = ChaCha20Rng::from_seed([version as u8; 32]);
                let _ = process(wrapper, Channel::BidirectionalApi, Some(&[0; 16]), &snapshot(),
                    &rules(MIN), &mut rng);
            }
        }
    }
}
