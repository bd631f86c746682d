//! The forms in which a program may print an address or a secret.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use data_encoding::{BASE32_NOPAD, BASE64_NOPAD, BASE64URL_NOPAD, Encoding};

use crate::Marker;

/// Bytes of a secret that are searched for as one: a piece of this size is a leak too.
const PIECE: usize = 8;
/// Bytes at the start of a shared secret that are the registration's name.
const NAME: usize = 8;

/// A text that must not be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// The bytes as they stand in a log.
    pub bytes: Vec<u8>,
    /// What this form is called.
    pub name: &'static str,
    /// Whether `A` and `a` differ in it.
    pub exact: bool,
    /// What may not stand next to it, because it would be another value then.
    pub edge: Edge,
}

/// What makes a text part of a longer value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// Nothing.
    Free,
    /// A decimal digit.
    Digit,
    /// A hexadecimal digit.
    Hex,
    /// A letter or digit of base64.
    Word,
}

impl Edge {
    /// Whether a value goes on with this neighbour.
    pub fn goes_on(self, neighbour: Option<&u8>) -> bool {
        neighbour.is_some_and(|byte| match self {
            Self::Free => false,
            Self::Digit => byte.is_ascii_digit(),
            Self::Hex => byte.is_ascii_hexdigit(),
            Self::Word => byte.is_ascii_alphanumeric() || b"+/-_".contains(byte),
        })
    }
}

fn form(name: &'static str, edge: Edge, bytes: impl Into<Vec<u8>>) -> Form {
    Form { bytes: bytes.into(), name, exact: false, edge }
}

fn exact(name: &'static str, edge: Edge, bytes: impl Into<Vec<u8>>) -> Form {
    Form { bytes: bytes.into(), name, exact: true, edge }
}

/// Every form of a marker.
pub fn of(marker: &Marker) -> Vec<Form> {
    match marker {
        Marker::Client(IpAddr::V4(address)) => of_v4(*address),
        Marker::Client(IpAddr::V6(address)) => of_v6(*address),
        // The pieces of a key of one byte look like the name of a registration of that byte.
        Marker::Secret(_, bytes) if is_one_byte(bytes) => of_bytes(bytes),
        Marker::Secret(_, bytes) => pieces(bytes).flat_map(of_bytes).collect(),
        Marker::Shared(bytes) => {
            let (name, rest) = bytes.split_at(bytes.len().min(NAME));
            // A secret that repeats its name is searched for as one.
            if rest.chunks(NAME).any(|piece| piece == name) {
                of_bytes(rest)
            } else {
                pieces(rest).flat_map(of_bytes).collect()
            }
        }
    }
}

/// The bytes in pieces; the last overlaps when they do not divide evenly.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let length = bytes.len().min(PIECE);
    (0..bytes.len().div_ceil(PIECE)).map(move |n| {
        let start = (n * PIECE).min(bytes.len() - length);
        &bytes[start..start + length]
    })
}

/// What an IPv4 address looks like, alone, mapped into IPv6, and as what it is: four bytes.
fn of_v4(address: Ipv4Addr) -> Vec<Form> {
    let octets = address.octets();
    let [a, b, c, d] = octets;
    let number = u32::from(address);
    let (high, low) = (number >> 16, number & 0xffff);
    let mut forms = vec![
        form("dotted", Edge::Digit, address.to_string()),
        form("dotted, backwards", Edge::Digit, format!("{d}.{c}.{b}.{a}.in-addr")),
        form("dotted, three digits each", Edge::Digit, format!("{a:03}.{b:03}.{c:03}.{d:03}")),
        form("number", Edge::Digit, number.to_string()),
        form("number of the other order", Edge::Digit, number.swap_bytes().to_string()),
        form("hex of the other order", Edge::Hex, format!("{:08x}", number.swap_bytes())),
        form("mapped", Edge::Hex, format!("ffff:{high:x}:{low:x}")),
        form("mapped, four digits each", Edge::Hex, format!("ffff:{high:04x}:{low:04x}")),
        exact("base64", Edge::Word, BASE64_NOPAD.encode(&octets)),
    ];
    forms.extend(lists(&octets));
    forms.extend(in_hex(&octets));
    forms.extend(escaped(&octets));
    forms
}

fn of_v6(address: Ipv6Addr) -> Vec<Form> {
    let octets = address.octets();
    let groups = |write: fn(u16) -> String| address.segments().map(write).join(":");
    let mut nibbles = String::new();
    for octet in octets.iter().rev() {
        // Writing to a String cannot fail.
        let _ = write!(nibbles, "{:x}.{:x}.", octet & 15, octet >> 4);
    }
    let mut forms = vec![
        form("IPv6", Edge::Hex, address.to_string()),
        form("IPv6 without ::", Edge::Hex, groups(|group| format!("{group:x}"))),
        form("IPv6 in full", Edge::Hex, groups(|group| format!("{group:04x}"))),
        form("nibbles, backwards", Edge::Hex, nibbles),
        form("number", Edge::Digit, u128::from(address).to_string()),
    ];
    forms.extend(lists(&octets));
    forms.extend(in_hex(&octets));
    forms.extend(escaped(&octets));
    forms.extend(encoded(&octets));
    forms
}

