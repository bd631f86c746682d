//! How an interface is opened: the program, then the sockets, in the best way that is not refused.

use std::io;
use std::os::fd::AsFd;

use shm::Memory;

use super::binding::{bind_first, bind_sorted, is_unsupported};
use super::bpf::{self, Hook, Program, SocketMap};
use super::fast_path::FastPath;
use super::lent::Lent;
use super::prefilter::Prefilter;
use super::socket::Socket;
use super::sorting::{self, SORTED, Stage};
use super::tally::Tally;
use super::waiting::Waiting;
use super::{Attachment, MAX_QUEUES, Refusal, Xdp, XdpName, XdpOptions, obstacle, text};
use crate::position::Stages;
use crate::standby::Standby;
use crate::{OpenError, Statistics};

impl Xdp {
    /// Opens the interface. Frames are received into `memory` once there are some
    /// ([`Xdp::lend`]); until then they are dropped.
    ///
    /// # Errors
    /// When the interface does not exist, another program is on it, or the process may not do this.
    pub fn open(
        name: &XdpName,
        options: XdpOptions<'_>,
        memory: &Memory,
    ) -> Result<Self, OpenError> {
        let interface = name.interface.as_str();
        let (standby, index) = Standby::join(interface)?;
        let number = index.unsigned_abs();
        let failed = |what: &'static str| {
            let interface = interface.to_owned();
            move |cause: io::Error| match cause.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => OpenError::XdpPermission { interface, what },
                Some(libc::EBUSY | libc::EEXIST) => OpenError::XdpBusy { interface, what },
                _ => OpenError::System { interface, what, cause },
            }
        };
        let queues = standby.receive_queues().clamp(1, MAX_QUEUES);
        let wanted = match name.queue {
            Some(queue) if queue >= queues => {
                return Err(OpenError::NoQueue { interface: interface.to_owned(), queue, queues });
            }
            Some(queue) => queue..queue + 1,
            None => 0..queues,
        };
        let mut refused = Vec::new();
        let stage = options.sorting.map(|sorting| sorting.stage(wanted.len() as u32));
        let mut stage = stage.and_then(|stage| {
            stage.unwrap_or_else(|refusal| {
                refused.push(refusal);
                None
            })
        });
        let map = SocketMap::with(queues, stage.map_or(1, Stage::sockets_each))
            .map_err(failed("map of AF_XDP sockets"))?;
        let table = options.fast_path;
        let stages = Stages::of(options.prefilter, table.is_some());
        let tally = stages.map(|stages| Ok((stages, Tally::new()?))).transpose();
        let stages = tally.map_err(failed("counters of an XDP program"))?;
        let address = table.map_or(Ok([0; 6]), |_| standby.address());
        let address = address.map_err(failed("hardware address"))?;
        let against_ipv6 = table.and_then(|_| obstacle::against_ipv6(interface));
        let v6 = against_ipv6.is_none();
        refused.extend(against_ipv6.map(|cause| Refusal { way: "IPv6 on the fast path", cause }));
        let load = |sorting| {
            let tap = |recent| {
                let tally = stages.as_ref().map(|(_, tally)| tally);
                let fast_path = tally.zip(table).map(|(tally, table)| FastPath {
                    table,
                    tally,
                    address,
                    v6,
                    coarse: recent,
                });
                let prefilter = tally.filter(|_| options.prefilter);
                let prefilter = prefilter.map(|tally| Prefilter { tally, reads: recent });
                text::tap(&map, fast_path.as_ref(), prefilter.as_ref(), sorting)
            };
            Program::load(&tap(true), &tap(false))
        };
        let mut text = load(stage);
        if let Err(cause) = &text
            && stage.is_some()
        {
            let cause = cause.to_string();
            text = load(None);
            stage = None;
            refused.push(Refusal { way: SORTED, cause });
        }
        let mut text = text.map_err(failed("loading an XDP program"))?;
        // What passes there stays marked as that of another host.
        let is_veth = table.is_some() && standby.driver_name() == "veth";
        let native = match is_veth {
            true => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
            false => bpf::attach(&text, number, Hook::Native),
        };
        let (program, hook) = match native {
            Err(cause) if is_unsupported(&cause) && !options.generic => {
                return Err(OpenError::NoNative { interface: interface.to_owned(), cause });
            }
            Err(error) if is_unsupported(&error) => {
                let cause = match is_veth {
                    true => "the host would not take what passes from a veth".to_owned(),
                    false => error.to_string(),
                };
                refused.push(Refusal { way: "native", cause });
                if stage.take().is_some() {
                    let cause = sorting::BEHIND_THE_DRIVER.to_owned();
                    refused.push(Refusal { way: SORTED, cause });
                    text = load(None).map_err(failed("loading an XDP program"))?;
                }
                (bpf::attach(&text, number, Hook::Generic), Hook::Generic)
            }
            attached => (attached, Hook::Native),
        };
        let program = program.map_err(failed("attaching an XDP program"))?;
        let first = wanted.start;
        let mut sockets: Vec<Socket> = Vec::new();
        let (socket, binding, causes) =
            bind_first(memory, options, number, first, hook, program.fragments)
                .map_err(failed("binding an AF_XDP socket"))?;
        sockets.push(socket);
        refused.extend(causes);
        for queue in wanted.clone().skip(1) {
            let other = sockets.first();
            let socket = Socket::new(memory, options.entries, other)
                .and_then(|socket| socket.bind(number, queue, binding, other).map(|()| socket))
                .map_err(failed("binding an AF_XDP socket to a further queue"))?;
            sockets.push(socket);
        }
        let read = wanted.len();
        if let Some(stage) = stage {
            let queues = stage.queues();
            let (all, outcome) =
                bind_sorted(memory, options, number, wanted.clone(), sockets, queues);
            sockets = all;
            let cause = outcome.err().map(|error| error.to_string());
            refused.extend(cause.map(|cause| Refusal { way: SORTED, cause }));
        }
        let sockets_each = sockets.len() / read;
        for (queue, sockets) in wanted.zip(sockets.chunks(sockets_each)) {
            for n in 0..map.sockets_each() {
                // A single socket takes the packets of all.
                let socket = sockets.get(n as usize).unwrap_or(&sockets[0]);
                map.insert(queue, n, socket.as_fd())
                    .map_err(failed("giving a queue to its AF_XDP socket"))?;
            }
        }
        let attachment = Attachment {
            hook,
            zero_copy: sockets.iter().all(Socket::is_zero_copy),
            fragments: binding.fragments,
            prefilter: options.prefilter,
            fast_path: table.is_some(),
            sorted: sockets_each > 1,
            queues: read as u32,
            entries: options.entries,
            refused,
        };
        Ok(Self {
            program,
            map,
            stages,
            table: table.cloned(),
            memory: memory.clone(),
            entries: options.entries,
            waiting: Waiting::new(&sockets).map_err(failed("watching AF_XDP sockets"))?,
            sockets,
            sockets_each,
            is_single: options.sorting.is_some_and(|sorting| sorting.queues == 1),
            standby,
            attachment,
            lent: Lent::new(memory),
            spare: Vec::new(),
            pieces: Vec::new(),
            turn: 0,
            statistics: Statistics::default(),
            too_long: 0,
            ceased: false,
        })
    }
}
