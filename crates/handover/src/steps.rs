//! The steps that every succession has in common.
//!
//! | new process                        | old process                                        |
//! |------------------------------------|----------------------------------------------------|
//! | `begin`                            | leaves what only one of them can have, `begun`     |
//! | opens the rest, `ready N`          | takes no more work; what it sends, then `stopped`  |
//! | serves                             | finishes within N seconds                          |

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::Channel;

/// Time that either side may take for a step.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time that the old process may take to finish when the new one does not say.
const DRAIN: Duration = Duration::from_secs(3600);

/// A message and the descriptors that came with it.
pub type Message = (Vec<u8>, Vec<OwnedFd>);

/// New process: begins the succession.
///
/// # Errors
/// When the old process breaks off or says something else.
pub fn begin(channel: &Channel) -> io::Result<()> {
    channel.patience(Some(PATIENCE))?;
    channel.send(b"begin", &[])?;
    expect(channel, b"begun")
}

/// New process: takes over; returns what the old process sent before it stopped.
///
/// # Errors
/// When the old process breaks off.
pub fn ready(channel: &Channel) -> io::Result<Vec<Message>> {
    channel.send(format!("ready {}", drain().as_secs()).as_bytes(), &[])?;
    let mut messages = Vec::new();
    loop {
        let message = channel.receive()?;
        if message.0 == b"stopped" {
            return Ok(messages);
        }
        messages.push(message);
    }
}

/// New process: takes what the old one still has to say, until it is gone. Blocks.
pub fn hear_out(channel: &Channel, mut each: impl FnMut(Vec<u8>)) {
    if channel.patience(None).is_err() {
        return;
    }
    while let Ok((message, _)) = channel.receive() {
        each(message);
    }
}

/// Old process: runs `leave` when a successor begins, and returns the time that it leaves to this process
/// once it is ready. What is sent then ends with [`stopped`].
///
/// # Errors
/// When the successor breaks off; nothing has changed then but what `leave` did.
pub fn heed(channel: &Channel, leave: impl FnOnce()) -> io::Result<Duration> {
    channel.patience(Some(PATIENCE))?;
    expect(channel, b"begin")?;
    leave();
    channel.send(b"begun", &[])?;
    let (message, _) = channel.receive()?;
    let text = String::from_utf8_lossy(&message);
    let seconds = text.strip_prefix("ready ").and_then(|text| text.parse().ok());
    seconds.map(Duration::from_secs).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Old process: everything is the successor's now.
///
/// # Errors
/// When the successor is gone.
pub fn stopped(channel: &Channel) -> io::Result<()> {
    channel.send(b"stopped", &[])
}

/// How long the old process may live on, from `CJ_DRAIN_DEADLINE` in seconds.
fn drain() -> Duration {
    let text = std::env::var("CJ_DRAIN_DEADLINE").unwrap_or_default();
    text.trim().parse().map_or(DRAIN, Duration::from_secs)
}

fn expect(channel: &Channel, word: &[u8]) -> io::Result<()> {
    if channel.receive()?.0 == word { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}
