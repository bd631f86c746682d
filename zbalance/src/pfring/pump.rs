//! The one thread of a ZC balancer: a queue has a single producer, so one thread reads every device in turn.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use packet::{ETHERTYPE_VLAN, tunnel};
use pfring::{Cluster, ReceiveError, Statistics, WORKING_SET, system};
use shm::QueueStatus;
use telemetry::admin;

use crate::arguments::Arguments;
use crate::balancer::Balancer;
use crate::daemon::write_statistics;
use crate::format::{count, rate};
use crate::log;
use crate::spread::{Distribution, Spread, Way};

/// First and longest pause when no device has packets. A device holds 32,768 of them.
const NAP: (Duration, Duration) = (Duration::from_micros(50), Duration::from_micros(500));
/// Pause after an error.
const RETRY: Duration = Duration::from_millis(500);
/// How often counters are read and shown.
const SECOND: Duration = Duration::from_secs(1);

/// Moves packets from the devices of a cluster into its queues.
pub(super) struct Pump {
    balancer: Arc<Balancer>,
    /// One for each device.
    spreads: Vec<Spread>,
    decapsulates: bool,
    active: bool,
    /// The inside of a tunnel, on its way to the front of its buffer.
    bare: Vec<u8>,
    demo: Demo,
    next: Instant,
    before: (Instant, u64),
}

impl Pump {
    pub(super) fn new(
        balancer: &Arc<Balancer>,
        distribution: Distribution,
        arguments: &Arguments,
        unlicensed: Vec<String>,
    ) -> Self {
        let interface = |index| u16::try_from(index).unwrap_or(u16::MAX);
        let now = Instant::now();
        Self {
            balancer: Arc::clone(balancer),
            spreads: (0..arguments.interfaces.len())
                .map(|index| Spread::new(distribution.clone(), interface(index)))
                .collect(),
            decapsulates: distribution.decapsulate,
            active: arguments.active,
            bare: Vec::new(),
            demo: Demo { unlicensed, start: now, last: None, said: false },
            next: now,
            before: (now, 0),
        }
    }

    fn beat(&self) {
        self.balancer.sources.iter().for_each(|(_, counters)| counters.beat());
    }

    fn stops(&self) -> bool {
        self.balancer.stop.load(Ordering::Relaxed)
    }

    /// Waits for this moment, or the end.
    pub(super) fn wait_until(&self, earliest: Instant) {
        while Instant::now() < earliest && !self.stops() {
            self.beat();
            std::thread::sleep(NAP.1);
        }
    }

    /// Runs until it is time to end.
    ///
    /// # Errors
    /// When capture without a licence is over.
    pub(super) fn run(&mut self, cluster: &mut Cluster) -> Result<(), ReceiveError> {
        let mut nap = NAP.0;
        while !self.stops() {
            self.beat();
            let mut received = 0;
            for device in 0..self.spreads.len() {
                received += self.burst(cluster, device)?;
            }
            let now = Instant::now();
            if received > 0 {
                nap = NAP.0;
                self.demo.last = Some(now);
            } else if !self.active {
                std::thread::sleep(nap);
                nap = (nap * 2).min(NAP.1);
            }
            if now >= self.next {
                self.next = now + SECOND;
                self.publish(cluster);
                self.demo.look(now);
            }
        }
        Ok(())
    }

    /// One burst of a device; its number of packets.
    fn burst(&mut self, cluster: &mut Cluster, device: usize) -> Result<usize, ReceiveError> {
        let balancer = Arc::clone(&self.balancer);
        let (name, counters) = &balancer.sources[device];
        let received = match cluster.receive(device) {
            Ok(received) => received,
            Err(ReceiveError::Demo) => return Err(ReceiveError::Demo),
            Err(error) => {
                if !counters.down.swap(true, Ordering::Relaxed) {
                    log::notice(format_args!("{name}: {error}; trying again"));
                }
                std::thread::sleep(RETRY);
                return Ok(0);
            }
        };
        if counters.down.swap(false, Ordering::Relaxed) {
            counters.reopened.fetch_add(1, Ordering::Relaxed);
            log::notice(format_args!("{name}: receives again"));
        }
        let mut targets = [0; WORKING_SET];
        let mut filtered = 0;
        for (index, target) in targets[..received].iter_mut().enumerate() {
            match self.place(cluster, device, index) {
                Some(queues) => *target = queues,
                None => filtered += 1,
            }
        }
        for (index, queues) in targets[..received].iter().enumerate() {
            // The last packet of the burst for a queue brings the others along.
            let later = targets[index + 1..received].iter().fold(0, |sum, queues| sum | queues);
            if *queues != 0 {
                cluster.send(index, *queues, queues & !later != 0);
            }
        }
        if received > 0 {
            counters.received.fetch_add(received as u64, Ordering::Relaxed);
            counters.filtered.fetch_add(filtered, Ordering::Relaxed);
        }
        Ok(received)
    }

