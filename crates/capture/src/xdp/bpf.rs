//! The few calls of `bpf(2)` that an XDP program needs.
//!
//! The program is written as instructions, so that building it takes no compiler for BPF.

use std::ffi::{CStr, c_int, c_long};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const MAP_CREATE: c_int = 0;
const MAP_UPDATE: c_int = 2;
const PROGRAM_LOAD: c_int = 5;
const PROGRAM_RUN: c_int = 10;
const LINK_CREATE: c_int = 28;

const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_XSK: u32 = 17;
const PROGRAM_TYPE_XDP: u32 = 6;
const ATTACH_TYPE_XDP: u32 = 37;
/// The program takes packets that lie in several buffers.
const HAS_FRAGMENTS: u32 = 1 << 5;

/// Makes a call; `attributes` is the structure of the command.
fn call<T>(command: c_int, attributes: &T) -> io::Result<c_long> {
    // SAFETY: pointer and size describe `attributes`, which the kernel only reads; what its own pointers
    // refer to outlives the call by the care of the callers below.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), mem::size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes a call that returns a descriptor.
fn descriptor<T>(command: c_int, attributes: &T) -> io::Result<OwnedFd> {
    let fd = call(command, attributes)?;
    let fd = c_int::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: a descriptor that was just made and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
}

#[repr(C)]
struct MapUpdate {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    instructions: u32,
    text: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgramRun {
    program: u32,
    result: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

/// A name as the kernel keeps it: at most 15 bytes.
const fn named(text: &[u8]) -> [u8; 16] {
    let mut name = [0; 16];
    let mut i = 0;
    while i < text.len() && i < 15 {
        name[i] = text[i];
        i += 1;
    }
    name
}

/// A map of `entries` values of `size` bytes, by number.
fn map(kind: u32, size: u32, entries: u32, flags: u32, name: &[u8]) -> io::Result<OwnedFd> {
    descriptor(
        MAP_CREATE,
        &MapCreate {
            map_type: kind,
            key_size: 4,
            value_size: size,
            max_entries: entries,
            flags,
            inner_map: 0,
            numa_node: 0,
            name: named(name),
        },
    )
}

/// Writes the entry of `map` with this number, whose size `value` has.
fn update(map: &OwnedFd, entry: u32, value: &[u8]) -> io::Result<()> {
    let update = MapUpdate {
        map: number(map.as_fd()),
        padding: 0,
        key: (&raw const entry).addr() as u64,
        value: value.as_ptr().addr() as u64,
        flags: 0,
    };
    call(MAP_UPDATE, &update).map(drop)
}

/// What a program keeps from one packet to the next: bytes that are 0 at first.
#[derive(Debug)]
pub(super) struct Memory(pub(super) OwnedFd);

impl Memory {
    /// `size` bytes.
    pub(super) fn new(size: u32) -> io::Result<Self> {
        map(MAP_TYPE_ARRAY, size, 1, 0, b"conjure_memory").map(Self)
    }

    /// Writes `bytes`, which are as many as there are.
    pub(super) fn fill(&self, bytes: &[u8]) -> io::Result<()> {
        update(&self.0, 0, bytes)
    }
}

/// A map of `entries` values of `size` bytes, a multiple of 8, that processes can map into their memory.
pub(super) fn shared_values(size: u32, entries: u32, name: &[u8]) -> io::Result<OwnedFd> {
    const MAPPABLE: u32 = 1 << 10;
    map(MAP_TYPE_ARRAY, size, entries, MAPPABLE, name)
}

/// Which sockets take the packets of which receive queue.
#[derive(Debug)]
pub(super) struct SocketMap(pub(super) OwnedFd, u32);

impl SocketMap {
    /// A map for `queues` receive queues of one socket.
    pub(super) fn new(queues: u32) -> io::Result<Self> {
        Self::with(queues, 1)
    }

    /// A map for `queues` receive queues of `each` sockets. Queues that the interface gets later are beyond its end.
    pub(super) fn with(queues: u32, each: u32) -> io::Result<Self> {
        let fd = map(MAP_TYPE_XSK, 4, queues * each, 0, b"conjure_queues")?;
        Ok(Self(fd, each))
    }

    /// Sockets of each receive queue. Those of queue `q` have the numbers from `q` times as many on.
    pub(super) const fn sockets_each(&self) -> u32 {
        self.1
    }

    /// Gives packets of `queue` to `socket`, the one with number `n` of the queue.
    pub(super) fn insert(&self, queue: u32, n: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        update(&self.0, queue * self.1 + n, &number(socket).to_ne_bytes())
    }
}

/// Where on the way of a packet a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// In the driver, before the kernel has made anything of the packet.
    Native,
    /// After the driver, for those that have no support: slower, and for every driver.
    Generic,
}

/// A program on an interface, as long as this lives.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) link: OwnedFd,
    /// Packets in several buffers reach the program.
    pub(super) fragments: bool,
}

/// A program, loaded as well as the kernel can.
#[derive(Debug)]
pub(super) struct Program {
    fd: OwnedFd,
    fragments: bool,
}

impl Program {
    /// Loads `text`; a kernel before 5.18, which knows no packets in several buffers, gets `plain`.
    pub(super) fn load(text: &[u64], plain: &[u64]) -> io::Result<Self> {
        match load(text, HAS_FRAGMENTS) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                Ok(Self { fd: load(plain, 0)?, fragments: false })
            }
            loaded => Ok(Self { fd: loaded?, fragments: true }),
        }
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Attaches a program to the interface with this index.
pub(super) fn attach(program: &Program, interface: u32, hook: Hook) -> io::Result<Attached> {
    const DRIVER: u32 = 1 << 2;
    const GENERIC: u32 = 1 << 1;
    let flags = match hook {
        Hook::Native => DRIVER,
        Hook::Generic => GENERIC,
    };
    let link = LinkCreate {
        program: number(program.as_fd()),
        interface,
        attach_type: ATTACH_TYPE_XDP,
        flags,
    };
    Ok(Attached { link: descriptor(LINK_CREATE, &link)?, fragments: program.fragments })
}

/// Loads a program of instructions that [`super::text`] makes.
pub(super) fn load(text: &[u64], flags: u32) -> io::Result<OwnedFd> {
    const LICENCE: &CStr = c"MIT";
    descriptor(
        PROGRAM_LOAD,
        &ProgramLoad {
            program_type: PROGRAM_TYPE_XDP,
            instructions: text.len() as u32,
            text: text.as_ptr().addr() as u64,
            licence: LICENCE.as_ptr().addr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel: 0,
            flags,
            name: named(b"conjure_tap"),
            interface: 0,
            attach_type: ATTACH_TYPE_XDP,
        },
    )
}

/// Frames of a run go where the program sends them.
const LIVE_FRAMES: u32 = 1 << 1;

/// Runs a program over `frame`, `repeat` times; what it returned. With `live` each run's frame goes where the
/// program sends it, and nothing is returned.
pub(super) fn run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    repeat: u32,
    live: bool,
) -> io::Result<u32> {
    let flags = if live { LIVE_FRAMES } else { 0 };
    run_with(ProgramRun { program: number(program), repeat, flags, ..ProgramRun::default() }, frame)
}