fn is_one_byte(bytes: &[u8]) -> bool {
    bytes.windows(2).all(|pair| pair[0] == pair[1])
}

fn of_bytes(bytes: &[u8]) -> Vec<Form> {
    let mut forms = in_hex(bytes);
    // Many spaces, say, are a text of their own.
    let as_text = |form: &Form| is_one_byte(bytes) && form.exact;
    forms.extend(escaped(bytes).into_iter().filter(|form| !as_text(form)));
    forms.extend(encoded(bytes));
    for separator in [", ", ",", " "] {
        forms.push(form("decimal", Edge::Digit, joined(bytes, separator)));
    }
    if let Some(text) = z85(bytes) {
        forms.push(exact("Z85", Edge::Free, text));
    }
    forms
}

fn joined(bytes: &[u8], separator: &str) -> String {
    bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(separator)
}

/// Decimal numbers in brackets, as Rust and Go print slices: without, any four numbers look so.
fn lists(bytes: &[u8]) -> Vec<Form> {
    [", ", ",", " "]
        .iter()
        .map(|separator| form("list", Edge::Free, format!("[{}]", joined(bytes, separator))))
        .collect()
}

fn in_hex(bytes: &[u8]) -> Vec<Form> {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    ["", " ", ":", "-", ", ", ",", ", 0x", ",0x", " 0x"]
        .into_iter()
        .map(|separator| form("hex", Edge::Free, pairs.join(separator)))
        .collect()
}

/// Bytes as they are, and as languages escape them in strings.
fn escaped(bytes: &[u8]) -> Vec<Form> {
    let each = |write: fn(u8) -> String| bytes.iter().map(|byte| write(*byte)).collect::<String>();
    // As protobuf's text and C write them: what can be printed stands for itself.
    let octal = each(|byte| match byte {
        b'\n' => "\\n".to_owned(),
        b'\r' => "\\r".to_owned(),
        b'\t' => "\\t".to_owned(),
        b'"' | b'\'' | b'\\' => format!("\\{}", byte as char),
        0x20..0x7f => (byte as char).to_string(),
        _ => format!("\\{byte:03o}"),
    });
    vec![
        exact("raw bytes", Edge::Free, bytes),
        exact("escaped", Edge::Free, bytes.escape_ascii().to_string()),
        exact(
            "escaped, short zero",
            Edge::Free,
            bytes.escape_ascii().to_string().replace("\\x00", "\\0"),
        ),
        form("escaped, all", Edge::Free, each(|byte| format!("\\x{byte:02x}"))),
        exact("escaped, octal", Edge::Free, octal),
        form("escaped, all octal", Edge::Free, each(|byte| format!("\\{byte:03o}"))),
        form("escaped, JSON", Edge::Free, each(|byte| format!("\\u{byte:04x}"))),
    ]
}

/// Base64 and base32, also in the middle of something longer that is encoded as one.
fn encoded(bytes: &[u8]) -> Vec<Form> {
    let mut forms = Vec::new();
    let mut add = |name, encoding: &Encoding, bits: usize, period: usize, is_exact| {
        for before in 0..period {
            let mut longer = vec![0; before];
            longer.extend(bytes);
            let text = encoding.encode(&longer);
            // Letters that bytes before or behind take part in are left out.
            let inner = &text[(before * 8).div_ceil(bits)..longer.len() * 8 / bits];
            let it = Form { exact: is_exact, ..form(name, Edge::Free, inner) };
            if !forms.iter().any(|known: &Form| known.bytes == it.bytes) {
                forms.push(it);
            }
        }
    };
    add("base64", &BASE64_NOPAD, 6, 3, true);
    add("base64 of URLs", &BASE64URL_NOPAD, 6, 3, true);
    add("base32", &BASE32_NOPAD, 5, 5, false);
    forms
}

/// ZeroMQ's text of keys; whole groups of four bytes only.
fn z85(bytes: &[u8]) -> Option<String> {
    const DIGITS: &[u8; 85] =
        b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
    let (groups, rest) = bytes.as_chunks::<4>();
    let text = groups.iter().flat_map(|group| {
        let number = u32::from_be_bytes(*group);
        [52_200_625, 614_125, 7_225, 85, 1]
            .map(|power| char::from(DIGITS[(number / power % 85) as usize]))
    });
    rest.is_empty().then(|| text.collect())
}
