//! The ZC library: found, loaded, and of the version of the kernel's module.

use std::ffi::{CStr, OsStr};
use std::fmt;

use pfring_sys::zc::Zc;

use crate::Statistics;
use crate::system;

/// The name under which the library is looked for, where the dynamic linker looks (`ld.so`(8)).
pub const LIBRARY: &str = "libpfring.so";

/// Why PF_RING cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no such library, or it cannot be loaded.
    #[error(
        "{name} cannot be loaded ({cause}): install ntop's package pfring, and run ldconfig when it is in a folder \
         of its own"
    )]
    Missing {
        /// What was looked for.
        name: String,
        /// What the dynamic linker says.
        cause: String,
    },
    /// It has not every function that is needed.
    #[error(
        "{name} lacks a function that the station calls ({cause}): it is built without ZC, or of another age; \
         install ntop's package pfring"
    )]
    Function {
        /// The library.
        name: String,
        /// What the dynamic linker says.
        cause: String,
    },
    /// The kernel's module is not loaded.
    #[error(
        "{path}: not there, so the kernel module pf_ring is not loaded: modprobe pf_ring (package pfring-dkms)"
    )]
    NoModule {
        /// What was looked for.
        path: String,
    },
    /// The library and the module do not belong together.
    #[error(
        "PF_RING's library is {library} and its kernel module {module}: they must be the same version; install \
         pfring={module}, or reload the module of the installed one"
    )]
    Version {
        /// Version of the library.
        library: String,
        /// Version of the module.
        module: String,
    },
}

impl LoadError {
    /// What the loader's `error` means for the library `name`.
    pub(crate) fn of(name: &OsStr, error: &pfring_sys::Error) -> Self {
        use std::error::Error;
        let name = name.to_string_lossy().into_owned();
        // The linker's own words stand in the source, where there is one.
        let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        match error {
            pfring_sys::Error::DlSym { .. } | pfring_sys::Error::DlSymUnknown => {
                Self::Function { name, cause }
            }
            _ => Self::Missing { name, cause },
        }
    }
}

/// The loaded ZC library. It is never unloaded: threads of its own may run for as long as the process does.
pub struct Library {
    pub(crate) zc: Zc,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("version", &self.version()).finish_non_exhaustive()
    }
}

impl Library {
    /// Loads the library and compares it with the kernel's module.
    ///
    /// # Errors
    /// When one of them is missing or they do not belong together.
    pub fn load() -> Result<&'static Self, LoadError> {
        let Some(module) = system::module_version() else {
            return Err(LoadError::NoModule { path: system::INFO.to_owned() });
        };
        let library = Self::open(OsStr::new(LIBRARY))?;
        let version = library.version();
        match (numbers(&version), numbers(&module)) {
            (Some(a), Some(b)) if a != b => Err(LoadError::Version { library: version, module }),
            _ => Ok(library),
        }
    }

    /// Loads the library `name`, a path or a name that the dynamic linker finds, without a look at the module.
    ///
    /// # Errors
    /// When it cannot be loaded or lacks a function.
    pub fn open(name: &OsStr) -> Result<&'static Self, LoadError> {
        // SAFETY: loading runs the library's initialisers, which is what the operator who installed it wants; the
        // functions are declared as the library's interface is published.
        match unsafe { Zc::new(name) } {
            Ok(zc) => Ok(Box::leak(Box::new(Self { zc }))),
            Err(error) => Err(LoadError::of(name, &error)),
        }
    }

    /// Version of the library, as it writes it.
    pub fn version(&self) -> String {
        // SAFETY: the function takes nothing, and returns a text that is there as long as the library.
        let text = unsafe { self.zc.pfring_zc_version() };
        if text.is_null() {
            return String::new();
        }
        // SAFETY: not null, and ends with a zero as a C string does.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    /// Counters of a queue or device.
    ///
    /// # Safety
    /// `queue` must be a queue or device of this library that is still open.
    pub(crate) unsafe fn statistics(
        &self,
        queue: *mut pfring_sys::zc::pfring_zc_queue,
    ) -> Option<Statistics> {
        let mut stat = pfring_sys::zc::pfring_zc_stat { recv: 0, sent: 0, drop: 0 };
        // SAFETY: the queue is open, as the caller promises, and `stat` is a place for the answer.
        let code = unsafe { self.zc.pfring_zc_stats(queue, &raw mut stat) };
        let pfring_sys::zc::pfring_zc_stat { recv: received, sent, drop: dropped } = stat;
        (code >= 0).then_some(Statistics { received, sent, dropped })
    }
}

/// The three numbers that a version begins with; what follows them differs between library and module.
fn numbers(version: &str) -> Option<[u32; 3]> {
    let mut parts = version.trim_start_matches('v').splitn(4, '.').map(|part| {
        let digits = part.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().ok()
    });
    Some([parts.next()??, parts.next()??, parts.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_first_three_numbers() {
        for text in ["8.9.0", "8.9.0.241017", "v8.9.0-rc1", "8.9.0 (dev:abc)"] {
            assert_eq!(numbers(text), Some([8, 9, 0]), "{text}");
        }
        for text in ["", "8.9", "unknown", "8.x.0"] {
            assert_eq!(numbers(text), None, "{text}");
        }
    }

    #[test]
    fn a_library_that_is_not_there_is_named_with_the_remedy() {
        let error = Library::open(OsStr::new("libpfring-of-nobody.so")).unwrap_err().to_string();
        for part in ["libpfring-of-nobody.so", "No such file", "package pfring"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
