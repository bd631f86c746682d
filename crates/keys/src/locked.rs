//! Memory for a secret: a page of its own, kept out of swap, wiped when dropped.

use zeroize::Zeroize;

/// A page, so that unlocking one secret never unlocks another.
#[repr(C, align(4096))]
struct Page {
    secret: [u8; 32],
    rest: [u8; 4064],
}

/// 32 secret bytes. Where the system grants no locked memory (`RLIMIT_MEMLOCK`) they are wiped all the
/// same.
pub(crate) struct Locked(Box<Page>);

impl Locked {
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        let mut page = Box::new(Page { secret: [0; 32], rest: [0; 4064] });
        lock(&mut page);
        page.secret = *secret;
        Self(page)
    }

    pub(crate) const fn expose(&self) -> &[u8; 32] {
        &self.0.secret
    }
}

impl Clone for Locked {
    fn clone(&self) -> Self {
        Self::new(self.expose())
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.0.secret.zeroize();
        self.0.rest.zeroize();
        unlock(&mut self.0);
    }
}

#[allow(unsafe_code)]
fn lock(page: &mut Page) {
    // SAFETY: the range is one page of this process, and locking changes none of its bytes.
    let _ = unsafe { rustix::mm::mlock(std::ptr::from_mut(page).cast(), size_of::<Page>()) };
}

#[allow(unsafe_code)]
fn unlock(page: &mut Page) {
    // SAFETY: as in `lock`; the page belongs to this secret alone.
    let _ = unsafe { rustix::mm::munlock(std::ptr::from_mut(page).cast(), size_of::<Page>()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kilobytes that this process has locked.
    fn locked() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn a_secret_is_locked_as_long_as_it_lives() {
        let before = locked();
        let secrets: Vec<Locked> = (0..8).map(|byte| Locked::new(&[byte; 32])).collect();
        assert_eq!(secrets[7].clone().expose(), &[7; 32]);
        assert!(locked() >= before + 32, "{} kB", locked());
        drop(secrets);
        assert!(locked() < before + 32);
    }
}
