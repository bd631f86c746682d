//! From start to end.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use telemetry::process::{self, Exit};

use crate::anonymize::Key;
use crate::arguments::Arguments;
use crate::frame;
use crate::geo::{Geo, GeoError};
use crate::pcapng::Writer;
use crate::select::{Counts, Selection, Verdict};
use crate::sources::{self, Next, SourceError};

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Geo(#[from] GeoError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{path}: {cause}", path = path.display())]
    Write { path: PathBuf, cause: io::Error },
    #[error("cannot start: {0}")]
    System(io::Error),
}

impl Failure {
    const fn exit(&self) -> Exit {
        match self {
            Self::Geo(_) | Self::Source(SourceError::File(_)) => Exit::NoInput,
            Self::Source(SourceError::Interface(capture::OpenError::Permission { .. })) => {
                Exit::NoPerm
            }
            Self::Source(SourceError::Read(_)) => Exit::IoErr,
            Self::Source(_) => Exit::Unavailable,
            Self::Write { .. } => Exit::CantCreat,
            Self::System(_) => Exit::OsErr,
        }
    }
}

/// Captures as `options` say.
pub fn main(options: Arguments) -> Exit {
    match run(&options) {
        Ok(counts) => {
            eprintln!(
                "captool: {} packets of {} flows written to {}, {} seen",
                counts.written,
                counts.flows,
                options.out.display(),
                counts.seen
            );
            if counts.overflowed > 0 {
                eprintln!("captool: {} flows left out: too many at one time", counts.overflowed);
            }
            Exit::Ok
        }
        Err(failure) => {
            eprintln!("captool: {failure}");
            failure.exit()
        }
    }
}

fn run(options: &Arguments) -> Result<Counts, Failure> {
    let geo = Geo::open(&options.asn_db, &options.cc_db)?;
    let stop = process::stop_on_signal().map_err(Failure::System)?;
    let failed = |cause| Failure::Write { path: options.out.clone(), cause };
    let out = create(&options.out).map_err(failed)?;
    write_options(options)?;
    let mut writer = Writer::new(BufWriter::new(out)).map_err(failed)?;
    let mut selection = Selection::new(options.clone(), Key::random(), geo);
    let end = options.timeout.map(|time| Instant::now() + time);
    let stopped = || stop.load(Ordering::Relaxed) || end.is_some_and(|end| Instant::now() >= end);
    let mut buffer = Vec::with_capacity(65_536);
    sources::run(options, &stopped, &mut |data, link, time| {
        let Some(packet) = frame::parse(data, link) else { return Ok(Next::Go) };
        match selection.decide(&packet) {
            Verdict::Leave => {}
            Verdict::Stop => return Ok(Next::End),
            Verdict::Write { flow, upload } => {
                buffer.clear();
                buffer.extend_from_slice(&data[packet.ip.0..packet.ip.1]);
                frame::rewrite(&mut buffer, &packet, upload, &flow.pseudonym);
                writer.packet(&buffer, packet.length, time, flow)?;
            }
        }
        Ok(Next::Go)
    })?;
    writer.finish().map_err(failed)?;
    Ok(selection.counts())
}

/// Traffic is nobody else's business, anonymised or not.
fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn write_options(options: &Arguments) -> Result<(), Failure> {
    let path = options.options_file();
    let text = toml::to_string(options).unwrap_or_default();
    create(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|cause| Failure::Write { path, cause })
}
