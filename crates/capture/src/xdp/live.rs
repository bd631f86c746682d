//! Packets that the kernel takes in together, as received on a tun device.
//!
//! A `write()` to a tun device takes in one packet. Here a program of ours runs over a row of frames, as many as there
//! are packets (`BPF_PROG_TEST_RUN` with live frames, Linux 5.19): it makes of each the next packet that lies in memory
//! which the kernel and this process share, and the kernel sends all of them up its stack as a list. One such call
//! costs as much as eight writes whatever is in it, and each packet little more than half of one.
//!
//! The program takes packets for the devices that it was made for, each from the memory of its device, and none for
//! another interface: a process that may run it and nothing else of `bpf(2)` can do with it what it can do with the
//! devices themselves.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;

use super::assembly::{Assembly, code};
use super::bpf::{self, Attached, Hook, Memory, Program};
use super::text::{DROP, PASS};
use crate::tun::{Tun, TunError};

/// Length of a hardware header, which the kernel takes off again.
const HARDWARE: usize = 14;
/// Longest packet: an acknowledgement over IPv6 with all the options that it can have, 100 bytes, fits.
const LONGEST: usize = 106;
/// Where a frame says which device it is for, and goes on to: the kernel uses frames again as the program left them.
/// It is part of the sender's hardware address, which a tun device has no use for.
const DEVICE: usize = 8;
/// What a frame is before the program cuts it to the length of its packet, and where that stands in a place.
const FRAME: usize = HARDWARE + LONGEST;
/// Bytes of a place for a packet, as a power of two.
const PLACE_SHIFT: i32 = 7;
const PLACE: usize = 1 << PLACE_SHIFT;
/// Bytes of what a device has, as a power of two.
const REGION_SHIFT: i32 = 14;
const REGION: usize = 1 << REGION_SHIFT;
/// Places of a device; the first has the number of the next place instead of a packet.
const PLACES: usize = REGION / PLACE;
/// Packets in a call.
const MOST: usize = PLACES - 1;
/// Devices whose memory a kernel makes as one map.
const MOST_DEVICES: usize = 256;
/// A device that does not exist, whose frames the program drops.
const NOBODY: u32 = u32::MAX;

/// Why packets cannot go together.
#[derive(Debug, thiserror::Error)]
pub enum LiveFramesError {
    /// A part is refused.
    #[error(
        "{part}: {cause}; live frames take Linux 5.19, CAP_BPF and CAP_NET_ADMIN at the start: \
             grant them (setcap cap_bpf,cap_net_admin+p PROGRAM, or AmbientCapabilities in its unit) or leave \
             live frames off"
    )]
    Refused {
        /// Which.
        part: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// There is no device that keeps the program.
    #[error("the interface that keeps the program of live frames: {0}")]
    Anchor(#[from] TunError),
    /// Packets of a device go on to other CPUs.
    #[error(
        "{file} is {mask}: packets that are steered to other CPUs hold the memory of each burst for a second; \
             write 0 there, or leave live frames off"
    )]
    Steered {
        /// The setting.
        file: String,
        /// Its value.
        mask: String,
    },
}

/// What the devices of a process have together.
#[derive(Debug)]
struct Facility {
    program: Program,
    memory: Mapping,
    /// A call takes milliseconds unless the program is on an interface as well. This one gets no packets, and goes
    /// with the process. In the driver, for elsewhere every packet of the host would be asked about it.
    _anchor: (Attached, Tun),
}

/// The memory that the program reads.
struct Mapping(NonNull<u8>, usize);

// SAFETY: only addresses of a mapping that stays until this is dropped. Who writes to a region holds its lock.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mapping").field(&self.1).finish()
    }
}

impl Mapping {
    fn of(map: &OwnedFd, len: usize) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), len, access, libc::MAP_SHARED, map.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast()).map(|start| Self(start, len)).ok_or(io::ErrorKind::Other.into())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that `of` made, whose addresses nobody has any more.
        let _ = unsafe { libc::munmap(self.0.as_ptr().cast(), self.1) };
    }
}

/// What became of packets that were to go together.
#[derive(Debug)]
pub struct Passed {
    /// The first of them, which the kernel took.
    pub taken: usize,
    /// Why it did not take the rest.
    pub error: Option<io::Error>,
}

