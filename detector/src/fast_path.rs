//! Which flows of sessions pass in the kernel (`spec/ingest.md` 9.3).
//!
//! The first packets of a flow go by the worker and its tun device, which makes conntrack know the flow. When
//! [`MANY`] have, the worker enters it into the balancer's table, and the others pass without coming here. What the
//! worker then no longer sees, it learns from the table: a flow that is seen there keeps its session alive as a packet
//! would, and one whose session or sender may not be forwarded any more is taken out.

mod link;

pub(crate) use link::follow;

use crate::clock::Millis;
use crate::counters::Counters;
use crate::filter::Filter;
use crate::sessions::{Match, PackedKey, Sessions};
use arc_swap::ArcSwapOption;
use shm::fast_path::{Entered, FlowKey, IDLE, Slot, Table};
use std::num::NonZeroU64;
use std::sync::Arc;

/// The table that is to be used now, if any.
pub type Tables = Arc<ArcSwapOption<Table>>;

/// Packets of a flow after which it passes.
const MANY: u32 = 32;
/// Flows that are counted at one time; a flow makes room for another of its place when that has more packets.
const COUNTED: usize = 4096;
/// Flows that pass for one worker at most.
const FLOWS: usize = 16_384;
/// Calls of [`FastFlows::clean`] in which every flow is visited once.
const ROUND: usize = 10;

/// A flow that has not passed yet.
#[derive(Debug, Clone, Copy)]
struct Count {
    flow: FlowKey,
    packets: u32,
}

/// A flow that passes.
#[derive(Debug)]
struct Passing {
    slot: Slot,
    flow: FlowKey,
    session: PackedKey,
    /// When a packet of it was last seen, as far as the session was told.
    seen: u64,
}

/// The flows of one worker.
#[derive(Debug)]
pub struct FastFlows {
    tables: Tables,
    state: Option<State>,
}

/// What there is while there is a table.
#[derive(Debug)]
struct State {
    table: Arc<Table>,
    /// Tells this worker from others.
    owner: NonZeroU64,
    counts: Box<[Option<Count>]>,
    passing: Vec<Passing>,
    /// The flow that is visited next.
    next: usize,
    entered: u64,
    refused: u64,
}

impl FastFlows {
    /// No flow yet, for the table that `tables` will have.
    pub const fn new(tables: Tables) -> Self {
        Self { tables, state: None }
    }

    /// Notes that a packet of `session` goes to the host by this worker.
    #[inline]
    pub(crate) fn forwarded(&mut self, frame: &[u8], session: PackedKey) {
        if let Some(state) = &mut self.state
            && let Some(flow) = FlowKey::of(frame)
            && state.is_large(flow)
        {
            state.enter(flow, session);
        }
    }

    /// Visits a part of the flows that pass, and takes the table that there is now; to be called every 100 ms.
    pub(crate) fn clean(
        &mut self,
        sessions: &Sessions,
        filter: &Filter,
        counters: &Counters,
        now: Millis,
    ) {
        let table = self.tables.load_full();
        if table.as_ref().map(Arc::as_ptr) != self.state.as_ref().map(|s| Arc::as_ptr(&s.table)) {
            // Entries in the former table end by themselves.
            self.state = table.map(State::new);
        }
        let Some(state) = &mut self.state else { return counters.passing.set(0) };
        let time = shm::fast_path::now();
        for _ in 0..state.passing.len().div_ceil(ROUND) {
            state.visit(sessions, filter, now, time);
        }
        counters.passing.set(state.passing.len() as u64);
        counters.passing_entered.add(std::mem::take(&mut state.entered));
        counters.passing_refused.add(std::mem::take(&mut state.refused));
    }
}

impl State {
    fn new(table: Arc<Table>) -> Self {
        Self {
            table,
            owner: rand::random::<NonZeroU64>(),
            counts: vec![None; COUNTED].into(),
            passing: Vec::with_capacity(FLOWS),
            next: 0,
            entered: 0,
            refused: 0,
        }
    }

    /// Counts a packet; whether its flow has had many.
    fn is_large(&mut self, flow: FlowKey) -> bool {
        let place = &mut self.counts[flow.bucket() as usize % COUNTED];
        match place {
            Some(count) if count.flow == flow => {
                count.packets = (count.packets + 1).min(MANY);
                count.packets == MANY
            }
            // A large flow passes and has none here any more, so that others displace it.
            Some(count) if count.packets > 1 => {
                count.packets -= 1;
                false
            }
            _ => {
                *place = Some(Count { flow, packets: 1 });
                false
            }
        }
    }

