//! Who decides over registrations while one process follows another.
//!
//! A registration that waits for a probe may become valid after the successor was told of all of them and
//! before it decides alone. Detectors hear of it and the client comes, but it is the successor who meets
//! the client: so what was decided in between is handed over too, and nothing is decided afterwards.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::covert::Resolver;
use crate::liveness::Dialer;
use crate::pipeline::{Pipeline, Waiting};
use crate::policy::Policy;
use crate::record::Record;
use crate::registration::Registration;
use crate::store::Tracked;

#[derive(Debug, Default)]
enum Phase {
    /// There is no successor.
    #[default]
    Alone,
    /// A successor was told of the others; these have become valid since.
    Watched(Vec<Arc<Registration>>),
    /// The successor decides.
    Left,
}

/// The right to make registrations valid.
#[derive(Debug, Default)]
pub struct Decisions(Mutex<Phase>);

impl Decisions {
    /// Runs `decide`, which makes `registration` valid, unless a successor decides.
    pub(crate) fn make(&self, registration: &Arc<Registration>, decide: impl FnOnce() -> bool) {
        // Held until detectors have been told, so that nothing is decided behind `leave`.
        let mut phase = self.0.lock();
        if matches!(*phase, Phase::Left) {
            return;
        }
        if decide()
            && let Phase::Watched(made) = &mut *phase
        {
            made.push(Arc::clone(registration));
        }
    }

    /// Remembers what becomes valid from now on.
    pub fn watch(&self) {
        *self.0.lock() = Phase::Watched(Vec::new());
    }

    /// Leaves all further decisions to the successor; returns what has become valid since [`watch`].
    ///
    /// [`watch`]: Self::watch
    pub fn leave(&self) -> Vec<Arc<Registration>> {
        match std::mem::replace(&mut *self.0.lock(), Phase::Left) {
            Phase::Watched(made) => made,
            Phase::Alone | Phase::Left => Vec::new(),
        }
    }

    /// Decides alone again: the successor broke off.
    pub fn resume(&self) {
        *self.0.lock() = Phase::Alone;
    }
}

impl<D: Dialer, R: Resolver> Pipeline<D, R> {
    /// Takes a registration over from a predecessor. A valid one is valid at once; what the predecessor had
    /// not decided over begins again, which is for [`Pipeline::finish`].
    pub fn resume(&self, record: &Record) -> Option<Waiting> {
        let Some(covert) = record.covert else { return self.begin(&record.message) };
        let policy = self.policy.load();
        let Tracked::New(registration) = self.store.track(self.read(record, &policy)?) else {
            return None;
        };
        if self.may_activate(&registration, covert, &policy) {
            self.announcer.resumed(&registration);
            self.stats.registrations.resumed(&registration);
            if let Some(dtls) = self.dtls.get() {
                dtls.resumed(&registration);
            }
        }
        None
    }

    /// Takes over what a predecessor decided last: the registration is valid at once, also when this process
    /// is still probing its phantom or has not heard of it yet.
    pub fn settle(&self, record: &Record) {
        let Some(covert) = record.covert else { return };
        let policy = self.policy.load();
        let Some(registration) = self.read(record, &policy) else { return };
        let registration = match self.store.track(registration) {
            Tracked::New(registration) => {
                self.stats.funnel.registered(&registration);
                registration
            }
            Tracked::Duplicate(known) => known,
            Tracked::Full => return,
        };
        if self.may_activate(&registration, covert, &policy) {
            self.made_valid(&registration);
        }
    }

    fn read(&self, record: &Record, policy: &Policy) -> Option<Registration> {
        let mut registrations = self.families(&record.message, policy)?.into_iter();
        let registration = registrations.find(|one| one.phantom.is_ipv6() == record.v6)?;
        let registration = registration.brought_by(record.message.clone(), record.age);
        if record.used {
            registration.mark_used();
        }
        Some(registration)
    }

    fn may_activate(
        &self,
        registration: &Arc<Registration>,
        covert: SocketAddr,
        policy: &Policy,
    ) -> bool {
        !policy.is_blocked_phantom(registration.phantom)
            && self.store.activate(registration, covert)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::{Hosts, message, pipeline};
    use signalling::{C2sWrapper, Message};

    /// A registration whose phantom has to be probed.
    fn unprobed(seed: u8) -> Vec<u8> {
        let mut message: C2sWrapper = message(seed, "198.51.100.2:80");
        message.registration_payload.as_mut().unwrap().flags = None;
        message.encode_to_vec()
    }

    /// The only registration of a pipeline, and whether it is valid.
    fn only<R: Resolver>(pipeline: &Pipeline<crate::liveness::TcpDialer, R>) -> bool {
        let all = pipeline.store.all();
        assert_eq!(all.len(), 1);
        all[0].is_valid()
    }

    #[tokio::test]
    async fn what_is_decided_during_the_hand_over_is_handed_over() {
        let (old, new) = (pipeline(Hosts), pipeline(Hosts));
        let probing = old.begin(&unprobed(1)).expect("waits for the probe");
        old.decisions.watch();
        let told: Vec<Record> = old.store.all().iter().map(|one| Record::of(one)).collect();
        assert_eq!((told.len(), told[0].covert), (1, None));
        let again = new.resume(&told[0]).expect("probes for itself");
        // The old process's probe ends now; that of the new one has not begun.
        let registration = Arc::clone(&old.store.all()[0]);
        drop(probing);
        let covert: SocketAddr = "198.51.100.2:80".parse().unwrap();
        old.decisions.make(&registration, || old.store.activate(&registration, covert));
        assert!(only(&old) && !only(&new));
        let late = old.decisions.leave();
        assert_eq!(late.len(), 1);
        new.settle(&Record::of(&late[0]));
        assert!(only(&new), "valid before its own probe");
        assert_eq!(new.announcer.sessions(), 1, "detectors are told");
        assert_eq!(new.stats.registrations.active.value(), 1);
        drop(again);
        // A message that only the old process has heard in time.
        let unheard = pipeline(Hosts);
        unheard.settle(&Record::of(&late[0]));
        assert!(only(&unheard));
        assert!(unheard.begin(&unprobed(1)).is_none(), "known");
    }

    #[tokio::test]
    async fn nothing_is_decided_behind_a_successor() {
        let old = pipeline(Hosts);
        old.decisions.watch();
        assert!(old.decisions.leave().is_empty());
        assert!(old.begin(&message(1, "198.51.100.2:80").encode_to_vec()).is_none());
        assert!(!only(&old));
        assert_eq!(old.announcer.sessions(), 0, "no detector is told");
        old.decisions.resume();
        assert!(old.begin(&message(2, "198.51.100.2:80").encode_to_vec()).is_none());
        assert_eq!(old.announcer.sessions(), 1);
    }
}
