//! Makes the station's key pair (`spec/operations.md` 9.6).

use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use keys::KeyPair;
use registration::signing::ResponseSigner;
use zeroize::Zeroizing;

/// Makes the station's key pair: writes `pubkey` (32 bytes) and `privkey` (private, then public
/// key, 64 bytes, mode 0600). An existing pair is kept as `pubkey.old` and `privkey.old`.
#[derive(Debug, Clone, Parser)]
#[command(name = "genkey", version)]
pub struct Arguments {
    /// Folder to write to.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// Refuse to replace an existing key.
    #[arg(long)]
    no_clobber: bool,
    /// Also print the public key in Z85, as ZeroMQ configurations write it.
    #[arg(long)]
    print_z85: bool,
}

impl Arguments {
    /// Parses the arguments of this process; a wrong one prints usage and exits with 1, as the
    /// reference does.
    pub fn of_process() -> Self {
        Self::try_parse().unwrap_or_else(|error| {
            // Nothing better can be done when the terminal is gone.
            let _ = error.print();
            std::process::exit(i32::from(error.use_stderr()));
        })
    }
}

/// Runs the command.
pub fn main(arguments: Arguments) -> ExitCode {
    match generate(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("genkey: error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn generate(arguments: &Arguments) -> Result<(), String> {
    let dir = &arguments.output;
    let (private, public) = (dir.join("privkey"), dir.join("pubkey"));
    if arguments.no_clobber && private.exists() {
        return Err(format!("{} exists and --no-clobber is given", private.display()));
    }
    println!("Creating private station key...");
    let pair = KeyPair::generate(&mut rand::rng());
    println!("Generating client public key...");
    println!("Writing key files...");
    let failed = |e: io::Error| format!("{}: {e}", dir.display());
    std::fs::create_dir_all(dir).map_err(failed)?;
    replace(&public, pair.public_file(), 0o644).map_err(failed)?;
    replace(&private, &*pair.private_file(), 0o600).map_err(failed)?;
    println!("Wrote files pubkey and privkey");
    println!("{}", signing_line(&pair));
    if arguments.print_z85 {
        println!("{}", pair.public_z85());
    }
    Ok(())
}

/// What stations verify responses with when a registrar in CURVE mode has this pair as its
/// `zmq_privkey_path` (`spec/registrar.md` 4.3).
fn signing_line(pair: &KeyPair) -> String {
    let mut private = Zeroizing::new([0; 32]);
    private.copy_from_slice(&pair.private_file()[..32]);
    let public = ResponseSigner::derived(&private).public();
    let digits: String = public.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("A registrar with this key signs responses, signing_pubkey = \"{digits}\"")
}

/// Writes through a temporary file; what was there before is kept with the suffix `.old`.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let fresh = with(".new");
    let _ = std::fs::remove_file(&fresh);
    let mut file = std::fs::File::options().write(true).create_new(true).mode(mode).open(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    if path.exists() {
        std::fs::rename(path, with(".old"))?;
    }
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use registration::verifying::ResponseVerifier;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn says_how_responses_are_verified() {
        let pair = KeyPair::generate(&mut rand::rng());
        let line = signing_line(&pair);
        let digits = line.split('"').nth(1).unwrap();
        let key: Vec<u8> = (0..64)
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
            .collect();
        let private = pair.private_file()[..32].try_into().unwrap();
        let verifier = ResponseVerifier::ed25519(key[..].try_into().unwrap()).unwrap();
        assert!(verifier.verifies(b"m", &ResponseSigner::derived(&private).sign(b"m")));
    }

    #[test]
    fn writes_a_pair_and_keeps_the_former_one() {
        let dir = tempfile::tempdir().unwrap();
        let arguments =
            |no_clobber| Arguments { output: dir.path().to_owned(), no_clobber, print_z85: false };
        generate(&arguments(false)).unwrap();
        let first = std::fs::read(dir.path().join("privkey")).unwrap();
        let public = std::fs::read(dir.path().join("pubkey")).unwrap();
        assert_eq!((first.len(), public.len()), (64, 32));
        assert_eq!(first[32..], public);
        assert_eq!(first[0] & 7, 0);
        assert_eq!(first[31] & 0xc0, 0x40);
        let private: [u8; 32] = first[..32].try_into().unwrap();
        assert_eq!(keys::public_key(&private).as_slice(), public);
        let mode = std::fs::metadata(dir.path().join("privkey")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        assert!(generate(&arguments(true)).unwrap_err().contains("--no-clobber"));
        generate(&arguments(false)).unwrap();
        assert_eq!(std::fs::read(dir.path().join("privkey.old")).unwrap(), first);
        assert_ne!(std::fs::read(dir.path().join("privkey")).unwrap(), first);
    }
}
