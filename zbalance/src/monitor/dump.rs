//! `zdump`: packets into a file.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use capture::pcapng::{LINK_ETHERNET, PcapngWriter, Record};
use clap::Parser;
use shm::Frame;
use telemetry::admin;
use telemetry::process::{self, Exit};

use super::view::{View, ViewError};

/// Writes packets of a running zbalance as pcapng, with the inputs of the balancer as interfaces.
///
/// No consumer loses a packet to it: it sees them through a mirror, of which there are two. What comes faster than it is
/// written is missing, and counted at the end.
///
/// The file names clients: it is made for its owner alone; captool writes one without their addresses.
#[derive(Debug, Clone, Parser)]
#[command(name = "zdump", version)]
pub struct Arguments {
    #[command(flatten)]
    view: View,
    /// File to write; - is standard output, e.g. for tshark -r -.
    #[arg(short = 'w', long = "write", value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Bytes of each packet at most.
    #[arg(short = 's', long, value_name = "BYTES", default_value_t = 262_144,
          value_parser = clap::value_parser!(u32).range(1..))]
    snaplen: u32,
}

/// The file, and the interfaces that are written of it.
struct Dump {
    writer: PcapngWriter<Box<dyn Write>>,
    names: Vec<String>,
    interfaces: u32,
    snaplen: u32,
}

impl Arguments {
    /// Parses the command line of this process and writes until it is told to end.
    pub fn main() -> ExitCode {
        super::main(Self::run)
    }

    fn run(&self) -> Exit {
        if self.file == Path::new("-") && io::stdout().is_terminal() {
            eprintln!(
                "zdump: standard output is a terminal: name a file with -w, or write to a program, e.g. | tshark -r -"
            );
            return Exit::Usage;
        }
        super::outcome("zdump", self.dump())
    }

    fn dump(&self) -> Result<(), ViewError> {
        let to_stdout = self.file == Path::new("-");
        let stop = process::stop_on_signal().map_err(ViewError::System)?;
        let mut watch = self.view.open("zdump")?;
        let name =
            if to_stdout { "standard output".into() } else { self.file.display().to_string() };
        let failed = |cause| ViewError::Write { to: name.clone(), cause };
        let out: Box<dyn Write> = if to_stdout {
            Box::new(BufWriter::new(io::stdout()))
        } else {
            Box::new(BufWriter::new(create(&self.file).map_err(failed)?))
        };
        let writer = PcapngWriter::new(out).map_err(failed)?;
        let names = names(self.view.cluster);
        let mut dump = Dump { writer, names, interfaces: 0, snaplen: self.snaplen };
        let mut flushed = watch.seen();
        while watch.burst(&stop, &mut |frame| dump.write(frame).map_err(failed))? {
            // Whoever reads along gets them at once when there are few.
            if to_stdout && watch.seen() != flushed {
                flushed = watch.seen();
                dump.writer.flush().map_err(failed)?;
            }
        }
        dump.writer.flush().map_err(failed)?;
        let seen = watch.seen();
        eprintln!("zdump: {} packets written to {name}", seen.packets);
        if seen.dropped > 0 {
            eprintln!("zdump: {} packets came faster than they were written", seen.dropped);
        }
        Ok(())
    }
}

impl Dump {
    fn write(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        let interface = u32::from(frame.interface);
        while self.interfaces <= interface {
            let name = self.names.get(self.interfaces as usize).map(String::as_str);
            self.writer.interface(LINK_ETHERNET, self.snaplen, name)?;
            self.interfaces += 1;
        }
        let length = frame.data.len();
        let data = &frame.data[..length.min(self.snaplen as usize)];
        let time = frame.timestamp().unwrap_or_else(now);
        self.writer.packet(&Record { interface, data, length, time, comments: &[] })
    }
}

/// Traffic is nobody else's business.
fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Names of the balancer's inputs, by their numbers; they only make the file better.
fn names(cluster: u32) -> Vec<String> {
    let text = shm::monitor(&admin::ipc_dir(), cluster).unwrap_or_default();
    let described: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let interfaces = described["interfaces"].as_array().cloned().unwrap_or_default();
    interfaces.iter().map(|i| i["name"].as_str().unwrap_or_default().to_owned()).collect()
}
