//! How one registrar follows another: listening sockets change hands, requests that have begun are answered
//! where they began, and subscribers come over without missing a registration.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use conf::RegistrarLogLevel as Level;
use handover::{Channel, steps};
use telemetry::process;

use crate::daemon::Registrar;
use crate::log;

/// How long a successor keeps registrations for subscribers that come over.
pub(crate) const HELD: Duration = Duration::from_secs(10);
/// Time in which subscribers take what is queued.
const DISMISS: Duration = Duration::from_secs(1);

/// New process: takes over from the old one behind `channel`, and publishes what that still takes.
///
/// # Errors
/// When the old process breaks off.
pub(crate) fn follow(registrar: &Arc<Registrar>, channel: Channel) -> io::Result<()> {
    steps::ready(&channel)?;
    let publisher = Arc::clone(&registrar.processor.publisher);
    let hear = move || {
        steps::hear_out(&channel, |message| {
            publisher.publish(message.into());
        });
    };
    std::thread::Builder::new().name("predecessor".to_owned()).spawn(hear).map(drop)
}

/// Old process: serves a successor; the time that it leaves to this process. Blocks; within a runtime's
/// context.
///
/// # Errors
/// When the successor breaks off; then this process goes on.
pub(crate) fn serve(registrar: &Registrar, channel: Channel, pid: u32) -> io::Result<Duration> {
    let publisher = &registrar.processor.publisher;
    let heeded = steps::heed(&channel, || publisher.stop_accepting());
    let left = heeded.inspect_err(|error| {
        let message = format!("process {pid} wanted to take over and broke off: {error}");
        log::line(Level::Error, &message, &[]);
        publisher.accept_again();
    })?;
    registrar.stop.stop();
    process::notify(&format!("MAINPID={pid}"));
    log::line(Level::Info, "another process serves, finishing what has begun", &[("pid", &pid)]);
    // Requests that are answered from now on are published by the successor. When it is gone again,
    // nobody subscribes.
    steps::stopped(&channel)?;
    publisher.redirect(move |message| drop(channel.send(&message, &[])));
    tokio::runtime::Handle::current().block_on(publisher.dismiss(DISMISS));
    Ok(left)
}