/// The way of packets into one device.
#[derive(Debug)]
pub struct LiveFrames {
    facility: Arc<Facility>,
    /// Its number in the program's list.
    device: u32,
    /// Index of the interface.
    interface: u32,
    /// Held by who writes to its region.
    busy: Mutex<()>,
    /// The kernel refused for good.
    is_over: AtomicBool,
}

impl LiveFrames {
    /// Longest packet that can go this way, in bytes.
    pub const LONGEST: usize = LONGEST;
    /// As many packets as go this way at least: fewer cost less as writes.
    pub const FEWEST: usize = 24;
    /// As many as go in one call.
    pub const MOST: usize = MOST;

    /// A way into each of `devices`, 256 at most. Does once what it will do later, without a packet.
    ///
    /// # Errors
    /// [`LiveFramesError`] names the part and the remedy.
    pub fn open(devices: &[&Tun]) -> Result<Vec<Self>, LiveFramesError> {
        let refused = |part| move |cause| LiveFramesError::Refused { part, cause };
        if devices.is_empty() {
            return Ok(Vec::new());
        }
        let count = devices.len().min(MOST_DEVICES) as u32;
        let devices = &devices[..count as usize];
        devices.iter().try_for_each(|tun| Self::not_steered(tun.name()))?;
        let numbers: Vec<u32> = devices.iter().map(|tun| tun.index()).collect::<Result<_, _>>()?;
        let size = count << REGION_SHIFT;
        let packets =
            bpf::shared_values(size, 1, b"conjure_live").map_err(refused("map of packets"))?;
        let anchor = Tun::anchor("cjlive%d")?;
        let of_devices: Vec<u8> = numbers.iter().flat_map(|index| index.to_ne_bytes()).collect();
        let indices = Memory::new(count * 4)
            .and_then(|indices| indices.fill(&of_devices).map(|()| indices))
            .map_err(refused("map of devices"))?;
        let text = text(packets.as_raw_fd(), indices.0.as_raw_fd(), count);
        let program = Program::load(&text, &text).map_err(refused("program"))?;
        let attached = bpf::attach(&program, anchor.index()?, Hook::Native)
            .map_err(refused("program on its interface"))?;
        let memory = Mapping::of(&packets, size as usize).map_err(refused("memory of packets"))?;
        let facility = Arc::new(Facility { program, memory, _anchor: (attached, anchor) });
        let way = |(device, interface): (usize, u32)| Self {
            facility: Arc::clone(&facility),
            device: device as u32,
            interface,
            busy: Mutex::new(()),
            is_over: AtomicBool::new(false),
        };
        let ways: Vec<Self> = numbers.into_iter().enumerate().map(way).collect();
        for way in &ways {
            way.run(NOBODY, way.interface, 2).map_err(refused("live frames"))?;
        }
        Ok(ways)
    }

    /// Whether packets of the interface stay on the CPU on which they come. An interface that does not exist
    /// has no such setting.
    ///
    /// # Errors
    /// [`LiveFramesError::Steered`] when they do not.
    pub fn not_steered(interface: &str) -> Result<(), LiveFramesError> {
        let file = format!("/sys/class/net/{interface}/queues/rx-0/rps_cpus");
        // Where the file is not to be seen, nothing is steered or nobody can tell.
        let mask = std::fs::read_to_string(&file).unwrap_or_default().trim().to_owned();
        if mask.contains(|c: char| c.is_ascii_hexdigit() && c != '0') {
            return Err(LiveFramesError::Steered { file, mask });
        }
        Ok(())
    }

