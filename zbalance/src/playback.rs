//! How recordings are played (`spec/ingest.md` 8.7).

use capture::{Pace, Rate};
use clap::Args;

/// Options for sources that are recordings.
#[derive(Debug, Clone, PartialEq, Default, Args)]
pub struct Playback {
    /// Play pcap: sources at this multiple of the speed at which they were recorded; without it, or --pps, as fast as
    /// they are read.
    #[arg(long, value_name = "FACTOR", value_parser = positive, conflicts_with = "pps")]
    pub speed: Option<f64>,
    /// Play this many packets a second of each pcap: source.
    #[arg(long, value_name = "PACKETS", value_parser = positive)]
    pub pps: Option<f64>,
    /// Play pcap: sources again and again; otherwise zbalance ends when consumers have read them to their end.
    #[arg(long = "loop")]
    pub forever: bool,
}

impl Playback {
    /// When the packets of a recording come.
    pub fn pace(&self) -> Pace {
        let rate = match (self.speed, self.pps) {
            (Some(factor), _) => Rate::Recorded(factor),
            (None, Some(rate)) => Rate::PerSecond(rate),
            (None, None) => Rate::Fast,
        };
        Pace { rate, forever: self.forever }
    }

    /// The option that has no meaning without a recording, if one is given.
    pub(crate) const fn needless(&self, has_recording: bool) -> Option<&'static str> {
        match self {
            _ if has_recording => None,
            Self { speed: Some(_), .. } => Some("--speed"),
            Self { pps: Some(_), .. } => Some("--pps"),
            Self { forever: true, .. } => Some("--loop"),
            _ => None,
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}
