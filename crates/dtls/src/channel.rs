//! The two directions of a session under its keys: what remains after the handshake.

use crate::flight::Flight;
use crate::message::FINISHED;
use crate::protection::{Exhausted, OpeningKey, PREFIX_LEN, SealingKey};
use crate::record::{ALERT, Header};
use crate::refusal::Refusal;
use crate::replay::Window;
use std::collections::VecDeque;

/// Level of an alert that ends a connection.
const FATAL: u8 = 2;
const WARNING: u8 = 1;
const CLOSE_NOTIFY: u8 = 0;

/// What an authentic alert means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Alert {
    CloseNotify,
    Fatal(u8),
    /// Nothing changes.
    Other,
}

impl Alert {
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        match *payload {
            [_, CLOSE_NOTIFY] => Ok(Self::CloseNotify),
            [FATAL, description] => Ok(Self::Fatal(description)),
            [WARNING, _] => Ok(Self::Other),
            _ => Err(Refusal::Malformed),
        }
    }
}

/// What a server sends again while its client has not seen it.
#[derive(Debug)]
pub(crate) struct LastFlight {
    pub(crate) verify_data: [u8; 12],
    /// Number of the Finished message.
    pub(crate) sequence: u16,
    /// Number of the next record in the clear.
    pub(crate) number: u64,
}

/// Keys and record numbers of both directions.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) opening: OpeningKey,
    pub(crate) sealing: SealingKey,
    window: Window,
    pub(crate) last_flight: Option<LastFlight>,
}

impl Channel {
    pub(crate) fn new(opening: OpeningKey, sealing: SealingKey) -> Self {
        Self { opening, sealing, window: Window::default(), last_flight: None }
    }

    /// The payload of a record of epoch 1, which is received at most once.
    pub(crate) fn open<'a>(
        &mut self,
        header: Header,
        body: &'a mut [u8],
    ) -> Result<&'a mut [u8], Refusal> {
        if header.epoch != 1 {
            return Err(Refusal::Epoch);
        }
        if !self.window.admits(header.number) {
            return Err(Refusal::Replayed);
        }
        let payload = self.opening.open(header, body).ok_or(Refusal::Mac)?;
        self.window.receive(header.number);
        Ok(payload)
    }

    /// A datagram with the alert that ends a connection in good order.
    pub(crate) fn close_notify(&mut self) -> Result<Vec<u8>, Exhausted> {
        let mut out = vec![0; PREFIX_LEN];
        out.extend_from_slice(&[WARNING, CLOSE_NOTIFY]);
        self.sealing.seal(ALERT, &mut out, 0).map(|()| out)
    }

    /// Whether the payload of a handshake record is the Finished of a client that repeats it.
    pub(crate) fn repeats_finished(&self, payload: &[u8]) -> bool {
        self.last_flight.is_some() && payload.first() == Some(&FINISHED)
    }

    /// Sends a server's last flight again, for a client that repeats its Finished.
    pub(crate) fn repeat_last_flight(&mut self, outbox: &mut VecDeque<Vec<u8>>) {
        let Some(last) = &mut self.last_flight else { return };
        let mut flight = Flight::default();
        flight.change_cipher_spec();
        flight.message(FINISHED, last.sequence, last.verify_data.to_vec());
        flight.transmit(0, &mut last.number, Some(&mut self.sealing), outbox);
    }
}
