//! Writes small databases in the MaxMind format.

use std::net::IpAddr;

/// A value of a database.
pub(crate) enum Value<'a> {
    Text(&'a str),
    Number(u32),
    Map(Vec<(&'a str, Value<'a>)>),
}

fn encode(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Text(text) => {
            out.push(2 << 5 | u8::try_from(text.len()).unwrap());
            out.extend_from_slice(text.as_bytes());
        }
        Value::Number(number) => {
            out.push(6 << 5 | 4);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Map(entries) => {
            out.push(7 << 5 | entries.len() as u8);
            for (name, value) in entries {
                encode(&Value::Text(name), out);
                encode(value, out);
            }
        }
    }
}

/// A child of a node that has none yet.
const NOBODY: u32 = u32::MAX;
/// Set in a child that is data.
const DATA: u32 = 1 << 31;

/// A database that says `value` of each network.
pub(crate) fn database(networks: &[(&str, Value<'_>)]) -> Vec<u8> {
    let mut nodes = vec![[NOBODY; 2]];
    let mut data = Vec::new();
    for (network, value) in networks {
        let (address, length) = network.split_once('/').unwrap();
        let length: u32 = length.parse().unwrap();
        let (bits, length) = match address.parse().unwrap() {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()), 96 + length),
            IpAddr::V6(v6) => (v6.to_bits(), length),
        };
        let offset = u32::try_from(data.len()).unwrap();
        encode(value, &mut data);
        let mut node = 0;
        for at in 0..length {
            let side = (bits >> (127 - at) & 1) as usize;
            if at + 1 == length {
                nodes[node][side] = DATA | offset;
            } else {
                if nodes[node][side] == NOBODY {
                    nodes[node][side] = u32::try_from(nodes.len()).unwrap();
                    nodes.push([NOBODY; 2]);
                }
                node = nodes[node][side] as usize;
            }
        }
    }
    let count = u32::try_from(nodes.len()).unwrap();
    let mut out = Vec::new();
    for child in nodes.into_iter().flatten() {
        let record = match child {
            NOBODY => count,
            child if child & DATA != 0 => count + 16 + (child & !DATA),
            child => child,
        };
        out.extend_from_slice(&record.to_be_bytes());
    }
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(&data);
    out.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    metadata(count, &mut out);
    out
}

fn metadata(count: u32, out: &mut Vec<u8>) {
    out.push(7 << 5 | 9);
    let mut entry = |name: &str, value: &[u8]| {
        encode(&Value::Text(name), out);
        out.extend_from_slice(value);
    };
    // A control byte for a short number of two bytes, and the number.
    let short = |number: u16| [5 << 5 | 2, (number >> 8) as u8, number as u8];
    let mut nodes = vec![6 << 5 | 4];
    nodes.extend_from_slice(&count.to_be_bytes());
    entry("node_count", &nodes);
    entry("record_size", &short(32));
    entry("ip_version", &short(6));
    entry("binary_format_major_version", &short(2));
    entry("binary_format_minor_version", &short(0));
    entry("database_type", b"\x44Test");
    entry("build_epoch", &[1, 2, 1]);
    entry("languages", &[0, 4]);
    entry("description", &[7 << 5]);
}
