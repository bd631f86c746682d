//! A registration as it is handed to a successor: the message that brought it, and what has happened since.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::registration::Registration;

/// One family of one registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The IPv6 family.
    pub v6: bool,
    /// Covert, when it is valid.
    pub covert: Option<SocketAddr>,
    /// A connection has been matched to it.
    pub used: bool,
    /// Time since it was received.
    pub age: Duration,
    /// The message that brought it.
    pub message: Bytes,
}

impl Record {
    /// What a successor has to know of `registration`.
    pub fn of(registration: &Registration) -> Self {
        Self {
            v6: registration.phantom.is_ipv6(),
            covert: registration.covert().filter(|_| registration.is_valid()),
            used: registration.is_used(),
            age: Instant::now().saturating_duration_since(registration.received),
            message: registration.message.clone(),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let covert = self.covert.map(|covert| covert.to_string()).unwrap_or_default();
        out.push(u8::from(self.v6) | u8::from(self.used) << 1);
        out.extend(u64::try_from(self.age.as_millis()).unwrap_or(u64::MAX).to_be_bytes());
        // An address has less than 256 letters.
        out.push(covert.len() as u8);
        out.extend(covert.as_bytes());
        out.extend(u32::try_from(self.message.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(&self.message);
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let flags = take(bytes, 1)?[0];
        let age = u64::from_be_bytes(take(bytes, 8)?.try_into().ok()?);
        let length = usize::from(take(bytes, 1)?[0]);
        let covert = std::str::from_utf8(take(bytes, length)?).ok()?;
        let covert = if covert.is_empty() { None } else { Some(covert.parse().ok()?) };
        let length = u32::from_be_bytes(take(bytes, 4)?.try_into().ok()?);
        let message = Bytes::copy_from_slice(take(bytes, usize::try_from(length).ok()?)?);
        let age = Duration::from_millis(age);
        Some(Self { v6: flags & 1 != 0, used: flags & 2 != 0, covert, age, message })
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

/// Messages full of records.
pub struct Records;

impl Records {
    /// Packs `records` into messages of at most `max` bytes; one that fits no message is left out, and its
    /// client registers again.
    pub fn encode(records: &[Record], max: usize) -> Vec<Vec<u8>> {
        let mut messages = vec![Vec::new()];
        for record in records {
            let mut one = Vec::new();
            record.encode(&mut one);
            if one.len() > max {
                continue;
            }
            match messages.last_mut() {
                Some(last) if last.len() + one.len() <= max => last.append(&mut one),
                _ => messages.push(one),
            }
        }
        messages.retain(|message| !message.is_empty());
        messages
    }

    /// Takes one message apart; `None` when it is none.
    pub fn decode(mut message: &[u8]) -> Option<Vec<Record>> {
        let mut records = Vec::new();
        while !message.is_empty() {
            records.push(Record::decode(&mut message)?);
        }
        Some(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_survive_in_messages_of_any_size() {
        let record = |n: u8| Record {
            v6: n.is_multiple_of(2),
            covert: (!n.is_multiple_of(3)).then(|| SocketAddr::from(([192, 0, 2, n], 443))),
            used: n.is_multiple_of(5),
            age: Duration::from_millis(u64::from(n) * 1000),
            message: vec![n; usize::from(n)].into(),
        };
        let records: Vec<Record> = (0..200).map(record).collect();
        for max in [300, 1000, MAX] {
            let messages = Records::encode(&records, max);
            assert!(messages.iter().all(|message| message.len() <= max));
            let back: Vec<Record> =
                messages.iter().flat_map(|message| Records::decode(message).unwrap()).collect();
            assert_eq!(back, records);
        }
    }

    const MAX: usize = handover::MAX_MESSAGE;

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Records::decode(&bytes);
        }
    }
}
