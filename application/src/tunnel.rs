//! One identified connection and its covert (`spec/application.md` 12).

use std::net::SocketAddr;
use std::sync::Arc;

use relay::{ErrorClass, Report};
use serde::Serialize;
use telemetry::log::Logger;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use transports::Transport;
use transports::prefix::PrefixTable;

use crate::Station;
use crate::listener;
use crate::obfs4;
use crate::policy::Policy;
use crate::registration::Registration;

/// The stream of an identified client.
#[derive(Debug)]
pub enum Client {
    /// Plain TCP, and what was read behind the tag.
    Plain(TcpStream, Vec<u8>),
    /// An open obfs4 tunnel.
    Obfs4(obfs4::Stream),
    /// An open DTLS session.
    Dtls(endpoint::Stream),
}

/// An identified connection.
#[derive(Debug)]
pub struct Tunnel {
    /// Registration that it belongs to.
    pub registration: Arc<Registration>,
    /// Address of the client.
    pub peer: SocketAddr,
    /// Phantom that the client connected to.
    pub phantom: SocketAddr,
}

impl Tunnel {
    /// Connects to the covert and relays until either side ends.
    pub async fn run(self, client: Client, station: &Station) {
        let registration = &self.registration;
        registration.count_tunnel();
        let log = self.logger();
        log.debug(format_args!(
            "registration found {{reg_id: {}, phantom: {}, transport: {}}}",
            registration.log_id(),
            registration.phantom,
            registration.transport.station_name()
        ));
        // A valid registration always has its covert.
        let Some(covert) = registration.covert() else { return };
        let announcer = &station.pipeline.announcer;
        let (phantom, client_ip) = (self.phantom.ip(), self.peer.ip());
        let proto = registration.proto;
        let _alive = announcer.tunnel(proto, phantom, client_ip, self.phantom.port());
        let mut covert = match dial(covert, station).await {
            Ok(covert) => covert,
            Err(class) => {
                let policy = station.pipeline.policy.load();
                self.print(&log, &self.line(&policy).failed_dial(class));
                return;
            }
        };
        if registration.proxy_header
            && let Err(error) = covert.write_all(proxy_header(self.peer).as_bytes()).await
        {
            let class = ErrorClass::from(&error);
            log.error(format_args!("failed to send PROXY header: {class}"));
            return;
        }
        let proxy = &station.pipeline.stats.proxy;
        proxy.opened(registration.transport.as_str());
        let funnel = &station.pipeline.stats.funnel;
        funnel.connected(registration);
        let (limits, mode) = (station.stall, station.tunnels.load().relay_mode);
        let traffic = &proxy.traffic;
        let ended = |report: &Report| {
            proxy.closed(report.up, report.down);
            funnel.ended(registration, report.up, report.down);
            let policy = station.pipeline.policy.load();
            self.print(&log, &self.line(&policy).ended(report));
        };
        match client {
            Client::Plain(client, rest) => {
                ended(&relay::relay(client, covert, rest, limits, mode, traffic).await);
            }
            Client::Obfs4(mut client) => {
                ended(&relay::relay_wrapped(&mut client, covert, limits, traffic).await);
                obfs4::drain(&client).await;
            }
            Client::Dtls(mut client) => {
                ended(&relay::relay_wrapped(&mut client, covert, limits, traffic).await);
            }
        }
    }

    fn logger(&self) -> Logger {
        if self.registration.transport == Transport::Dtls {
            return Logger::new("[REG] ");
        }
        let tag = self.registration.transport.log_tag();
        Logger::new(format!("[{tag}] {} ", self.registration.log_id()))
    }

    fn line<'a>(&'a self, policy: &'a Policy) -> Line<'a> {
        Line::new(&self.registration, &policy.prefixes)
    }

    fn print(&self, log: &Logger, line: &Line<'_>) {
        log.print(format_args!("proxy closed {}", line.json()));
    }
}

async fn dial(covert: SocketAddr, station: &Station) -> Result<TcpStream, ErrorClass> {
    let limit = station.tunnels.load().dial_timeout;
    match timeout(limit, TcpStream::connect(covert)).await {
        Ok(Ok(stream)) => {
            // The covert may have gone already, which the relay finds out.
            let _ = listener::prepare(&stream);
            Ok(stream)
        }
        Ok(Err(error)) => Err(ErrorClass::from(&error)),
        Err(_) => Err(ErrorClass::Timeout),
    }
}

/// The PROXY header as deployed coverts parse it: the destination is always the same, also for
/// IPv6 (`spec/application.md` 12.2).
pub fn proxy_header(client: SocketAddr) -> String {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {} 127.0.0.1 {} 1234\r\n", client.ip(), client.port())
}