    /// Queues of a packet, which is changed in its buffer where it is not sent as it came; `None` when a filter keeps
    /// it from all of them.
    fn place(&mut self, cluster: &mut Cluster, device: usize, index: usize) -> Option<u64> {
        let (frame, _) = cluster.packet(index);
        let Way { targets, retag, .. } = self.spreads[device].way(frame, frame.len())?;
        if retag {
            frame[12..14].copy_from_slice(&ETHERTYPE_VLAN.to_be_bytes());
        } else if self.decapsulates
            && let Some(bare) = tunnel::bare(frame)
        {
            bare.write(frame, &mut self.bare);
            let length = self.bare.len().min(frame.len());
            frame[..length].copy_from_slice(&self.bare[..length]);
            cluster.truncate(index, length);
        }
        Some(targets)
    }

    /// Shows the counters: to the operator, to the library's readers, and in the file of statistics.
    pub(super) fn publish(&mut self, cluster: &Cluster) {
        let (devices, queues) = cluster.statistics();
        for ((_, counters), device) in self.balancer.sources.iter().zip(devices) {
            counters.dropped.store(device.dropped, Ordering::Relaxed);
        }
        let attached = system::attached(self.balancer.cluster);
        let sets = self.balancer.sets.iter().zip(0..);
        let sets = sets.flat_map(|(size, set)| std::iter::repeat_n(set, *size as usize));
        let queues = queues.into_iter().zip(sets).zip(0..);
        let status = |((queue, set), id)| status(queue, set, id, attached.contains(&id));
        self.balancer.note(queues.map(status).collect(), Vec::new());
        let snapshot = self.balancer.snapshot();
        let text = snapshot.text();
        cluster.show(&text);
        let stats = admin::ipc_dir().join("stats").join(self.balancer.cluster.to_string());
        write_statistics(&stats, &text);
        let now = Instant::now();
        if self.balancer.live.prints() && !self.stops() {
            let seconds = (now - self.before.0).as_secs_f64().max(f64::MIN_POSITIVE);
            let pps = (snapshot.received - self.before.1) as f64 / seconds;
            let received = count(snapshot.received as f64);
            log::say(format_args!("{received} pkts, {} pps", rate(pps)));
        }
        self.before = (now, snapshot.received);
    }
}

/// A queue of the cluster, as one of this balancer's own would be described.
fn status(queue: Statistics, set: u32, id: u32, is_attached: bool) -> QueueStatus {
    QueueStatus {
        queue: id,
        set,
        // The module does not say which process it is.
        consumer: is_attached.then_some(0),
        generation: 0,
        enqueued: queue.sent,
        dropped_full: queue.dropped,
        dropped_quota: 0,
        no_consumer: 0,
        no_frame: 0,
        outstanding: queue.sent.saturating_sub(queue.received),
        processed: queue.received,
        bad_returns: 0,
        wakes: 0,
        heartbeat_age_ms: None,
        hung: false,
    }
}

/// Watches for the silence that follows five minutes without a licence. Not every version of the library reports it.
#[derive(Debug)]
struct Demo {
    unlicensed: Vec<String>,
    start: Instant,
    last: Option<Instant>,
    said: bool,
}

impl Demo {
    /// When the demo ends, and how far from that a silence may begin.
    const END: Duration = Duration::from_secs(300);
    const MARGIN: Duration = Duration::from_secs(15);
    /// How long it must last.
    const SILENCE: Duration = Duration::from_secs(10);

    /// Whether packets stopped to come about when the demo ends.
    fn is_over(&self, now: Instant) -> bool {
        let Some(last) = self.last else { return false };
        let began = last - self.start;
        !self.unlicensed.is_empty()
            && began.abs_diff(Self::END) <= Self::MARGIN
            && now - last >= Self::SILENCE
    }

    fn look(&mut self, now: Instant) {
        if !self.said && self.is_over(now) {
            self.said = true;
            log::warn(format_args!(
                "{}: no packet has come since five minutes after the start, when PF_RING ZC ends without a licence: \
                 put one for the card's address into /etc/pf_ring and start again, or read the interface without zc:",
                self.unlicensed.join(", ")
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_from_five_minutes_on_means_that_the_demo_is_over() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let demo = |last, unlicensed: &[&str]| Demo {
            unlicensed: unlicensed.iter().map(|name| (*name).to_owned()).collect(),
            start,
            last,
            said: false,
        };
        let over = |last, now| demo(Some(at(last)), &["eth1"]).is_over(at(now));
        assert!(over(300, 310) && over(290, 400) && over(314, 330));
        assert!(!over(300, 309), "not long enough");
        assert!(!over(200, 400) && !over(400, 500), "another reason");
        assert!(!demo(Some(at(300)), &[]).is_over(at(400)), "there is a licence");
        assert!(!demo(None, &["eth1"]).is_over(at(400)), "nothing ever came");
    }
}
