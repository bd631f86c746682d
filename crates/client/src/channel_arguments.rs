//! Options of the command line that belong to one registration channel.

use std::net::IpAddr;

use crate::amp::AmpChannel;
use crate::dns::DnsChannel;
use crate::dns_resolver::Resolver;
use crate::options::Channel;
use crate::stun::ClientAddress;

/// Options of the channels.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ChannelArguments {
    /// URL of the registrar's endpoint, for api, bdapi, amp, bdamp and grpc (there
    /// without a path).
    #[arg(long, value_name = "URL")]
    api_endpoint: Option<String>,
    /// Resolver for dns and bddns: udp://HOST[:53], tls://HOST[:853] or https://HOST/PATH; the
    /// default is the ClientConf's.
    #[arg(long, value_name = "URL")]
    resolver: Option<String>,
    /// Zone of the registrar for dns and bddns; the default is the ClientConf's.
    #[arg(long, value_name = "NAME")]
    dns_domain: Option<String>,
    /// URL of the AMP cache for amp and bdamp; the default is to ask the registrar itself.
    #[arg(long, value_name = "URL")]
    amp_cache_url: Option<String>,
    /// Host to connect to in the place of the AMP cache.
    #[arg(long, value_name = "HOST[:PORT]")]
    front: Option<String>,
    /// STUN server that tells the client's address where the registrar does not see it; the
    /// default is the ClientConf's.
    #[arg(long, value_name = "HOST:PORT")]
    stun_server: Option<String>,
    /// The client's address, instead of asking a STUN server.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "stun_server")]
    client_address: Option<IpAddr>,
}

impl ChannelArguments {
    /// The channel that `registrar` names.
    pub(crate) fn channel(&self, registrar: &str) -> Result<Channel, String> {
        let url = || {
            let missing = || format!("--registrar {registrar} needs --api-endpoint URL");
            self.api_endpoint.clone().ok_or_else(missing)
        };
        match registrar {
            "decoy" => Ok(Channel::Decoy),
            "api" => Ok(Channel::Api(url()?)),
            "bdapi" => Ok(Channel::BidirectionalApi(url()?)),
            "dns" | "bddns" => {
                let resolver = self.resolver.as_deref().map(Resolver::parse).transpose();
                Ok(Channel::Dns(DnsChannel {
                    bidirectional: registrar == "bddns",
                    resolver: resolver.map_err(|e| format!("--resolver: {e}"))?,
                    domain: self.dns_domain.clone(),
                }))
            }
            "grpc" => Ok(Channel::Grpc(url()?)),
            "amp" | "bdamp" => Ok(Channel::Amp(AmpChannel {
                bidirectional: registrar == "bdamp",
                url: url()?,
                cache: self.amp_cache_url.clone(),
                front: self.front.clone(),
            })),
            other => Err(format!(
                "--registrar: found {other}, expected decoy, api, bdapi, dns, bddns, amp, bdamp or \
                 grpc"
            )),
        }
    }

    /// How the client learns its address.
    pub(crate) fn address(&self) -> ClientAddress {
        match self.client_address {
            Some(address) => ClientAddress::Known(address),
            None => ClientAddress::Stun(self.stun_server.clone()),
        }
    }
}