/// Runs a program over `count` frames like `frame`, received on the interface with this index, each of which goes
/// where the program sends it.
pub(super) fn run_live(
    program: BorrowedFd<'_>,
    frame: &[u8],
    count: u32,
    interface: u32,
) -> io::Result<()> {
    // `struct xdp_md`: start, end and metadata of the packet, interface, receive queue, sending interface.
    let context = [0, frame.len() as u32, 0, interface, 0, 0];
    let run = ProgramRun {
        program: number(program),
        repeat: count,
        flags: LIVE_FRAMES,
        context_size_in: mem::size_of_val(&context) as u32,
        context_in: context.as_ptr().addr() as u64,
        ..ProgramRun::default()
    };
    run_with(run, frame).map(drop)
}

/// Makes the call; what `run` refers to lives through it by the care of the callers above.
fn run_with(mut run: ProgramRun, frame: &[u8]) -> io::Result<u32> {
    run.data_size_in = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    run.data_in = frame.as_ptr().addr() as u64;
    // SAFETY: pointer and size describe `run`, where the kernel writes the result; the frame that it refers to
    // lives through the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, PROGRAM_RUN, &raw mut run, mem::size_of::<ProgramRun>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(run.result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_as_the_kernel_lays_them_out() {
        assert_eq!(mem::size_of::<ProgramLoad>(), 72);
        assert_eq!(mem::offset_of!(ProgramLoad, name), 48);
        assert_eq!(mem::size_of::<MapUpdate>(), 32);
        assert_eq!(mem::size_of::<ProgramRun>(), 80);
        assert_eq!(mem::offset_of!(ProgramRun, flags), 64);
        assert_eq!(named(b"a name that is too long"), *b"a name that is \0");
    }
}
