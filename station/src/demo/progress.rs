//! How far the demo is, for somebody who watches it in a terminal.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on standard error for `count` transfers; lines printed through [`ProgressBar::suspend`] stand
/// above it. Without a terminal there is none.
pub(super) fn of_transfers(count: usize) -> ProgressBar {
    let count = count as u64;
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::hidden());
    }
    let bar = ProgressBar::new(count);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len} transfers, {elapsed}")
    {
        bar.set_style(style);
    }
    bar.tick();
    bar
}
