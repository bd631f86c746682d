//! The channels that a registrar serves (`spec/registrar.md` 1).

use signalling::RegistrationSource;

/// How a registration came. The decoy channel is not among them: the detector finds those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// HTTP; the client chose its phantom itself.
    Api,
    /// HTTP; the registrar chooses and answers.
    BidirectionalApi,
    /// DNS.
    Dns,
    /// DNS; the registrar chooses and answers.
    BidirectionalDns,
    /// An AMP cache.
    AmpCache,
    /// An AMP cache; the registrar chooses and answers.
    BidirectionalAmp,
}

impl Channel {
    /// Every channel.
    pub const ALL: [Self; 6] = [
        Self::Api,
        Self::BidirectionalApi,
        Self::Dns,
        Self::BidirectionalDns,
        Self::AmpCache,
        Self::BidirectionalAmp,
    ];

    /// Source that is stamped when the client named none.
    pub const fn source(self) -> RegistrationSource {
        match self {
            Self::Api => RegistrationSource::Api,
            Self::BidirectionalApi => RegistrationSource::BidirectionalApi,
            Self::Dns => RegistrationSource::Dns,
            Self::BidirectionalDns => RegistrationSource::BidirectionalDns,
            Self::AmpCache => RegistrationSource::AmpCache,
            Self::BidirectionalAmp => RegistrationSource::BidirectionalAmp,
        }
    }

    /// True when the registrar chooses the phantom.
    pub const fn is_bidirectional(self) -> bool {
        matches!(self, Self::BidirectionalApi | Self::BidirectionalDns | Self::BidirectionalAmp)
    }

    /// True when an outdated client gets a new ClientConf, and a phantom of the new generation. DNS
    /// replies have no room for one.
    pub const fn delivers_client_conf(self) -> bool {
        matches!(self, Self::BidirectionalApi | Self::BidirectionalAmp)
    }
}
