//! What CURVE mode adds (`spec/registrar.md` 4.3 and 10.2): the server key, the stations that may
//! subscribe, and the signature of responses.

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bus::{Admitted, CurveKeys, CurveServer};
use conf::{SigningMode, ZmqAuth};
use parking_lot::Mutex;
use registration::signing::ResponseSigner;
use zeroize::Zeroizing;

use crate::log;

/// Decisions printed within one second; strangers cause them.
const DECISIONS_PER_SECOND: u32 = 20;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read.
    #[error("{key}: cannot read {}: {source}", .path.display())]
    Read {
        /// Configuration key.
        key: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too short.
    #[error(
        "{key}: Private Key too short: {} has {found} bytes, {needed} are needed; write it with \
         genkey", .path.display()
    )]
    TooShort {
        /// Configuration key.
        key: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Length of the file.
        found: usize,
        /// Length that is needed.
        needed: usize,
    },
}

/// Keys of a registrar in CURVE mode.
#[derive(Debug)]
pub struct Auth {
    /// The bus side.
    pub server: Arc<CurveServer>,
    /// Signs responses.
    pub signer: Arc<ResponseSigner>,
}

impl Auth {
    /// Reads the keys that `registrar` names; `None` in NULL mode. Remarks are returned beside.
    ///
    /// # Errors
    /// [`KeyError`] when a key file is not usable.
    pub fn load(registrar: &conf::Registrar) -> Result<(Option<Self>, Vec<String>), KeyError> {
        const KEY: &str = "zmq_privkey_path";
        let mut remarks = Vec::new();
        // The configuration refuses CURVE without a path.
        let (ZmqAuth::Curve, Some(path)) = (registrar.zmq_auth, &registrar.zmq_privkey_path) else {
            return Ok((None, remarks));
        };
        let file: Zeroizing<[u8; 64]> = read(KEY, path, &mut remarks)?;
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(&file[..32]);
        let keys = CurveKeys::new(&secret);
        if file[32..] != keys.public()[..] {
            remarks.push(format!(
                "{KEY}: the second half of {} is not the CURVE public key; stations need {}",
                path.display(),
                keys::z85(keys.public())
            ));
        }
        let signer = match (registrar.signing_mode, &registrar.signing_key_path) {
            (SigningMode::Legacy, _) => ResponseSigner::legacy(&file),
            (SigningMode::Ed25519, Some(path)) => {
                let seed: Zeroizing<[u8; 32]> = read("signing_key_path", path, &mut remarks)?;
                if *seed == *secret {
                    remarks.push(
                        "signing_key_path: the same key as zmq_privkey_path, which may have signed \
                         in the legacy form; both together give the signing key away, so a key \
                         derived from it signs"
                            .to_owned(),
                    );
                    ResponseSigner::derived(&seed)
                } else {
                    ResponseSigner::from_seed(&seed)
                }
            }
            (SigningMode::Ed25519, None) => ResponseSigner::derived(&secret),
        };
        let admitted = if registrar.any_station {
            Admitted::All
        } else {
            if registrar.station_pubkeys.is_empty() {
                remarks.push("station_pubkeys: no key, so no station can subscribe".to_owned());
            }
            Admitted::Listed(registrar.station_pubkeys.iter().copied().collect())
        };
        let observer = registrar.zmq_auth_verbose.then_some(print_decision as fn(&[u8; 32], bool));
        let server = Arc::new(CurveServer { keys, admitted: admitted.into(), observer });
        Ok((Some(Self { server, signer: Arc::new(signer) }), remarks))
    }

    /// The key that stations enter as `pubkey`, in Z85.
    pub fn public_z85(&self) -> String {
        keys::z85(self.server.keys.public())
    }

