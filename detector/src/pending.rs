//! First packets held for sessions that are about to be announced (`spec/channels.md` 1, *Winning
//! the race for the first packet*).

use crate::clock::Millis;
use crate::sessions::{Match, PackedKey, Sessions};
use parking_lot::Mutex;
use session::SessionKey;

/// Keys that may be pending at one time.
const MAX_PENDING: usize = 4096;
/// Longest time that a packet is held.
const MAX_DEADLINE: u64 = 1_000;
/// Longest packet that is held; a SYN or a first datagram is far shorter.
const MAX_PACKET: usize = 2048;

/// A packet that waits for its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Index of the worker that saw it.
    pub worker: usize,
    /// The IP packet.
    pub packet: Vec<u8>,
}

#[derive(Debug)]
struct Slot {
    key: PackedKey,
    deadline: Millis,
    held: Option<Held>,
}

/// The pending keys.
#[derive(Debug, Default)]
pub struct Pending {
    slots: Mutex<Vec<Slot>>,
}

/// What became of a packet with a pending key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is held.
    Held,
    /// The session was announced meanwhile; forward it.
    Forward,
    /// Another packet is held already, or the key is gone.
    Ignored,
}

impl Pending {
    /// Notes `key` in both tables for at most `deadline_ms`.
    pub fn expect(&self, sessions: &Sessions, key: &SessionKey, deadline_ms: u64, now: Millis) {
        let deadline = Millis(now.0 + deadline_ms.min(MAX_DEADLINE));
        let packed = PackedKey::from(key);
        let mut slots = self.slots.lock();
        slots.retain(|slot| slot.deadline > now);
        let room = slots.len() < MAX_PENDING;
        match slots.iter_mut().find(|slot| slot.key == packed) {
            Some(slot) => slot.deadline = slot.deadline.max(deadline),
            None if room => {
                slots.push(Slot { key: packed, deadline, held: None });
            }
            None => return,
        }
        sessions.expect(key, deadline);
    }

    /// Holds `packet`, the first one with a pending key. The session table is asked again under
    /// the lock under which [`take`](Self::take) empties a slot, so a packet cannot be left behind.
    pub fn hold(
        &self,
        sessions: &Sessions,
        key: PackedKey,
        worker: usize,
        packet: &[u8],
        now: Millis,
    ) -> Outcome {
        if packet.len() > MAX_PACKET {
            return Outcome::Ignored;
        }
        let mut slots = self.slots.lock();
        if sessions.lookup(key, now) == Match::Live {
            return Outcome::Forward;
        }
        match slots.iter_mut().find(|slot| slot.key == key && slot.deadline > now) {
            Some(slot) if slot.held.is_none() => {
                slot.held = Some(Held { worker, packet: packet.to_vec() });
                Outcome::Held
            }
            _ => Outcome::Ignored,
        }
    }

    /// The packet held for `key`, whose session is in the table by now.
    pub fn take(&self, key: &SessionKey) -> Option<Held> {
        let packed = PackedKey::from(key);
        let mut slots = self.slots.lock();
        let at = slots.iter().position(|slot| slot.key == packed)?;
        slots.swap_remove(at).held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use session::Proto;
    use std::time::Duration;

    fn key() -> SessionKey {
        SessionKey {
            proto: Proto::Tcp,
            phantom: "192.122.190.7".parse().unwrap(),
            client: Some([203, 0, 113, 1].into()),
            dst_port: 443,
        }
    }

    #[test]
    fn one_packet_is_held_until_the_session_comes() {
        let (sessions, pending) = (Sessions::new(), Pending::default());
        pending.expect(&sessions, &key(), 700, Millis(0));
        let packed = PackedKey::from(&key());
        assert_eq!(sessions.lookup(packed, Millis(1)), Match::Pending);
        let hold = |now| pending.hold(&sessions, packed, 3, b"syn", now);
        assert_eq!(hold(Millis(1)), Outcome::Held);
        assert_eq!(hold(Millis(2)), Outcome::Ignored, "one packet only");
        sessions.upsert(&key(), Duration::from_secs(1), Millis(3));
        assert_eq!(pending.take(&key()), Some(Held { worker: 3, packet: b"syn".to_vec() }));
        assert_eq!(hold(Millis(4)), Outcome::Forward);
        assert_eq!(pending.take(&key()), None);
    }

    #[test]
    fn deadlines_end_the_wait() {
        let (sessions, pending) = (Sessions::new(), Pending::default());
        pending.expect(&sessions, &key(), 60_000, Millis(0));
        let packed = PackedKey::from(&key());
        assert_eq!(pending.hold(&sessions, packed, 0, b"syn", Millis(1_000)), Outcome::Ignored);
        assert_eq!(sessions.lookup(packed, Millis(1_000)), Match::None);
        pending.expect(&sessions, &key(), 700, Millis(2_000));
        let long = vec![0; MAX_PACKET + 1];
        assert_eq!(pending.hold(&sessions, packed, 0, &long, Millis(2_001)), Outcome::Ignored);
    }

    #[test]
    fn the_table_is_bounded() {
        let (sessions, pending) = (Sessions::new(), Pending::default());
        for port in 0..5000 {
            pending.expect(&sessions, &SessionKey { dst_port: port, ..key() }, 700, Millis(0));
        }
        assert_eq!(pending.slots.lock().len(), MAX_PENDING);
        pending.expect(&sessions, &key(), 700, Millis(701));
        assert_eq!(pending.slots.lock().len(), 1);
    }
}
