//! Log lines about registrations, in both formats (`spec/application.md` 6.2, 6.7 and 6.11). The
//! reference's are kept letter by letter, but for secrets, which are printed in no format: where a line has
//! one, the registration's name stands.

use std::net::{IpAddr, Ipv6Addr};

use signalling::{C2sWrapper, Message, RegistrationFlags};
use telemetry::output::Format;
use telemetry::privacy::ClientAddr;

use crate::covert::Refused;
use crate::registration::Registration;

/// The message `frame` brought this registration, and maybe another.
pub fn received(format: Format, registration: &Registration, frame: &[u8]) -> String {
    let client = ClientAddr(registration.client);
    let (id, source) = (registration.log_id(), signalling::names::source(registration.source));
    match format {
        Format::Text => format!("received registration: '{client}' {id} {source}"),
        Format::Reference => {
            let decoy = decoy(frame);
            format!("received registration: '{client}' -> '{decoy}' {id} {source}")
        }
    }
}

/// A registration that was not known, of the message `frame`, received at `time` (RFC 3339).
pub fn new(format: Format, registration: &Registration, frame: &[u8], time: &str) -> String {
    let (id, phantom) = (registration.log_id(), registration.phantom_endpoint());
    let transport = registration.transport.number();
    let (generation, source) = (registration.generation, registration.source);
    let of_client = match format {
        Format::Text => {
            return format!(
                "New registration: {id} {{\"Phantom\":\"{phantom}\",\"Transport\":{transport},\
             \"DecoyListVersion\":{generation},\"Source\":{source}}}"
            );
        }
        Format::Reference => C2sWrapper::decode(frame).ok().and_then(|w| w.registration_payload),
    };
    let of_client = of_client.unwrap_or_default();
    let mask = serde_json::json!(of_client.masked_decoy_server_name());
    let flags = of_client.flags.map_or_else(|| "null".to_owned(), |flags| flags_of(&flags));
    format!(
        "New registration: {id} {{\"Phantom\":\"{phantom}\",\"SharedSecret\":\"{id}\",\"Covert\":\"\",\
         \"Mask\":{mask},\"Flags\":{flags},\"Transport\":{transport},\"RegTime\":\"{time}\",\
         \"DecoyListVersion\":{generation},\"Source\":{source}}}"
    )
}

/// A registration whose covert was refused. It names the client by design: it is for reports of abuse.
pub fn refused(format: Format, registration: &Registration, reason: &Refused) -> String {
    let line = format!(
        "Dropping reg, malformed or blocklisted covert: {}, {} -> {}",
        registration.log_id(),
        registration.client,
        registration.covert_text,
    );
    match format {
        Format::Text => format!("{line} ({reason})"),
        Format::Reference => line,
    }
}

/// Address of the decoy that the client used; none is `::`.
fn decoy(frame: &[u8]) -> IpAddr {
    let bytes = C2sWrapper::decode(frame).ok().and_then(|wrapper| wrapper.decoy_address);
    let bytes = bytes.as_deref().unwrap_or_default();
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(v4), _) => v4.into(),
        (_, Ok(v6)) => IpAddr::from(v6).to_canonical(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The flags that the client set, in the order of their numbers.
fn flags_of(flags: &RegistrationFlags) -> String {
    let all = [
        ("upload_only", flags.upload_only),
        ("dark_decoy", flags.dark_decoy),
        ("proxy_header", flags.proxy_header),
        ("use_TIL", flags.use_til),
        ("prescanned", flags.prescanned),
    ];
    let set = all.iter().filter_map(|(name, flag)| Some(format!("\"{name}\":{}", (*flag)?)));
    format!("{{{}}}", set.collect::<Vec<_>>().join(","))
}