    /// Whether this kernel and the rights of the process allow live frames: makes all that they take in a network
    /// namespace that is gone afterwards. Takes `CAP_SYS_ADMIN` in addition.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn try_apart() -> Result<(), LiveFramesError> {
        let refused = |cause| LiveFramesError::Refused { part: "network namespace", cause };
        let inside = move || {
            // SAFETY: no descriptors are unshared.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
                .map_err(|error| refused(error.into()))?;
            Self::open(&[&Tun::open_for_batches("cjtry0")?]).map(drop)
        };
        // The namespace is that of a thread, and ends with it.
        let tried = std::thread::Builder::new().spawn(inside).map_err(refused)?.join();
        tried.unwrap_or_else(|_| Err(refused(io::ErrorKind::Other.into())))
    }

    /// Whether the kernel still takes packets this way.
    pub fn is_usable(&self) -> bool {
        !self.is_over.load(Relaxed)
    }

    /// Has the kernel take in `packets`, IP packets of at most [`LONGEST`](Self::LONGEST) bytes, in order. After an
    /// error that will not pass, the way is not usable any more.
    pub fn pass(&self, packets: &mut dyn Iterator<Item = &[u8]>) -> Passed {
        let _busy = self.busy.lock();
        let mut packets = packets.peekable();
        let mut taken = 0;
        while packets.peek().is_some() {
            let mut count = 0;
            for packet in packets.by_ref().take(MOST) {
                count += 1;
                self.place(count, packet);
            }
            self.set_next(1);
            let result = self.run(self.device, self.interface, count as u32);
            let done = (self.next() as usize).saturating_sub(1).min(count);
            taken += done;
            let error = match result {
                Ok(()) if done == count => continue,
                Ok(()) => io::Error::from_raw_os_error(libc::EPROTO),
                Err(error) => error,
            };
            let passes = matches!(error.raw_os_error(), Some(libc::EINTR | libc::ENOMEM));
            self.is_over.store(!passes, Relaxed);
            return Passed { taken, error: Some(error) };
        }
        Passed { taken, error: None }
    }

    /// Runs the program over `count` frames that say they are for `device`, as received on `interface`.
    fn run(&self, device: u32, interface: u32, count: u32) -> io::Result<()> {
        let mut frame = [0; FRAME];
        frame[DEVICE..DEVICE + 4].copy_from_slice(&device.to_ne_bytes());
        bpf::run_live(self.facility.program.as_fd(), &frame, count, interface)
    }

    /// Where place `number` of the device starts.
    fn start(&self, number: usize) -> *mut u8 {
        let offset = self.device as usize * REGION + number % PLACES * PLACE;
        // SAFETY: `open` made the mapping with a region for each device, and the place lies within its region.
        unsafe { self.facility.memory.0.as_ptr().add(offset) }
    }

    fn place(&self, number: usize, packet: &[u8]) {
        let packet = &packet[..packet.len().min(LONGEST)];
        let kind: [u8; 2] = if packet.first().is_some_and(|first| first >> 4 == 6) {
            [0x86, 0xdd]
        } else {
            [0x08, 0x00]
        };
        let start = self.start(number);
        let len = (HARDWARE + packet.len()) as u32;
        // SAFETY: header, packet and length lie within the place, whose lock the caller holds; the numbers are
        // aligned, because a place starts at a multiple of its size. The rest of the hardware header is 0 from
        // the beginning.
        unsafe {
            start.add(DEVICE).cast::<u32>().write_volatile(self.device);
            ptr::copy_nonoverlapping(kind.as_ptr(), start.add(DEVICE + 4), 2);
            ptr::copy_nonoverlapping(packet.as_ptr(), start.add(HARDWARE), packet.len());
            start.add(FRAME).cast::<u32>().write_volatile(len);
        }
    }

    fn set_next(&self, number: u32) {
        // SAFETY: the first place of a region starts with this number, aligned.
        unsafe { self.start(0).cast::<u32>().write_volatile(number) }
    }

    fn next(&self) -> u32 {
        // SAFETY: as above.
        unsafe { self.start(0).cast::<u32>().read_volatile() }
    }
}