    /// The key that verifies responses, in hexadecimal digits.
    pub fn signing_public(&self) -> String {
        self.signer.public().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Says that decisions will be printed, when they will.
    pub fn announce(&self) {
        if self.server.observer.is_some() {
            log::plain("AUTH: Starting");
        }
    }
}

/// Reads the first `N` bytes of a key file.
pub(crate) fn read<const N: usize>(
    key: &'static str,
    path: &Path,
    remarks: &mut Vec<String>,
) -> Result<Zeroizing<[u8; N]>, KeyError> {
    let failed = |source| KeyError::Read { key, path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    let mut content = Zeroizing::new(Vec::with_capacity(N));
    file.take(N as u64).read_to_end(&mut content).map_err(failed)?;
    let short =
        || KeyError::TooShort { key, path: path.to_owned(), found: content.len(), needed: N };
    let bytes = Zeroizing::new(*content.first_chunk().ok_or_else(short)?);
    if mode & 0o077 != 0 {
        remarks.push(format!(
            "{key}: {} has mode {mode:04o}, others may read it; chmod 0600 it",
            path.display()
        ));
    }
    Ok(bytes)
}

/// The second being counted, what was printed in it, and what was left out.
#[derive(Debug)]
struct Budget {
    since: Option<Instant>,
    printed: u32,
    left_out: u64,
}

impl Budget {
    const fn new() -> Self {
        Self { since: None, printed: 0, left_out: 0 }
    }

    /// Whether a line may be printed at `now`, and how many were left out before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let running = self.since.is_some_and(|since| now.duration_since(since).as_secs() < 1);
        if !running {
            (self.since, self.printed) = (Some(now), 0);
        }
        if self.printed == DECISIONS_PER_SECOND {
            self.left_out += 1;
            return None;
        }
        self.printed += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

static BUDGET: Mutex<Budget> = Mutex::new(Budget::new());

fn print_decision(key: &[u8; 32], admitted: bool) {
    let Some(left_out) = BUDGET.lock().take(Instant::now()) else { return };
    if left_out > 0 {
        log::plain(&format!("AUTH: {left_out} decisions not printed"));
    }
    log::plain(&decision(key, admitted));
}

fn decision(key: &[u8; 32], admitted: bool) -> String {
    let word = if admitted { "ALLOWED" } else { "DENIED" };
    format!("AUTH: {word} (CURVE) domain=\"*\" client_key=\"{}\"", keys::z85(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use vectors::{hex, load};

    fn registrar(dir: &Path, extra: &str) -> conf::Registrar {
        let text = format!(
            "log_level = \"error\"\nzmq_bind_addr = \"*\"\nzmq_auth_type = \"CURVE\"\n\
             clientconf_path = \"/c\"\nzmq_privkey_path = \"{}\"\n{extra}",
            dir.join("zmq").display()
        );
        conf::Registrar::parse(&text, Path::new("r.toml")).unwrap().value
    }

    #[test]
    fn keys_signatures_and_stations_of_the_configuration() {
        let file = load("registrar-keys.json");
        let case = &file["keys"][0];
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("zmq"), hex(&case["privkey_file"])).unwrap();
        std::fs::write(dir.path().join("sign"), [9; 32]).unwrap();
        let signed = &case["signatures"][1];
        let message = hex(&signed["message"]);
        let load = |extra: &str| {
            let (auth, remarks) = Auth::load(&registrar(dir.path(), extra)).unwrap();
            (auth.unwrap(), remarks.join("\n"))
        };

        let (auth, remarks) = load("");
        assert_eq!(auth.public_z85(), case["z85_public"].as_str().unwrap());
        assert_eq!(auth.signing_public(), case["derived_public"].as_str().unwrap());
        assert_eq!(auth.signer.sign(&message)[..], hex(&signed["signature_derived_seed"]));
        assert!(!auth.server.admitted.admits(&[1; 32]));
        assert!(remarks.contains("no station can subscribe"), "{remarks}");
        assert!(auth.server.observer.is_none());

        let (auth, _) = load("signing_mode = \"legacy\"\nstation_pubkeys = [\"*\"]\n");
        assert_eq!(auth.signer.sign(&message)[..], hex(&signed["signature_with_genkey_file"]));
        assert!(auth.server.admitted.admits(&[1; 32]));

        let own = dir.path().join("sign");
        let (auth, _) = load(&format!("signing_key_path = \"{}\"\n", own.display()));
        let expected = ResponseSigner::from_seed(&[9; 32]).public();
        assert_eq!(auth.signer.public(), expected);

        let same = dir.path().join("zmq");
        let (auth, remarks) = load(&format!("signing_key_path = \"{}\"\n", same.display()));
        assert_eq!(auth.signing_public(), case["derived_public"].as_str().unwrap());
        assert!(remarks.contains("give the signing key away"), "{remarks}");
        assert!(!format!("{auth:?}").contains("32, 57"), "secrets are not printed");
    }

    #[test]
    fn a_short_or_missing_key_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = |text: &str| {
            let error = Auth::load(&registrar(dir.path(), text)).unwrap_err().to_string();
            assert!(error.starts_with("zmq_privkey_path: "), "{error}");
            error
        };
        assert!(error("").contains("cannot read"));
        std::fs::write(dir.path().join("zmq"), [1; 63]).unwrap();
        assert!(error("").contains("Private Key too short: ") && error("").contains("63 bytes"));
    }

    #[test]
    fn decisions_look_as_tools_expect_and_are_bounded() {
        let z85 = "s5gkB.U$dl]gO=F{Qo3=4Api-T$5#tpwaT/bSOr@";
        let text = registrar(Path::new("/"), &format!("station_pubkeys = [\"{z85}\"]\n"));
        let key = text.station_pubkeys[0];
        let expected = format!("AUTH: DENIED (CURVE) domain=\"*\" client_key=\"{z85}\"");
        assert_eq!(decision(&key, false), expected);
        assert!(decision(&key, true).starts_with("AUTH: ALLOWED (CURVE) "));

        let (mut budget, now) = (Budget::new(), Instant::now());
        for _ in 0..DECISIONS_PER_SECOND {
            assert_eq!(budget.take(now), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(budget.take(now), None);
        }
        assert_eq!(budget.take(now + Duration::from_secs(1)), Some(1000));
        assert_eq!(budget.take(now + Duration::from_secs(1)), Some(0));
    }
}
