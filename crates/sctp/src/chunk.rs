//! Chunks and their parameters (RFC 9260 section 3.3, RFC 3758, RFC 6525).

/// DATA flag: last fragment of a message.
pub const END: u8 = 1;
/// DATA flag: first fragment of a message.
pub const BEGIN: u8 = 2;
/// DATA flag: the message is not ordered.
pub const UNORDERED: u8 = 4;
/// DATA flag: acknowledge at once (RFC 7053).
pub const IMMEDIATE: u8 = 8;

/// Length of a DATA chunk without its payload.
pub const DATA_HEADER: usize = 16;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const INIT: u8 = 1;
    pub(super) const INIT_ACK: u8 = 2;
    pub(super) const SACK: u8 = 3;
    pub(super) const HEARTBEAT: u8 = 4;
    pub(super) const HEARTBEAT_ACK: u8 = 5;
    pub(super) const ABORT: u8 = 6;
    pub(super) const SHUTDOWN: u8 = 7;
    pub(super) const SHUTDOWN_ACK: u8 = 8;
    pub(super) const ERROR: u8 = 9;
    pub(super) const COOKIE_ECHO: u8 = 10;
    pub(super) const COOKIE_ACK: u8 = 11;
    pub(super) const SHUTDOWN_COMPLETE: u8 = 14;
    pub(super) const RE_CONFIG: u8 = 130;
    pub(super) const FORWARD_TSN: u8 = 192;
}

/// Parameter numbers.
pub mod parameter {
    /// State cookie of an INIT ACK.
    pub const STATE_COOKIE: u16 = 7;
    /// Chunk types of extensions that the sender knows.
    pub const SUPPORTED_EXTENSIONS: u16 = 0x8008;
    /// Outgoing SSN reset request.
    pub const OUTGOING_RESET: u16 = 13;
    /// Re-configuration response.
    pub const RESPONSE: u16 = 16;
}

/// Value of the supported extensions parameter: RE-CONFIG and FORWARD TSN.
pub const EXTENSIONS: [u8; 2] = [kind::RE_CONFIG, kind::FORWARD_TSN];