    fn enter(&mut self, flow: FlowKey, session: PackedKey) {
        if self.passing.len() == FLOWS {
            self.refused += 1;
            return;
        }
        let now = shm::fast_path::now();
        match self.table.enter(&flow, self.owner, now) {
            Entered::Fresh(slot) => {
                self.passing.push(Passing { slot, flow, session, seen: now });
                self.entered += 1;
            }
            Entered::Renewed(_) => {}
            Entered::Full => self.refused += 1,
        }
    }

    /// Looks at the next flow: `time` is that of the table, and `now` the same moment on the worker's clock.
    fn visit(&mut self, sessions: &Sessions, filter: &Filter, now: Millis, time: u64) {
        if self.next >= self.passing.len() {
            self.next = 0;
        }
        let Some(passing) = self.passing.get_mut(self.next) else { return };
        let stays = match self.table.times(passing.slot, self.owner) {
            // Another worker has the slot.
            None => false,
            Some((seen, _)) if seen <= passing.seen => !is_over(seen, time),
            Some((seen, _)) => {
                passing.seen = seen;
                let then = Millis(now.0.saturating_sub(time.saturating_sub(seen) / 1_000_000));
                !is_over(seen, time)
                    && !filter.contains(passing.flow.source())
                    && sessions.lookup(passing.session, then) == Match::Live
            }
        };
        if stays {
            self.next += 1;
        } else {
            self.table.remove(passing.slot, self.owner);
            self.passing.swap_remove(self.next);
        }
    }
}

/// Whether the last packet is so long ago that the next does not pass.
fn is_over(seen: u64, time: u64) -> bool {
    seen.saturating_add(IDLE.as_nanos() as u64) < time
}

#[cfg(test)]
mod tests {
    use super::*;
    use session::{Proto, SessionKey};
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::time::Duration;

    /// Bytes of a flow in the table, and offsets of its times and owner there.
    const SLOT: u64 = 64;
    const UNTIL: u64 = 40;
    const SEEN: u64 = 48;
    const OWNER: u64 = 56;

    /// A table in a file, which plays the kernel.
    struct Kernel(File);

    impl Kernel {
        fn new() -> (Self, Tables) {
            let file = tempfile::tempfile().unwrap();
            file.set_len(Table::LEN as u64).unwrap();
            let table = Table::map(&file).unwrap();
            (Self(file), Arc::new(ArcSwapOption::from_pointee(table)))
        }

        fn word(&self, at: u64) -> u64 {
            let mut word = [0; 8];
            self.0.read_exact_at(&mut word, at).unwrap();
            u64::from_ne_bytes(word)
        }

        /// Where the flows are that pass.
        fn passing(&self) -> Vec<u64> {
            let slots = (0..Table::LEN as u64).step_by(SLOT as usize);
            let passes = |at: &u64| self.word(at + OWNER) != 0 && self.word(at + UNTIL) != 0;
            slots.filter(passes).collect()
        }

        /// The flow at this place was last seen then.
        fn see(&self, at: u64, time: u64) {
            self.0.write_all_at(&time.to_ne_bytes(), at + SEEN).unwrap();
        }
    }

