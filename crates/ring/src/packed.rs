//! A queue on its way from one process to its successor.

use std::os::fd::OwnedFd;

use crate::abi::MAX_PRODUCERS;
use crate::consumer::Attachment;
use crate::error::AttachError;

/// An attached queue, as it is passed to another process: the connection to the balancer, the two
/// regions, and how far the rings were read.
#[derive(Debug)]
pub struct Packed {
    /// Connection, frames region, queue region.
    pub descriptors: [OwnedFd; 3],
    /// How far the rings were read; opaque.
    pub state: Vec<u8>,
}

/// What [`Packed::state`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) slots: u32,
    pub(crate) generation: u64,
    /// Consumed and returned, of each ring.
    pub(crate) indices: Vec<(u64, u64)>,
}

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.slots.to_le_bytes().to_vec();
        out.extend(self.generation.to_le_bytes());
        for (consumed, returned) in &self.indices {
            out.extend(consumed.to_le_bytes());
            out.extend(returned.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (slots, rest) = bytes.split_first_chunk::<4>()?;
        let (generation, rest) = rest.split_first_chunk::<8>()?;
        let word = |bytes: &[u8]| bytes.first_chunk::<8>().map(|word| u64::from_le_bytes(*word));
        let pairs = rest.chunks(16).map(|pair| Some((word(pair)?, word(pair.get(8..)?)?)));
        let indices: Vec<(u64, u64)> = pairs.collect::<Option<_>>()?;
        let state = Self {
            slots: u32::from_le_bytes(*slots),
            generation: u64::from_le_bytes(*generation),
            indices,
        };
        (1..=MAX_PRODUCERS).contains(&state.indices.len()).then_some(state)
    }
}

impl Attachment {
    pub(crate) fn unpack(packed: Packed) -> Result<Self, AttachError> {
        let Packed { descriptors: [socket, frames, queue], state } = packed;
        let state = State::decode(&state).ok_or(AttachError::Protocol("no state of a queue"))?;
        Self::on(socket, [frames, queue], state.slots, state.generation, &state.indices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(state) = State::decode(&bytes) {
                prop_assert_eq!(State::decode(&state.encode()), Some(state));
            }
        }
    }
}