/// One chunk. Payloads and parameter lists are borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// A fragment of a message.
    Data(Data<'a>),
    /// The client's opening.
    Init(Init<'a>),
    /// Its answer.
    InitAck(Init<'a>),
    /// What has arrived.
    Sack(Sack<'a>),
    /// A probe to be answered with the same parameters.
    Heartbeat(&'a [u8]),
    /// Its answer.
    HeartbeatAck(&'a [u8]),
    /// The end, at once; causes.
    Abort {
        /// The tag is the sender's own (RFC 9260 section 8.5.1).
        reflected: bool,
        /// Error causes.
        causes: &'a [u8],
    },
    /// The end, after everything sent has arrived; cumulative TSN.
    Shutdown(u32),
    /// Answer to a SHUTDOWN.
    ShutdownAck,
    /// A complaint; causes.
    Error(&'a [u8]),
    /// The state cookie of an INIT ACK.
    CookieEcho(&'a [u8]),
    /// Answer to a COOKIE ECHO.
    CookieAck,
    /// Answer to a SHUTDOWN ACK.
    ShutdownComplete {
        /// The tag is the sender's own.
        reflected: bool,
    },
    /// Parameters of a re-configuration.
    ReConfig(&'a [u8]),
    /// New cumulative TSN, then pairs of stream and SSN.
    ForwardTsn {
        /// TSNs up to here will not come.
        cumulative: u32,
        /// Pairs of stream and last SSN given up.
        streams: &'a [u8],
    },
    /// A type that is not known.
    Unknown {
        /// Its number.
        kind: u8,
        /// Its flags.
        flags: u8,
        /// Its value.
        value: &'a [u8],
    },
}

/// A DATA chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data<'a> {
    /// [`BEGIN`], [`END`], [`UNORDERED`], [`IMMEDIATE`].
    pub flags: u8,
    /// Transmission sequence number.
    pub tsn: u32,
    /// Stream.
    pub stream: u16,
    /// Stream sequence number.
    pub ssn: u16,
    /// Payload protocol identifier.
    pub ppid: u32,
    /// Payload.
    pub payload: &'a [u8],
}

/// A DATA chunk without its payload.
#[derive(Debug, Clone, Copy)]
pub struct DataHeader {
    /// As in [`Data`].
    pub flags: u8,
    /// As in [`Data`].
    pub tsn: u32,
    /// As in [`Data`].
    pub stream: u16,
    /// As in [`Data`].
    pub ssn: u16,
    /// As in [`Data`].
    pub ppid: u32,
}

/// An INIT or INIT ACK chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Init<'a> {
    /// Tag that packets to its sender must carry.
    pub tag: u32,
    /// Receive window in bytes.
    pub window: u32,
    /// Streams that the sender wants to send on.
    pub outbound: u16,
    /// Streams that the sender takes at most.
    pub inbound: u16,
    /// First TSN.
    pub tsn: u32,
    /// Parameters.
    pub parameters: &'a [u8],
}

/// A SACK chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sack<'a> {
    /// Everything up to this TSN has arrived.
    pub cumulative: u32,
    /// Receive window in bytes.
    pub window: u32,
    /// Blocks that arrived beyond: pairs of offsets from the cumulative TSN, 4 bytes each.
    pub gaps: &'a [u8],
    /// TSNs that arrived again, 4 bytes each.
    pub duplicates: &'a [u8],
}

impl Sack<'_> {
    /// The gap blocks as offsets from the cumulative TSN, first and last.
    pub fn blocks(&self) -> impl Iterator<Item = (u16, u16)> {
        self.gaps.chunks_exact(4).map(|b| (be16(b), be16(&b[2..])))
    }
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

impl<'a> Chunk<'a> {
    /// Reads a chunk's value; `None` when it does not have the shape of its kind.
    pub fn parse(kind: u8, flags: u8, value: &'a [u8]) -> Option<Self> {
        let at_least = |n: usize| (value.len() >= n).then_some(());
        Some(match kind {
            kind::DATA => {
                at_least(12)?;
                Self::Data(Data {
                    flags,
                    tsn: be32(value),
                    stream: be16(&value[4..]),
                    ssn: be16(&value[6..]),
                    ppid: be32(&value[8..]),
                    payload: &value[12..],
                })
            }
            kind::INIT | kind::INIT_ACK => {
                at_least(16)?;
                let init = Init {
                    tag: be32(value),
                    window: be32(&value[4..]),
                    outbound: be16(&value[8..]),
                    inbound: be16(&value[10..]),
                    tsn: be32(&value[12..]),
                    parameters: &value[16..],
                };
                if kind == kind::INIT { Self::Init(init) } else { Self::InitAck(init) }
            }
            kind::SACK => {
                at_least(12)?;
                let gaps = usize::from(be16(&value[8..])) * 4;
                let duplicates = usize::from(be16(&value[10..])) * 4;
                at_least(12 + gaps + duplicates)?;
                let (gaps, rest) = value[12..].split_at(gaps);
                Self::Sack(Sack {
                    cumulative: be32(value),
                    window: be32(&value[4..]),
                    gaps,
                    duplicates: &rest[..duplicates],
                })
            }
            kind::HEARTBEAT => Self::Heartbeat(value),
            kind::HEARTBEAT_ACK => Self::HeartbeatAck(value),
            kind::ABORT => Self::Abort { reflected: flags & 1 != 0, causes: value },
            kind::SHUTDOWN => {
                at_least(4)?;
                Self::Shutdown(be32(value))
            }
            kind::SHUTDOWN_ACK => Self::ShutdownAck,
            kind::ERROR => Self::Error(value),
            kind::COOKIE_ECHO => Self::CookieEcho(value),
            kind::COOKIE_ACK => Self::CookieAck,
            kind::SHUTDOWN_COMPLETE => Self::ShutdownComplete { reflected: flags & 1 != 0 },
            kind::RE_CONFIG => Self::ReConfig(value),
            kind::FORWARD_TSN => {
                at_least(4)?;
                Self::ForwardTsn { cumulative: be32(value), streams: &value[4..] }
            }
            _ => Self::Unknown { kind, flags, value },
        })
    }

    /// Appends the chunk with its padding.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        match *self {
            Self::Data(data) => {
                let Data { flags, tsn, stream, ssn, ppid, payload } = data;
                let header = DataHeader { flags, tsn, stream, ssn, ppid };
                header.write(out, (payload, &[]));
                return;
            }
            Self::Init(init) => init.write(kind::INIT, out),
            Self::InitAck(init) => init.write(kind::INIT_ACK, out),
            Self::Sack(sack) => {
                out.extend_from_slice(&[kind::SACK, 0, 0, 0]);
                out.extend_from_slice(&sack.cumulative.to_be_bytes());
                out.extend_from_slice(&sack.window.to_be_bytes());
                for list in [sack.gaps, sack.duplicates] {
                    out.extend_from_slice(&((list.len() / 4) as u16).to_be_bytes());
                }
                out.extend_from_slice(sack.gaps);
                out.extend_from_slice(sack.duplicates);
            }
            Self::Heartbeat(value) => plain(kind::HEARTBEAT, 0, value, out),
            Self::HeartbeatAck(value) => plain(kind::HEARTBEAT_ACK, 0, value, out),
            Self::Abort { reflected, causes } => {
                plain(kind::ABORT, u8::from(reflected), causes, out);
            }
            Self::Shutdown(tsn) => plain(kind::SHUTDOWN, 0, &tsn.to_be_bytes(), out),
            Self::ShutdownAck => plain(kind::SHUTDOWN_ACK, 0, &[], out),
            Self::Error(causes) => plain(kind::ERROR, 0, causes, out),
            Self::CookieEcho(cookie) => plain(kind::COOKIE_ECHO, 0, cookie, out),
            Self::CookieAck => plain(kind::COOKIE_ACK, 0, &[], out),
            Self::ShutdownComplete { reflected } => {
                plain(kind::SHUTDOWN_COMPLETE, u8::from(reflected), &[], out);
            }
            Self::ReConfig(parameters) => plain(kind::RE_CONFIG, 0, parameters, out),
            Self::ForwardTsn { cumulative, streams } => {
                plain(kind::FORWARD_TSN, 0, &cumulative.to_be_bytes(), out);
                out.extend_from_slice(streams);
            }
            Self::Unknown { kind, flags, value } => plain(kind, flags, value, out),
        }
        seal(start, out);
    }
}

fn plain(kind: u8, flags: u8, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[kind, flags, 0, 0]);
    out.extend_from_slice(value);
}

/// Sets the length of the chunk or parameter that begins at `start`, and pads it. The padding
/// after a parameter that ends its chunk belongs to the chunk's padding (RFC 9260 section 3.2.1).
fn seal(start: usize, out: &mut Vec<u8>) {
    let length = (out.len() - start) as u16;
    out[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
    pad(out, usize::from(length));
}

fn pad(out: &mut Vec<u8>, length: usize) {
    out.resize(out.len() + length.next_multiple_of(4) - length, 0);
}

impl DataHeader {
    /// Appends the chunk with its payload and padding.
    pub fn write(&self, out: &mut Vec<u8>, payload: (&[u8], &[u8])) {
        let length = DATA_HEADER + payload.0.len() + payload.1.len();
        let mut head = [0; DATA_HEADER];
        head[0] = kind::DATA;
        head[1] = self.flags;
        head[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        head[4..8].copy_from_slice(&self.tsn.to_be_bytes());
        head[8..10].copy_from_slice(&self.stream.to_be_bytes());
        head[10..12].copy_from_slice(&self.ssn.to_be_bytes());
        head[12..].copy_from_slice(&self.ppid.to_be_bytes());
        out.extend_from_slice(&head);
        out.extend_from_slice(payload.0);
        out.extend_from_slice(payload.1);
        pad(out, length);
    }
}

impl<'a> Init<'a> {
    fn write(&self, kind: u8, out: &mut Vec<u8>) {
        out.extend_from_slice(&[kind, 0, 0, 0]);
        out.extend_from_slice(&self.tag.to_be_bytes());
        out.extend_from_slice(&self.window.to_be_bytes());
        out.extend_from_slice(&self.outbound.to_be_bytes());
        out.extend_from_slice(&self.inbound.to_be_bytes());
        out.extend_from_slice(&self.tsn.to_be_bytes());
        out.extend_from_slice(self.parameters);
    }

    /// Value of its first parameter with the number `wanted`.
    pub fn parameter(&self, wanted: u16) -> Option<&'a [u8]> {
        Parameters(self.parameters).find(|(number, _)| *number == wanted).map(|(_, value)| value)
    }
}

/// Parameters of a chunk: number and value. Ends at the first that does not fit.
#[derive(Debug, Clone)]
pub struct Parameters<'a>(pub &'a [u8]);

impl<'a> Iterator for Parameters<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.0);
        if bytes.len() < 4 {
            return None;
        }
        let length = usize::from(be16(&bytes[2..]));
        let value = bytes.get(4..length)?;
        self.0 = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((be16(bytes), value))
    }
}

