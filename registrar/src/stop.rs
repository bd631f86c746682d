//! The end of taking work: listeners are left to a successor, connections finish what they began.

use tokio::sync::watch;

/// Tells every listener and connection that no more work is taken.
#[derive(Debug)]
pub struct Stop(watch::Sender<bool>);

/// One listener's or connection's end of it.
#[derive(Debug, Clone)]
pub struct Stopped(watch::Receiver<bool>);

impl Default for Stop {
    fn default() -> Self {
        Self(watch::channel(false).0)
    }
}

impl Stop {
    /// From now on no more work is taken.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    /// An end to wait at.
    pub fn watch(&self) -> Stopped {
        Stopped(self.0.subscribe())
    }
}

impl Stopped {
    /// Returns when no more work is taken.
    pub async fn wait(&mut self) {
        // Without a sender nobody can say stop any more.
        if self.0.wait_for(|stopped| *stopped).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
