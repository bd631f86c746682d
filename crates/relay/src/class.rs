//! Classes of connection errors (`spec/application.md` 11.6).

use std::fmt;
use std::io;

/// Class of an error on a connection; its text never holds an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// End of file, closed socket, EPIPE: not an error in reports.
    Closed,
    /// ECONNRESET.
    Reset,
    /// ECONNREFUSED.
    Refused,
    /// ECONNABORTED.
    Aborted,
    /// EHOSTUNREACH, ENETUNREACH and other routing errors.
    Unreachable,
    /// A deadline, ETIMEDOUT.
    Timeout,
    /// A wrapped stream that does not verify.
    Tampered,
    /// Anything else, by errno.
    Other(i32),
}

impl ErrorClass {
    /// The class as reports show it: a plain close is no error.
    pub fn reported(self) -> Option<Self> {
        (self != Self::Closed).then_some(self)
    }
}

impl From<&io::Error> for ErrorClass {
    fn from(error: &io::Error) -> Self {
        use io::ErrorKind as K;
        match error.kind() {
            K::UnexpectedEof | K::BrokenPipe | K::NotConnected => Self::Closed,
            K::ConnectionReset => Self::Reset,
            K::ConnectionRefused => Self::Refused,
            K::ConnectionAborted => Self::Aborted,
            K::HostUnreachable | K::NetworkUnreachable | K::NetworkDown => Self::Unreachable,
            K::TimedOut => Self::Timeout,
            K::InvalidData => Self::Tampered,
            _ => Self::Other(error.raw_os_error().unwrap_or(0)),
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Reset => f.write_str("rst"),
            Self::Refused => f.write_str("refused"),
            Self::Aborted => f.write_str("aborted"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Timeout => f.write_str("timeout"),
            Self::Tampered => f.write_str("tampered"),
            Self::Other(errno) => write!(f, "errno {errno}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_never_show_an_address() {
        let unreachable =
            io::Error::from_raw_os_error(rustix::io::Errno::NETUNREACH.raw_os_error());
        assert_eq!(ErrorClass::from(&unreachable).to_string(), "unreachable");
        let odd = io::Error::from_raw_os_error(rustix::io::Errno::NOBUFS.raw_os_error());
        assert_eq!(ErrorClass::from(&odd).to_string(), "errno 105");
        assert_eq!(ErrorClass::Closed.reported(), None);
    }
}