/// Appends a parameter to `out`; padded unless it is the last of its chunk.
pub fn push_parameter(number: u16, value: &[u8], last: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&((4 + value.len()) as u16).to_be_bytes());
    out.extend_from_slice(value);
    if !last {
        pad(out, value.len());
    }
}

/// A request of RFC 6525, or an answer to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconfiguration<'a> {
    /// The sender begins its streams anew after `last`.
    OutgoingReset {
        /// Number of the request.
        request: u32,
        /// Number of the request that this one answers.
        response: u32,
        /// Last TSN sent before.
        last: u32,
        /// Streams, two bytes each; none means all.
        streams: &'a [u8],
    },
    /// An answer.
    Response {
        /// Number of the request.
        request: u32,
        /// Result.
        result: u32,
    },
    /// A request that is not served.
    Other {
        /// Number of the request.
        request: u32,
    },
}

/// Results of a re-configuration.
pub mod result {
    /// Nothing to do.
    pub const NOTHING: u32 = 0;
    /// Done.
    pub const PERFORMED: u32 = 1;
    /// Refused.
    pub const DENIED: u32 = 2;
    /// The request's number is not the expected one.
    pub const BAD_SEQUENCE: u32 = 5;
    /// Not yet.
    pub const IN_PROGRESS: u32 = 6;
}