/// The program: the frame's device, its next place, a packet from there.
fn text(packets: i32, indices: i32, devices: u32) -> Vec<u64> {
    const ADJUST_TAIL: i32 = 65;
    const INTERFACE: i16 = 12;
    const SHORT: i16 = 72;
    let [result, first, second, third] = [0, 1, 2, 3];
    let [context, data, end, device] = [6, 7, 8, 9];
    let mut program = Assembly::default();
    let refuse = program.label();
    program.register(code::COPY, context, first);
    program.load(code::LOAD_WORD, data, context, 0);
    program.load(code::LOAD_WORD, end, context, 4);
    program.reaches(data, end, FRAME as i16, result, refuse);
    program.load(code::LOAD_WORD, device, data, DEVICE as i16);
    program.jump_if(code::JUMP_IF_ABOVE, device, devices.cast_signed() - 1, refuse);
    // The interface that this device is.
    program.value_of_map(first, indices);
    program.register(code::COPY, second, device);
    program.value(code::SHIFT_LEFT, second, 2);
    program.register(code::ADD_REGISTER, first, second);
    program.load(code::LOAD_WORD, first, first, 0);
    program.load(code::LOAD_WORD, second, context, INTERFACE);
    program.jump_if_register(code::JUMP_UNLESS_EQUAL_REGISTER, first, second, refuse);
    // Its next place.
    program.value_of_map(first, packets);
    program.value(code::SHIFT_LEFT, device, REGION_SHIFT);
    program.register(code::ADD_REGISTER, first, device);
    program.load(code::LOAD_WORD, second, first, 0);
    program.register(code::COPY, third, second);
    program.value(code::ADD, third, 1);
    program.store(code::STORE_WORD, first, 0, third);
    program.value(code::AND, second, PLACES as i32 - 1);
    program.value(code::SHIFT_LEFT, second, PLACE_SHIFT);
    program.register(code::ADD_REGISTER, first, second);
    // Most are no longer than over IPv4 with time stamps.
    let copied = program.label();
    program.load(code::LOAD_WORD, second, first, FRAME as i16);
    for at in (0..FRAME as i16).step_by(8) {
        if at == SHORT {
            program.jump_if(code::JUMP_IF_BELOW, second, i32::from(SHORT) + 1, copied);
        }
        program.load(code::LOAD_LONG, third, first, at);
        program.store(code::STORE_LONG, data, at, third);
    }
    program.place(copied);
    program.value(code::ADD, second, -(FRAME as i32));
    program.register(code::COPY, first, context);
    program.call(ADJUST_TAIL);
    program.jump_if(code::JUMP_UNLESS_EQUAL, result, 0, refuse);
    program.value(code::MOVE, result, PASS);
    program.exit();
    program.place(refuse);
    program.value(code::MOVE, result, DROP);
    program.exit();
    program.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_hold_a_frame_and_its_length() {
        assert_eq!(FRAME % 8, 0);
        assert_eq!(FRAME + 8, PLACE);
        assert_eq!((PLACES, MOST), (128, 127));
    }

    #[test]
    fn no_packet_for_another_interface() {
        const LOOPBACK: u32 = 1;
        let packets = bpf::shared_values(2 << REGION_SHIFT, 1, b"conjure_live").unwrap();
        let indices = Memory::new(8).unwrap();
        let listed: Vec<u8> = [LOOPBACK, 7_777].iter().flat_map(|i| i.to_ne_bytes()).collect();
        indices.fill(&listed).unwrap();
        let text = text(packets.as_raw_fd(), indices.0.as_raw_fd(), 2);
        let program = Program::load(&text, &text).unwrap();
        let memory = Mapping::of(&packets, 2 << REGION_SHIFT).unwrap();
        let next = |device: usize| {
            // SAFETY: each region starts with a number.
            unsafe { memory.0.as_ptr().add(device * REGION).cast::<u32>() }
        };
        for device in [0, 1] {
            // SAFETY: as above; the second place has the length of a frame without data.
            unsafe {
                next(device).write(1);
                next(device).byte_add(PLACE + FRAME).write(60);
            }
        }
        // Without a context the kernel says that a frame came by the loopback.
        let verdict = |device: u32| {
            let mut frame = [0; FRAME];
            frame[DEVICE..DEVICE + 4].copy_from_slice(&device.to_ne_bytes());
            bpf::run(program.as_fd(), &frame, 1, false).unwrap().cast_signed()
        };
        assert_eq!([0, 1, 2, NOBODY].map(verdict), [PASS, DROP, DROP, DROP]);
        // SAFETY: as above.
        assert_eq!([0, 1].map(|device| unsafe { next(device).read() }), [2, 1]);
        assert_eq!(bpf::run(program.as_fd(), &[0; FRAME - 1], 1, false).unwrap(), DROP as u32);
    }
}
