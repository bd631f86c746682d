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
const LINK_CREATE: c_int = 28;

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

/// Which socket takes the packets of which receive queue.
#[derive(Debug)]
pub(super) struct SocketMap(pub(super) OwnedFd);

impl SocketMap {
    /// A map for `queues` receive queues.
    pub(super) fn new(queues: u32) -> io::Result<Self> {
        descriptor(
            MAP_CREATE,
            &MapCreate {
                map_type: MAP_TYPE_XSK,
                key_size: 4,
                value_size: 4,
                max_entries: queues,
                flags: 0,
                inner_map: 0,
                numa_node: 0,
                name: named(b"conjure_queues"),
            },
        )
        .map(Self)
    }

    /// Gives the packets of `queue` to `socket`.
    pub(super) fn insert(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let socket = number(socket);
        call(
            MAP_UPDATE,
            &MapUpdate {
                map: number(self.0.as_fd()),
                padding: 0,
                key: (&raw const queue).addr() as u64,
                value: (&raw const socket).addr() as u64,
                flags: 0,
            },
        )
        .map(drop)
    }
}

/// One instruction: operation, destination and source register, offset, immediate value.
const fn instruction(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> u64 {
    let [a, b] = offset.to_le_bytes();
    let [c, d, e, f] = value.to_le_bytes();
    u64::from_ne_bytes([code, src << 4 | dst, a, b, c, d, e, f])
}

/// The program: the packet goes to the socket of its receive queue, or on into the host when there is none.
fn text(map: &SocketMap) -> [u64; 6] {
    const LOAD_WORD: u8 = 0x61;
    const LOAD_MAP: u8 = 0x18;
    const MOVE: u8 = 0xb7;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    /// Offset of the receive queue in the context.
    const QUEUE: i16 = 16;
    /// Says that the value of [`LOAD_MAP`] is a descriptor.
    const MAP_BY_DESCRIPTOR: u8 = 1;
    const REDIRECT_MAP: i32 = 51;
    /// What `redirect_map` answers for a queue without socket.
    const PASS: i32 = 2;
    [
        instruction(LOAD_WORD, 2, 1, QUEUE, 0),
        instruction(LOAD_MAP, 1, MAP_BY_DESCRIPTOR, 0, map.0.as_raw_fd()),
        instruction(0, 0, 0, 0, 0),
        instruction(MOVE, 3, 0, 0, PASS),
        instruction(CALL, 0, 0, 0, REDIRECT_MAP),
        instruction(EXIT, 0, 0, 0, 0),
    ]
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

/// Loads the program and attaches it to the interface with this index.
pub(super) fn attach(map: &SocketMap, interface: u32, hook: Hook) -> io::Result<Attached> {
    const DRIVER: u32 = 1 << 2;
    const GENERIC: u32 = 1 << 1;
    let (program, fragments) = match load(map, HAS_FRAGMENTS) {
        // Kernels before 5.18 know no fragments.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (load(map, 0)?, false),
        loaded => (loaded?, true),
    };
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
    Ok(Attached { link: descriptor(LINK_CREATE, &link)?, fragments })
}

fn load(map: &SocketMap, flags: u32) -> io::Result<OwnedFd> {
    const LICENCE: &CStr = c"MIT";
    let text = text(map);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_as_the_kernel_lays_them_out() {
        assert_eq!(instruction(0x61, 2, 1, 16, 0).to_ne_bytes(), [0x61, 0x12, 16, 0, 0, 0, 0, 0]);
        assert_eq!(
            instruction(0xb7, 3, 0, 0, -2).to_ne_bytes(),
            [0xb7, 3, 0, 0, 0xfe, 0xff, 0xff, 0xff]
        );
        assert_eq!(mem::size_of::<ProgramLoad>(), 72);
        assert_eq!(mem::offset_of!(ProgramLoad, name), 48);
        assert_eq!(mem::size_of::<MapUpdate>(), 32);
        assert_eq!(named(b"a name that is too long"), *b"a name that is \0");
    }
}
