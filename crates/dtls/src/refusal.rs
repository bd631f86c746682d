//! Why something that arrived was dropped.

/// Why a datagram, record or message was dropped without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Lengths or values that the format forbids.
    #[error("it is malformed")]
    Malformed,
    /// A record or message that this state has no use for.
    #[error("it has no place in this state")]
    Unexpected,
    /// A handshake record in the clear, or an epoch that does not exist, after the handshake.
    #[error("it belongs to another epoch")]
    Epoch,
    /// An alert in the clear: anyone can send one.
    #[error("it is an alert in the clear")]
    PlainAlert,
    /// The record's number was seen before or is too old.
    #[error("the record was seen before")]
    Replayed,
    /// The record does not open under the session's key.
    #[error("the record does not authenticate")]
    Mac,
    /// A handshake message longer than any that has its place here, or too far ahead.
    #[error("the message exceeds what is kept")]
    TooLong,
    /// A version other than DTLS 1.2.
    #[error("the version is not DTLS 1.2")]
    Version,
    /// The ClientHello carries another random than the registration's.
    #[error("the ClientHello has another random")]
    Random,
    /// No cipher suite in common.
    #[error("there is no cipher suite in common")]
    Suite,
    /// The peer does not negotiate the extended master secret.
    #[error("the extended master secret is missing")]
    ExtendedMasterSecret,
    /// No group in common, or a key that is not one of its group.
    #[error("there is no usable key exchange group")]
    Group,
    /// The peer's certificate is not the one that the shared secret gives.
    #[error("the certificate is not the expected one")]
    Certificate,
    /// A signature of the handshake does not verify under the peer's key.
    #[error("the signature does not verify")]
    Signature,
    /// The cookie is not the one that was sent.
    #[error("the cookie is wrong")]
    Cookie,
}

/// What was dropped so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Discards {
    /// How many records, messages or unreadable datagrams.
    pub count: u64,
    /// Why the latest of them was.
    pub last: Option<Refusal>,
}

impl Discards {
    pub(crate) const fn note(&mut self, refusal: Refusal) {
        self.count = self.count.saturating_add(1);
        self.last = Some(refusal);
    }
}
