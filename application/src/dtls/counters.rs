//! What became of DTLS registrations and their sessions (`spec/transports.md` 8.7).

use std::fmt;

use crate::stats::{Gauge, Window};

/// Counters of the transport. An attempt is counted as created until its end, whatever that is.
#[derive(Debug, Default)]
pub struct Counters {
    /// Attempts for new registrations that are under way.
    pub created: Gauge,
    /// Sessions that the station dialled.
    pub dialled: Window,
    /// Sessions that a client dialled.
    pub listened: Window,
    /// Attempts that ended without a session.
    pub timeout: Window,
    /// Sessions whose peer did not hold the keys of the registration.
    pub refused: Window,
    /// Sessions that failed otherwise.
    pub failed: Window,
    /// Dials that were not made: no entry for address translation, or too many at one time.
    pub undialled: Window,
    /// Hellos of registrations that were answered before and come from elsewhere now.
    pub replayed: Window,
}

impl Counters {
    /// The end of a session that did not open.
    pub(super) fn ended(&self, why: transports::dtls::Ended) {
        use ::dtls::Closed;
        use transports::dtls::Ended;
        match why {
            Ended::Dtls(Closed::Timeout(None)) | Ended::Local => {}
            Ended::Dtls(Closed::Alert(_) | Closed::Timeout(Some(_)) | Closed::Finished) => {
                self.refused.count();
            }
            _ => self.failed.count(),
        }
    }

    /// The seven numbers of the connection lines since the last call (`spec/application.md` 16.4).
    pub fn line(&self) -> impl fmt::Display + use<> {
        let ends = [&self.dialled, &self.listened, &self.timeout, &self.refused, &self.failed];
        let [dialled, listened, timeout, refused, failed] = ends.map(Window::take);
        let sum = dialled + listened + timeout + refused + failed;
        let created = self.created.value();
        format!("{created} {dialled} {listened} {timeout} {refused} {failed} {sum}")
    }

    /// Everything since the start: name and number.
    pub fn totals(&self) -> Vec<(String, u64)> {
        [
            ("dtls_dialled", &self.dialled),
            ("dtls_listened", &self.listened),
            ("dtls_timeout", &self.timeout),
            ("dtls_refused", &self.refused),
            ("dtls_failed", &self.failed),
            ("dtls_undialled", &self.undialled),
            ("dtls_replayed", &self.replayed),
        ]
        .map(|(name, window)| (name.to_owned(), window.total()))
        .to_vec()
    }
}
