//! What becomes of a segment of a followed flow (`spec/detector.md` 5, 6 and 20, "Coverage").

use crate::clock::Millis;
use crate::flows::{Flow, Stage};
use crate::straddling::{self, Place, Progress};
use crate::test_strings;
use crate::worker::{Endpoints, Exits, Packet, TestString, Worker};
use packet::Tcp;

/// Start of a client segment that belongs to TLS 1.3: a ChangeCipherSpec record and then
/// application data, which TLS 1.2 never sends there (`spec/detector.md` 16.4).
const TLS13_START: [u8; 7] = [0x14, 0x03, 0x03, 0x00, 0x01, 0x01, 0x17];

impl<E: Exits> Worker<E> {
    /// Looks at a segment of `flow`, which has come as far as `stage`. The first application record
    /// is checked as it lies in its segment, as the reference does; when its rest has yet to come, it
    /// is checked again then.
    pub(crate) fn followed<P: Packet>(
        &mut self,
        ip: &P,
        tcp: &Tcp<'_>,
        flow: &Flow,
        stage: Stage,
        now: Millis,
    ) {
        let payload = tcp.payload();
        if payload.is_empty() {
            return;
        }
        let mut after = stage;
        if !stage.is_checked() {
            if tag::is_application_data(payload) {
                self.shared.counters.candidates.add(1);
                if payload.len() < tag::MIN_PAYLOAD {
                    self.shared.counters.candidates_short.add(1);
                } else {
                    self.check(ip, payload);
                }
                after = stage.checked();
            } else if payload.starts_with(&TLS13_START) {
                self.shared.counters.tls13.add(1);
                return self.flows.stop(flow, now);
            } else if test_strings::is_tcp(payload) {
                let source = (ip.source(), tcp.source_port()).into();
                let destination = (ip.destination(), tcp.destination_port()).into();
                return self.exits.test_string(TestString::Tcp, source, destination);
            }
        }
        after = after.with_kept(match stage.kept() {
            Some(place) => self.rest(ip, tcp, flow, place),
            None if !stage.is_checked() && straddling::straddles(payload) => {
                self.start(tcp, flow, now)
            }
            None => None,
        });
        if after.is_checked() && after.kept().is_none() {
            self.flows.stop(flow, now);
        } else if after != stage {
            self.flows.set_stage(flow, after, now);
        }
    }

    /// Queues what may carry a tag.
    fn check<P: Packet>(&mut self, ip: &P, payload: &[u8]) {
        let flow = Endpoints { client: ip.source(), decoy: ip.destination() };
        if !self.exits.candidate(flow, payload) {
            self.shared.counters.candidates_dropped.add(1);
        }
    }

    /// Keeps the start of a record whose rest has yet to come; where it is kept.
    fn start(&mut self, tcp: &Tcp<'_>, flow: &Flow, now: Millis) -> Option<Place> {
        let place = self.straddling.keep(flow, tcp.sequence(), tcp.payload(), now)?;
        self.shared.counters.straddling.add(1);
        Some(place)
    }

    /// Takes what the segment has of the record at `place`; where that is kept on, if more has to
    /// come.
    fn rest<P: Packet>(
        &mut self,
        ip: &P,
        tcp: &Tcp<'_>,
        flow: &Flow,
        place: Place,
    ) -> Option<Place> {
        match self.straddling.add(place, flow, tcp.sequence(), tcp.payload()) {
            Progress::Waiting => Some(place),
            Progress::TooMany | Progress::Lost => None,
            Progress::Complete(record) => {
                let flow = Endpoints { client: ip.source(), decoy: ip.destination() };
                self.shared.counters.joined.add(1);
                if record.len() >= tag::MIN_PAYLOAD && !self.exits.candidate(flow, record) {
                    self.shared.counters.candidates_dropped.add(1);
                }
                None
            }
        }
    }
}