/// The tunnel line; the order of the fields is that of the reference.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Line<'a> {
    duration: u64,
    bytes_up: u64,
    bytes_down: u64,
    covert_dial_err: String,
    covert_conn_err: String,
    client_conn_err: String,
    phantom_addr: String,
    phantom_dst_port: u16,
    tunnel_count: u64,
    #[serde(rename = "V6")]
    v6: bool,
    #[serde(rename = "ASN", skip_serializing_if = "is_zero")]
    asn: u32,
    #[serde(rename = "CC", skip_serializing_if = "str::is_empty")]
    country: &'a str,
    transport: &'static str,
    registrar: String,
    lib_ver: u32,
    #[serde(rename = "Gen")]
    generation: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    transport_opts: Vec<&'a str>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde asks for
const fn is_zero(n: &u32) -> bool {
    *n == 0
}

fn prefix_name(prefixes: &PrefixTable, id: i32) -> &str {
    prefixes.by_id(id).map_or("other", |prefix| &prefix.name)
}

fn text(class: Option<ErrorClass>) -> String {
    class.map(|c| c.to_string()).unwrap_or_default()
}

impl<'a> Line<'a> {
    fn new(registration: &'a Registration, prefixes: &'a PrefixTable) -> Self {
        Self {
            duration: 0,
            bytes_up: 0,
            bytes_down: 0,
            covert_dial_err: String::new(),
            covert_conn_err: String::new(),
            client_conn_err: String::new(),
            phantom_addr: registration.phantom.to_string(),
            phantom_dst_port: registration.dst_port,
            tunnel_count: registration.tunnels(),
            v6: registration.phantom.is_ipv6(),
            asn: registration.origin.asn,
            country: registration.origin.country(),
            transport: registration.transport.as_str(),
            registrar: signalling::names::source(registration.source),
            lib_ver: registration.lib_version,
            generation: registration.generation,
            transport_opts: registration
                .prefix_id
                .map(|id| prefix_name(prefixes, id))
                .into_iter()
                .collect(),
        }
    }

    fn failed_dial(self, class: ErrorClass) -> Self {
        Self { covert_dial_err: class.to_string(), ..self }
    }

    fn ended(self, report: &Report) -> Self {
        Self {
            duration: u64::try_from(report.duration.as_millis()).unwrap_or(u64::MAX),
            bytes_up: report.up,
            bytes_down: report.down,
            covert_conn_err: text(report.covert_error),
            client_conn_err: text(report.client_error),
            ..self
        }
    }

    fn json(&self) -> String {
        // A struct of numbers and strings always serialises.
        let json = serde_json::to_string(self).unwrap_or_default();
        json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geoip::Origin;
    use crate::store::tests::parts;
    use std::time::Duration;

    fn class(text: &str) -> Option<ErrorClass> {
        [ErrorClass::Refused, ErrorClass::Reset, ErrorClass::Timeout]
            .into_iter()
            .find(|class| class.to_string() == text)
    }

    /// Every captured tunnel line, rebuilt from its own values, letter by letter.
    #[test]
    fn lines_are_those_of_the_reference() {
        let file = vectors::load("application-misc.json");
        for captured in file["tunnel_log_lines"].as_array().unwrap() {
            let json = captured.as_str().unwrap().split_once("proxy closed ").unwrap().1;
            let fields: vectors::Value = serde_json::from_str(json).unwrap();
            let number = |name: &str| fields[name].as_u64().unwrap();
            let text = |name: &str| fields[name].as_str().unwrap_or_default();
            let country = text("CC").as_bytes().try_into().ok();
            let asn = fields["ASN"].as_u64().unwrap_or(0) as u32;
            let registration = Registration::new(crate::registration::Parts {
                phantom: text("PhantomAddr").parse().unwrap(),
                dst_port: number("PhantomDstPort") as u16,
                origin: Origin { country, asn },
                ..parts(1, 1)
            });
            for _ in 0..number("TunnelCount") {
                registration.count_tunnel();
            }
            let table = PrefixTable::default();
            let line = Line::new(&registration, &table);
            let line = match class(text("CovertDialErr")) {
                Some(class) => line.failed_dial(class),
                None => line.ended(&Report {
                    duration: Duration::from_millis(number("Duration")),
                    up: number("BytesUp"),
                    down: number("BytesDown"),
                    covert_error: class(text("CovertConnErr")),
                    client_error: class(text("ClientConnErr")),
                }),
            };
            assert_eq!(line.json(), json);
        }
    }

    #[test]
    fn a_prefix_is_named() {
        let registration = Registration::new(crate::registration::Parts {
            transport: transports::Transport::Prefix,
            prefix_id: Some(1),
            ..parts(1, 1)
        });
        let table = PrefixTable::default();
        let json = Line::new(&registration, &table).json();
        assert!(json.ends_with("\"Gen\":957,\"TransportOpts\":[\"GetLong\"]}"), "{json}");
    }
}
