//! `station client-conf`: makes the ClientConf that clients of this station get.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use conf::Station;
use keys::path::Strictness;
use phantoms::PhantomTable;
use signalling::{
    ClientConf, DecoyList, DnsRegConf, DnsRegMethod, KeyType, Message, PhantomSubnets,
    PhantomSubnetsList, PubKey, TlsDecoySpec,
};
use telemetry::process::Exit;

use crate::arguments::Configuration;

/// Arguments of `station client-conf`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    configuration: Configuration,
    /// Generation of phantoms for the clients; otherwise the newest of the phantom file.
    #[arg(long, value_name = "NUMBER")]
    generation: Option<u32>,
    /// A decoy beyond the tap: the name in its certificate and its address.
    #[arg(long, value_name = "NAME=ADDRESS")]
    decoy: Vec<Decoy>,
    /// The DNS registrar: its zone and its address, or that of a resolver that leads to it.
    #[arg(long, value_name = "ZONE@ADDRESS:PORT")]
    dns: Option<Dns>,
    /// STUN server from which clients of DTLS over the DNS channel learn their address.
    #[arg(long, value_name = "HOST:PORT")]
    stun: Option<String>,
    /// File to write.
    #[arg(short, long, value_name = "PATH", default_value = "ClientConf")]
    output: PathBuf,
}

#[derive(Debug, Clone)]
struct Decoy {
    name: String,
    address: IpAddr,
}

impl FromStr for Decoy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text.split_once('=').ok_or("expected NAME=ADDRESS")?;
        let address = address.parse().map_err(|_| format!("`{address}` is no IP address"))?;
        Ok(Self { name: name.to_owned(), address })
    }
}

#[derive(Debug, Clone)]
struct Dns {
    zone: String,
    target: SocketAddr,
}

impl FromStr for Dns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (zone, target) = text.split_once('@').ok_or("expected ZONE@ADDRESS:PORT")?;
        let target = target.parse().map_err(|_| format!("`{target}` is no ADDRESS:PORT"))?;
        Ok(Self { zone: zone.to_owned(), target })
    }
}

/// Writes the file.
pub(crate) fn main(arguments: &Arguments) -> Exit {
    let station = match crate::config::load(&arguments.configuration) {
        Ok(station) => station,
        Err(exit) => return exit,
    };
    match make(arguments, &station) {
        Ok(client_conf) => {
            let bytes = client_conf.encode_to_vec();
            if let Err(error) = crate::genkey::replace(&arguments.output, &bytes, 0o644) {
                eprintln!("{}: {error}", arguments.output.display());
                return Exit::CantCreat;
            }
            println!(
                "{}: generation {}, {} decoys, {} bytes",
                arguments.output.display(),
                client_conf.generation.unwrap_or(0),
                arguments.decoy.len(),
                bytes.len()
            );
            Exit::Ok
        }
        Err(text) => {
            eprintln!("{text}");
            Exit::Config
        }
    }
}

fn make(arguments: &Arguments, station: &Station) -> Result<ClientConf, String> {
    let loaded =
        keys::path::load(&station.privkey, Strictness::Refuse).map_err(|e| e.to_string())?;
    // Of several, clients get the one that sorts last: by the names of the drill, the newest.
    let key = loaded.keys.last().ok_or("no station key")?;
    let path = &station.phantom_subnets;
    let table = PhantomTable::load(path).map_err(|e| format!("{}: {e}", path.display()))?.table;
    let newest = table.numbers().last();
    let number = arguments
        .generation
        .or(newest)
        .ok_or_else(|| format!("{}: there is no generation", path.display()))?;
    let generation = table.generation(number).ok_or_else(|| {
        let known: Vec<String> = table.numbers().map(|n| n.to_string()).collect();
        format!("{}: no generation {number}; there are {}", path.display(), known.join(", "))
    })?;
    let public =
        || PubKey { key: Some(key.public().to_vec()), r#type: Some(KeyType::AesGcm128.into()) };
    let groups = generation.groups().iter().map(|group| PhantomSubnets {
        weight: Some(group.weight),
        subnets: group.subnets.clone().unwrap_or_default(),
        randomize_dst_port: Some(group.randomize_dst_port),
    });
    Ok(ClientConf {
        decoy_list: Some(DecoyList { tls_decoys: arguments.decoy.iter().map(spec).collect() }),
        generation: Some(number),
        default_pubkey: Some(public()),
        conjure_pubkey: Some(public()),
        phantom_subnets_list: Some(PhantomSubnetsList { weighted_subnets: groups.collect() }),
        dns_reg_conf: arguments.dns.as_ref().map(|dns| DnsRegConf {
            dns_reg_method: DnsRegMethod::Udp.into(),
            target: Some(dns.target.to_string()),
            domain: dns.zone.clone(),
            pubkey: Some(key.public().to_vec()),
            // Released clients read it even where there is no TLS.
            utls_distribution: Some("3*Firefox_65,1*iOS_12_1".to_owned()),
            stun_server: arguments.stun.clone(),
            mtu: None,
        }),
    })
}

fn spec(decoy: &Decoy) -> TlsDecoySpec {
    let mut spec = TlsDecoySpec { hostname: Some(decoy.name.clone()), ..Default::default() };
    match decoy.address {
        IpAddr::V4(v4) => spec.ipv4addr = Some(v4.into()),
        IpAddr::V6(v6) => spec.ipv6addr = Some(v6.octets().to_vec()),
    }
    spec
}