    fn frame(port: u16, flags: u8) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame.extend([203, 0, 113, 9, 192, 122, 190, 5]);
        frame.extend(port.to_be_bytes());
        frame.extend([1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 4, 0, 0, 0, 0, 0]);
        frame
    }

    fn key() -> SessionKey {
        SessionKey {
            proto: Proto::Tcp,
            phantom: "192.122.190.5".parse().unwrap(),
            client: Some("203.0.113.9".parse().unwrap()),
            dst_port: 443,
        }
    }

    /// Flows of a worker with one session of 60 s at time 0, and a table that it has seen.
    fn begin(tables: Tables) -> (FastFlows, Sessions, Counters) {
        let (sessions, counters) = (Sessions::new(), Counters::default());
        sessions.upsert(&key(), Duration::from_secs(60), Millis(0));
        let mut flows = FastFlows::new(tables);
        flows.clean(&sessions, &Filter::default(), &counters, Millis(0));
        (flows, sessions, counters)
    }

    /// Calls until every flow was visited.
    fn round(flows: &mut FastFlows, of: (&Sessions, &Filter, &Counters), now: Millis) {
        (0..ROUND).for_each(|_| flows.clean(of.0, of.1, of.2, now));
    }

    fn send(flows: &mut FastFlows, port: u16, flags: u8, count: u32) {
        (0..count).for_each(|_| flows.forwarded(&frame(port, flags), PackedKey::from(&key())));
    }

    #[test]
    fn a_flow_passes_after_many_packets() {
        let (kernel, tables) = Kernel::new();
        let (mut flows, sessions, counters) = begin(tables);
        send(&mut flows, 1000, 0x10, MANY - 1);
        send(&mut flows, 1000, 0x02, MANY);
        assert!(kernel.passing().is_empty(), "what begins a connection does not count");
        send(&mut flows, 1000, 0x10, 1);
        assert_eq!(kernel.passing().len(), 1);
        send(&mut flows, 1001, 0x10, MANY);
        // Those under way meanwhile are the same flows.
        send(&mut flows, 1000, 0x10, 3);
        assert_eq!(kernel.passing().len(), 2);
        round(&mut flows, (&sessions, &Filter::default(), &counters), Millis(100));
        let of = counters.snapshot();
        assert_eq!((of.passing, of.passing_entered, of.passing_refused), (2, 2, 0));
    }

    #[test]
    fn what_passes_keeps_its_session_alive() {
        let (kernel, tables) = Kernel::new();
        let (mut flows, sessions, counters) = begin(tables);
        let of = (&sessions, &Filter::default(), &counters);
        send(&mut flows, 1000, 0x10, MANY);
        let at = kernel.passing()[0];
        // Nobody sees it: the session is as it was.
        round(&mut flows, of, Millis(50_000));
        sessions.sweep(Millis(59_000));
        kernel.see(at, shm::fast_path::now() + 1_000_000_000);
        round(&mut flows, of, Millis(59_000));
        sessions.sweep(Millis(358_999));
        assert_eq!(sessions.len(), 1, "300 s from then on");
        sessions.sweep(Millis(359_000));
        assert_eq!(sessions.len(), 0);
        // The session is gone, so the flow ends with the next packet.
        assert_eq!(kernel.passing(), [at]);
        kernel.see(at, shm::fast_path::now() + 2_000_000_000);
        round(&mut flows, of, Millis(360_500));
        assert!(kernel.passing().is_empty());
        assert_eq!(counters.passing.value(), 0);
    }

    #[test]
    fn a_flow_ends_when_it_is_silent_or_its_sender_is_listed() {
        let (kernel, tables) = Kernel::new();
        let (mut flows, sessions, counters) = begin(tables);
        send(&mut flows, 1000, 0x10, MANY);
        send(&mut flows, 1001, 0x10, MANY);
        let [one, other] = kernel.passing()[..] else { panic!("two flows") };
        kernel.see(one, 1);
        round(&mut flows, (&sessions, &Filter::default(), &counters), Millis(0));
        assert_eq!(kernel.passing(), [other]);
        let listed = Filter::new(vec!["203.0.113.0/24".parse().unwrap()], &[]);
        kernel.see(other, shm::fast_path::now() + 1_000_000_000);
        round(&mut flows, (&sessions, &listed, &counters), Millis(0));
        assert!(kernel.passing().is_empty());
    }

    #[test]
    fn another_table_or_none() {
        let (kernel, tables) = Kernel::new();
        let (mut flows, sessions, counters) = begin(Arc::clone(&tables));
        let of = (&sessions, &Filter::default(), &counters);
        send(&mut flows, 1000, 0x10, MANY);
        tables.store(None);
        round(&mut flows, of, Millis(0));
        assert_eq!(counters.passing.value(), 0);
        send(&mut flows, 1001, 0x10, 2 * MANY);
        assert_eq!(kernel.passing().len(), 1, "the former ends by itself");
        let (fresh, other) = Kernel::new();
        tables.store(other.load_full());
        round(&mut flows, of, Millis(0));
        send(&mut flows, 1000, 0x10, MANY);
        assert_eq!((fresh.passing().len(), kernel.passing().len()), (1, 1));
    }

    #[test]
    fn a_worker_has_a_bound() {
        let (_kernel, tables) = Kernel::new();
        let (mut flows, sessions, counters) = begin(tables);
        let of = (&sessions, &Filter::default(), &counters);
        for client in 0..FLOWS as u32 + 2_000 {
            let mut frame = frame(1000, 0x10);
            frame[26..30].copy_from_slice(&client.to_be_bytes());
            (0..2 * MANY).for_each(|_| flows.forwarded(&frame, PackedKey::from(&key())));
        }
        flows.clean(of.0, of.1, of.2, Millis(0));
        let counted = counters.snapshot();
        assert!(counted.passing <= FLOWS as u64 && counted.passing > FLOWS as u64 * 9 / 10);
        assert!(counted.passing_refused >= 2_000);
    }
}
