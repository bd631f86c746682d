//! libpcap's compiler of filter expressions.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use libloading::Library;

use crate::program::{Instruction, InvalidProgram, Program};

/// Names of the library, of Debian's package first.
const NAMES: [&str; 3] = ["libpcap.so.0.8", "libpcap.so.1", "libpcap.so"];
/// Link type of frames.
const ETHERNET: c_int = 1;
/// Longest frame.
const SNAPLEN: c_int = 262_144;
/// No network whose broadcast address could be meant.
const NO_NETMASK: u32 = u32::MAX;

/// Why there is no compiler.
#[derive(Debug, thiserror::Error)]
#[error(
    "filter expressions need libpcap, which cannot be loaded ({0}); install it (Debian: libpcap0.8)"
)]
pub struct LoadError(libloading::Error);

/// Why an expression is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The compiler does not understand it.
    #[error("`{expression}` is no filter expression: {reason} (see pcap-filter(7))")]
    Expression {
        /// The text.
        expression: String,
        /// The compiler's words.
        reason: String,
    },
    /// What the compiler made cannot be run.
    #[error("libpcap made a program that cannot be run: {0}")]
    Program(#[from] InvalidProgram),
}

#[repr(C)]
struct RawInstruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

#[repr(C)]
struct RawProgram {
    len: u32,
    instructions: *mut RawInstruction,
}

type OpenDead = unsafe extern "C" fn(c_int, c_int) -> *mut c_void;
type Close = unsafe extern "C" fn(*mut c_void);
type Compile =
    unsafe extern "C" fn(*mut c_void, *mut RawProgram, *const c_char, c_int, u32) -> c_int;
type FreeCode = unsafe extern "C" fn(*mut RawProgram);
type GetError = unsafe extern "C" fn(*mut c_void) -> *mut c_char;

/// The loaded library. It stays loaded, so that a process that has confined itself can compile again.
#[derive(Debug)]
pub struct Compiler {
    open: OpenDead,
    close: Close,
    compile: Compile,
    free: FreeCode,
    error: GetError,
    // The functions above are its own.
    _library: Library,
}

impl Compiler {
    /// Loads the library.
    ///
    /// # Errors
    /// When it is not installed, or has not the functions.
    pub fn load() -> Result<Self, LoadError> {
        let mut last = None;
        for name in NAMES {
            // SAFETY: the library's initialisation has no conditions.
            match unsafe { Library::new(name) } {
                Ok(library) => return Self::of(library).map_err(LoadError),
                Err(error) => last = last.or(Some(error)),
            }
        }
        Err(LoadError(last.unwrap_or(libloading::Error::DlOpenUnknown)))
    }

    fn of(library: Library) -> Result<Self, libloading::Error> {
        // SAFETY: these are the types of libpcap's functions, and they are used while it is loaded.
        unsafe {
            Ok(Self {
                open: *library.get::<OpenDead>(b"pcap_open_dead\0")?,
                close: *library.get::<Close>(b"pcap_close\0")?,
                compile: *library.get::<Compile>(b"pcap_compile\0")?,
                free: *library.get::<FreeCode>(b"pcap_freecode\0")?,
                error: *library.get::<GetError>(b"pcap_geterr\0")?,
                _library: library,
            })
        }
    }

    /// Compiles `expression` for Ethernet frames with their VLAN tags in place.
    ///
    /// # Errors
    /// When it is no expression.
    pub fn compile(&self, expression: &str) -> Result<Program, CompileError> {
        let refused = |reason: &str| CompileError::Expression {
            expression: expression.to_owned(),
            reason: reason.to_owned(),
        };
        let text = CString::new(expression).map_err(|_| refused("it has a zero byte"))?;
        // SAFETY: no pointers are passed.
        let handle = unsafe { (self.open)(ETHERNET, SNAPLEN) };
        if handle.is_null() {
            return Err(refused("out of memory"));
        }
        let mut raw = RawProgram { len: 0, instructions: ptr::null_mut() };
        // SAFETY: an open handle, a structure to fill, and a terminated text.
        let status = unsafe { (self.compile)(handle, &raw mut raw, text.as_ptr(), 1, NO_NETMASK) };
        let compiled = if status == 0 {
            // SAFETY: the compiler filled it: `len` instructions, freed only below.
            let instructions =
                unsafe { std::slice::from_raw_parts(raw.instructions, raw.len as usize) };
            let copied: Vec<Instruction> = instructions
                .iter()
                .map(|i| Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k })
                .collect();
            // SAFETY: filled by the compiler, and not used any more.
            unsafe { (self.free)(&raw mut raw) };
            Program::new(&copied).map_err(CompileError::from)
        } else {
            // SAFETY: a terminated text of the handle, which is copied before it closes.
            let reason = unsafe { CStr::from_ptr((self.error)(handle)) };
            Err(refused(&reason.to_string_lossy()))
        };
        // SAFETY: opened above, and not used any more.
        unsafe { (self.close)(handle) };
        compiled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ethernet frame with tags, IPv4 and TCP.
    fn frame(tags: &[u16], port: u16) -> Vec<u8> {
        let mut frame = vec![2; 12];
        for tag in tags {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(port.to_be_bytes());
        frame.extend(443u16.to_be_bytes());
        frame.extend([0; 16]);
        frame
    }

    #[test]
    fn expressions_take_what_they_name() {
        let compiler = Compiler::load().unwrap();
        let takes = |expression: &str, frame: &[u8]| {
            compiler.compile(expression).unwrap().takes(frame, frame.len())
        };
        let plain = frame(&[], 80);
        for (expression, expected) in [
            ("", true),
            ("tcp", true),
            ("udp", false),
            ("ip6", false),
            ("src host 10.0.0.1 and dst port 443", true),
            ("dst net 10.0.0.0/30 and not src port 80", false),
            ("tcp[0:2] + 1 = 81", true),
            ("len >= 54", true),
            ("greater 55", false),
            ("vlan", false),
            ("ip[2:2] - ((ip[0] & 0xf) << 2) = 20", true),
        ] {
            assert_eq!(takes(expression, &plain), expected, "{expression}");
        }
        assert!(takes("vlan 100 and tcp port 80", &frame(&[100], 80)));
        assert!(takes("vlan 7 and vlan 100", &frame(&[7, 100], 80)));
        assert!(!takes("vlan 101", &frame(&[100], 80)));
        assert!(!takes("dst port 443", &plain[..35]), "the ports are cut off");
        let long: Vec<String> = (0..120).map(|n| format!("src port {n}")).collect();
        assert!(takes(&long.join(" or "), &plain) && !takes(&long[81..].join(" or "), &plain));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let compiler = Compiler::load().unwrap();
        let error = compiler.compile("tcp porrt 443").unwrap_err().to_string();
        assert!(error.starts_with("`tcp porrt 443` is no filter expression: "), "{error}");
        assert!(compiler.compile("tcp\0").is_err());
    }
}