impl<'a> Reconfiguration<'a> {
    /// The requests and answers of a RE-CONFIG chunk's parameters.
    pub fn all(parameters: &'a [u8]) -> impl Iterator<Item = Self> {
        Parameters(parameters).filter_map(|(number, value)| match number {
            parameter::OUTGOING_RESET if value.len() >= 12 => Some(Self::OutgoingReset {
                request: be32(value),
                response: be32(&value[4..]),
                last: be32(&value[8..]),
                streams: &value[12..],
            }),
            parameter::RESPONSE if value.len() >= 8 => {
                Some(Self::Response { request: be32(value), result: be32(&value[4..]) })
            }
            // Incoming reset, TSN reset, add streams.
            14 | 15 | 17 | 18 if value.len() >= 4 => Some(Self::Other { request: be32(value) }),
            _ => None,
        })
    }

    /// Appends it as the last parameter of a chunk.
    pub fn push(&self, out: &mut Vec<u8>) {
        let words = |words: &[u32]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<u8>>();
        match *self {
            Self::OutgoingReset { request, response, last, streams } => {
                let value = [&words(&[request, response, last])[..], streams].concat();
                push_parameter(parameter::OUTGOING_RESET, &value, true, out);
            }
            Self::Response { request, result } => {
                push_parameter(parameter::RESPONSE, &words(&[request, result]), true, out);
            }
            Self::Other { .. } => {}
        }
    }
}
